from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tkdb import rate_limit
from tkdb.rate_limit import RateLimiter


class Turned:
    now_ms = 0


def make(burst: int = 3, every_ms: int = 100) -> tuple[RateLimiter, Turned]:
    clock = Turned()
    return RateLimiter(burst=burst, every_ms=every_ms, monotonic_ms=lambda: clock.now_ms), clock


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from([b"a", b"b"]))))
def test_in_no_span_is_more_taken_than_the_burst_and_what_the_time_gives(steps: list[tuple[int, bytes]]) -> None:
    limiter, clock = make()
    taken: dict[bytes, list[int]] = {b"a": [], b"b": []}
    for wait_ms, key in steps:
        clock.now_ms += wait_ms
        told_ms = limiter.take(key)
        times = taken[key]
        if not told_ms:
            times.append(clock.now_ms)
        for index, start_ms in enumerate(times):
            assert len(times) - index <= 3 + (clock.now_ms - start_ms) // 100
        # What it says is true: no sooner, and then really.
        assert told_ms <= 100


@given(st.integers(1, 20))
def test_whoever_waits_as_told_gets_one(refusals: int) -> None:
    limiter, clock = make()
    for _ in range(3):
        assert limiter.take(b"a") == 0
    # Asking in vain costs nothing.
    assert {limiter.take(b"a") for _ in range(refusals)} == {100}
    clock.now_ms += 99
    assert limiter.take(b"a") == 1
    clock.now_ms += 1
    assert limiter.take(b"a") == 0


def test_strangers_can_not_fill_the_memory() -> None:
    limiter, _ = make()
    for index in range(rate_limit.KEYS_MAX + 100):
        limiter.take(index.to_bytes(4))
    assert len(limiter._full_at_ms) == rate_limit.KEYS_MAX


def test_what_is_given_back_can_be_taken_again_and_no_more() -> None:
    limiter, _ = make()
    limiter.give_back(b"a")
    assert [limiter.take(b"a") for _ in range(4)] == [0, 0, 0, 100]
    limiter.give_back(b"a")
    assert [limiter.take(b"a") for _ in range(2)] == [0, 100]
