"""The rate limiter: a caller gets at most the burst and the refill, and waits no longer than necessary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tkdb import rate_limit
from tkdb.rate_limit import RateLimiter


class Clock:
    now_ms = 0


def make(burst: int = 3, every_ms: int = 100) -> tuple[RateLimiter, Clock]:
    clock = Clock()
    return RateLimiter(burst=burst, every_ms=every_ms, monotonic_ms=lambda: clock.now_ms), clock


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from([b"a", b"b"]))))
def test_no_time_span_allows_more_than_the_burst_and_the_refill(steps: list[tuple[int, bytes]]) -> None:
    limiter, clock = make()
    taken: dict[bytes, list[int]] = {b"a": [], b"b": []}
    for wait_ms, key in steps:
        clock.now_ms += wait_ms
        retry_ms = limiter.take(key)
        times = taken[key]
        if not retry_ms:
            times.append(clock.now_ms)
        for index, start_ms in enumerate(times):
            assert len(times) - index <= 3 + (clock.now_ms - start_ms) // 100
        # Each permit returns after 100 ms, so no caller has to wait longer.
        assert retry_ms <= 100


@given(st.integers(1, 20))
def test_a_caller_that_waits_the_returned_time_gets_one_permit(refusals: int) -> None:
    limiter, clock = make()
    for _ in range(3):
        assert limiter.take(b"a") == 0
    # A refused attempt doesn't make the wait longer.
    assert {limiter.take(b"a") for _ in range(refusals)} == {100}
    clock.now_ms += 99
    assert limiter.take(b"a") == 1
    clock.now_ms += 1
    assert limiter.take(b"a") == 0


def test_many_keys_use_bounded_memory() -> None:
    limiter, _ = make()
    for index in range(rate_limit.KEYS_MAX + 100):
        limiter.take(index.to_bytes(4))
    assert len(limiter._full_at_ms) == rate_limit.KEYS_MAX


def test_a_returned_permit_can_be_taken_again_once() -> None:
    limiter, _ = make()
    limiter.give_back(b"a")
    assert [limiter.take(b"a") for _ in range(4)] == [0, 0, 0, 100]
    limiter.give_back(b"a")
    assert [limiter.take(b"a") for _ in range(2)] == [0, 100]
