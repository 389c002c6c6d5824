"""Waits stay within their bounds, and retries within their budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tkdb.net.backoff import Backoff
from tkdb_client.calls.retry_budget import RetryBudget

jitters = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10**6), jitters, st.integers(-5, 10**12), st.integers(1, 500), st.integers(1, 10_000))
def test_a_wait_is_within_its_bounds(retry: int, jitter: float, at_least_ms: int, base_ms: int, cap_ms: int) -> None:
    backoff = Backoff(base_ms=base_ms, cap_ms=cap_ms, floor_cap_ms=5_000)
    floor_ms = min(max(at_least_ms, 0), 5_000)
    wait_ms = backoff.wait_ms(retry, jitter=jitter, at_least_ms=at_least_ms)
    assert floor_ms <= wait_ms <= floor_ms + min(cap_ms, base_ms * 2 ** min(retry, 32))


def test_the_jitter_is_full() -> None:
    backoff = Backoff(base_ms=100, cap_ms=1_000)
    assert [backoff.wait_ms(retry, jitter=0.0) for retry in range(6)] == [0] * 6
    assert [backoff.wait_ms(retry, jitter=0.999) for retry in range(6)] == [99, 199, 399, 799, 999, 999]


def test_clients_with_the_same_required_wait_retry_at_different_times() -> None:
    waits = {Backoff().wait_ms(2, jitter=jitter / 10, at_least_ms=500) for jitter in range(10)}
    assert len(waits) == 10
    assert min(waits) == 500


steps = st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=300)


@given(steps, st.floats(0, 1), st.floats(0, 20), st.integers(0, 50))
def test_retries_never_exceed_the_budget(
    events: list[tuple[int, bool]], share: float, floor_per_s: float, reserve: int
) -> None:
    budget = RetryBudget(share=share, floor_per_s=floor_per_s, reserve=reserve)
    now_ms, calls, retries = 0, 0, 0
    for passed_ms, is_call in events:
        now_ms += passed_ms
        if is_call:
            budget.deposit()
            calls += 1
        elif budget.withdraw(now_ms=now_ms):
            retries += 1
        assert retries <= reserve + share * calls + floor_per_s * now_ms / 1000 + 1e-6


def test_an_empty_budget_refills_with_time_alone() -> None:
    budget = RetryBudget(share=0, floor_per_s=10, reserve=1)
    assert budget.withdraw(now_ms=0)
    assert not budget.withdraw(now_ms=50)
    assert budget.withdraw(now_ms=100)


def test_a_clock_that_goes_back_refills_nothing() -> None:
    budget = RetryBudget(share=0, floor_per_s=10, reserve=1)
    assert budget.withdraw(now_ms=10_000)
    assert not budget.withdraw(now_ms=0)
