"""The pure rules that choose a region, and the circuit breaker, on clocks that only the test moves."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb_client.calls import regions as rules
from tkdb_client.calls.circuit_breaker import FAILURES, OPEN_MAX_MS, OPEN_MS, BreakerState, CircuitBreaker
from tkdb_client.calls.regions import MARGIN_MS, MARGIN_SHARE, Regions

MINUTE_MS = 60_000

events = st.tuples(
    st.integers(0, 3_000),  # the time since the last event
    st.sampled_from(["answered", "far", "refused", "silent", "due", "wrote", "no write"]),
    st.integers(0, 3),
    st.floats(0.1, 400),
    st.integers(0, 5_000),  # the duration of the attempt
)
schedules = st.lists(events, max_size=80)


def play(regions: Regions, now_ms: int, event: tuple[int, str, int, float, int]) -> None:
    _, what, region, rtt_ms, took_ms = event
    match what:
        case "answered":
            regions.answered(region, now_ms)
        case "far":
            regions.answered(region, now_ms, rtt_ms)
        case "due":
            regions.due(now_ms)
        case "wrote" | "no write":
            regions.wrote(region, well=what == "wrote")
        case _:
            regions.failed(region, now_ms, now_ms - took_ms, at_once=what == "silent")


def at_distances(*rtts_ms: float) -> Regions:
    regions = Regions(len(rtts_ms))
    for _ in range(rules.FEW):
        for region, rtt_ms in enumerate(rtts_ms):
            regions.answered(region, 0, rtt_ms)
    return regions


@given(schedules)
def test_regions_with_a_closed_breaker_come_first(schedule: list[tuple[int, str, int, float, int]]) -> None:
    regions, now_ms = Regions(4), 0
    for event in schedule:
        now_ms += event[0]
        play(regions, now_ms, event)
        for writing in (False, True):
            order = regions.order(now_ms, writing=writing)
            assert sorted(order) == [0, 1, 2, 3]
            healthy = [regions.is_well(region, now_ms) for region in order]
            assert healthy == sorted(healthy, reverse=True)
        if any(healthy):
            assert regions.is_well(regions.home, now_ms)


@given(schedules)
def test_the_home_comes_first_and_the_others_follow_by_distance(
    schedule: list[tuple[int, str, int, float, int]],
) -> None:
    regions, now_ms = Regions(4), 0
    for event in schedule:
        now_ms += event[0]
        play(regions, now_ms, event)
        healthy = [region for region in regions.order(now_ms) if regions.is_well(region, now_ms)]
        assert healthy[:1] in ([], [regions.home])
        far = [rtt_ms if (rtt_ms := regions.rtt_ms(region)) is not None else float("inf") for region in healthy[1:]]
        assert far == sorted(far)


@given(st.floats(0.1, 1_000), st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), max_size=200))
def test_regions_at_similar_distances_do_not_alternate(base_ms: float, samples: list[tuple[int, float]]) -> None:
    """All round trips differ by less than the margin."""
    width_ms = max(MARGIN_MS, MARGIN_SHARE * base_ms) * 0.99
    regions, homes = Regions(3), set()
    for now_ms, (region, share) in enumerate(samples):
        regions.answered(region, now_ms, base_ms + width_ms * share)
        homes.add(regions.home)
    assert homes <= {0}


def test_without_the_margin_similar_regions_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MARGIN_MS", 0)
    monkeypatch.setattr(rules, "MARGIN_SHARE", 0)
    regions, homes = Regions(2), []
    for now_ms in range(40):
        regions.answered(now_ms % 2, now_ms, 50 + (now_ms // 4) % 3)
        homes.append(regions.home)
    assert sum(before != after for before, after in pairwise(homes)) > 4


@given(st.lists(st.floats(1, 400), min_size=2, max_size=5), st.data())
def test_the_home_moves_to_the_nearest_other_region_and_back(rtts_ms: list[float], data: st.DataObject) -> None:
    regions = at_distances(*rtts_ms)
    home = regions.home
    nearest_first = sorted(range(len(rtts_ms)), key=rtts_ms.__getitem__)
    margin_ms = max(MARGIN_MS, MARGIN_SHARE * rtts_ms[home])
    assert rtts_ms[home] - rtts_ms[nearest_first[0]] <= margin_ms

    regions.failed(home, 1_500, 0, at_once=True)
    others = [region for region in nearest_first if region != home]
    assert regions.order(1_500) == [*others, home]
    assert regions.home == others[0]

    assert regions.due(1_500 + OPEN_MS) == home
    regions.answered(home, 1_500 + OPEN_MS, rtts_ms[home])
    is_nearer = rtts_ms[home] < rtts_ms[others[0]] - max(MARGIN_MS, MARGIN_SHARE * rtts_ms[others[0]])
    if is_nearer:
        assert regions.home == home
    assert regions.home in (home, nearest_first[0], others[0])


def test_a_client_in_singapore_tries_sydney_then_amsterdam_then_virginia() -> None:
    regions = at_distances(225, 165, 93)
    assert regions.order(0) == [2, 1, 0]
    regions.failed(2, 1_500, 0, at_once=True)
    assert regions.order(1_500) == [1, 0, 2]
    regions.failed(1, 1_500, 0, at_once=True)
    assert regions.order(1_500) == [0, 2, 1]
    regions.answered(2, 3_000)
    assert regions.order(3_000)[0] == 2


def test_calls_go_to_the_first_region_until_distances_are_known() -> None:
    regions = Regions(3)
    assert regions.order(0) == [0, 1, 2]
    regions.answered(2, 0, 5.0)
    assert regions.order(0)[0] == 0  # The distance of region 0 isn't known yet.
    regions.answered(0, 0, 90.0)
    assert regions.order(0) == [2, 0, 1]


def test_a_write_goes_to_the_region_of_the_last_write_while_it_is_healthy() -> None:
    regions = at_distances(10, 100, 200)
    regions.wrote(2, well=True)
    assert regions.order(0, writing=True) == [2, 0, 1]
    assert regions.order(0) == [0, 1, 2]
    regions.failed(2, 1_500, 0, at_once=True)
    assert regions.order(1_500, writing=True) == [0, 1, 2]
    regions.answered(2, 1_600)
    regions.wrote(2, well=False)
    assert regions.order(1_600, writing=True) == [0, 1, 2]


@given(schedules, st.integers(1, 500))
def test_probes_are_rare_and_an_open_breaker_gets_one_trial(
    schedule: list[tuple[int, str, int, float, int]], step_ms: int
) -> None:
    regions, now_ms = Regions(4), 0
    probed: dict[int, int] = {}
    for event in schedule:
        now_ms += event[0]
        play(regions, now_ms, (event[0], "answered", *event[2:]) if event[1] == "due" else event)
        for _ in range(8):
            now_ms += step_ms
            healthy = {region: regions.is_well(region, now_ms) for region in range(4)}
            region = regions.due(now_ms)
            if region is None:
                continue
            assert now_ms - probed.get(region, -MINUTE_MS) >= rules.PROBE_FIRST_MS or not healthy[region]
            assert healthy[region] == regions.is_well(region, now_ms)
            assert regions.due(now_ms) != region
            probed[region] = now_ms


def test_a_client_with_one_call_or_one_region_sends_no_probe() -> None:
    alone, several = Regions(1), Regions(2)
    alone.answered(0, 0, 5.0)
    assert [alone.due(now_ms) for now_ms in (0, MINUTE_MS)] == [None, None]
    assert several.due(0) is None
    several.answered(0, 0, 5.0)
    assert several.due(1) == 1


def test_a_region_without_calls_is_probed_often_enough_to_keep_its_connection() -> None:
    regions = at_distances(10, 100)
    asked = [now_ms for now_ms in range(0, 10 * MINUTE_MS, 500) if regions.due(now_ms) == 1]
    gaps = {after - before for before, after in pairwise(asked)}
    assert gaps == {rules.PROBE_MS}
    assert rules.PROBE_MS < 55_000


def test_a_distance_follows_new_round_trip_times() -> None:
    regions = at_distances(93, 165)
    for now_ms in range(12):
        regions.answered(0, now_ms, 300)
    assert regions.home == 1
    usual_ms = regions.usual_ms(0)
    assert usual_ms is not None
    assert 280 < usual_ms < 600


@given(st.floats(0.1, 5_000), st.integers(1, 10_000))
def test_the_timeout_of_an_attempt_is_within_its_limits_and_covers_the_round_trip(
    rtt_ms: float, at_most_ms: int
) -> None:
    regions = at_distances(rtt_ms, 1)
    timeout_ms = regions.timeout_ms(0, at_most_ms)
    assert min(at_most_ms, rules.LEAST_TIMEOUT_MS) <= timeout_ms <= at_most_ms
    assert timeout_ms >= min(at_most_ms, rtt_ms)


def test_a_breaker_opens_after_one_silence_or_three_refusals() -> None:
    silent, refused = CircuitBreaker(), CircuitBreaker()
    silent.failed(10, 0, at_once=True)
    assert silent.state(10) is BreakerState.OPEN
    for count in range(1, FAILURES + 1):
        assert refused.state(count) is BreakerState.CLOSED
        refused.failed(count, count, at_once=False)
    assert refused.state(FAILURES) is BreakerState.OPEN


def test_an_answer_between_refusals_resets_the_count() -> None:
    breaker = CircuitBreaker()
    for now_ms in range(10):
        breaker.failed(now_ms, now_ms, at_once=False)
        breaker.failed(now_ms, now_ms, at_once=False)
        breaker.answered(now_ms)
    assert breaker.state(10) is BreakerState.CLOSED


def test_each_failed_trial_doubles_the_open_time_up_to_a_limit() -> None:
    breaker, now_ms, opened = CircuitBreaker(), 0, []
    breaker.failed(0, 0, at_once=True)
    for _ in range(6):
        began_ms = now_ms
        while breaker.state(now_ms) is BreakerState.OPEN:
            now_ms += 100
        opened.append(now_ms - began_ms)
        breaker.failed(now_ms, now_ms, at_once=False)
    assert opened == [1_000, 2_000, 4_000, 5_000, 5_000, 5_000]
    assert opened[-1] == OPEN_MAX_MS
    breaker.answered(now_ms)
    breaker.failed(now_ms, now_ms, at_once=True)
    assert breaker.state(now_ms + OPEN_MS) is BreakerState.HALF_OPEN


def test_attempts_that_start_together_count_as_one_failure() -> None:
    breaker = CircuitBreaker()
    for _ in range(50):
        breaker.failed(1_500, 0, at_once=True)
    assert breaker.state(1_500 + OPEN_MS) is BreakerState.HALF_OPEN


def test_a_failed_attempt_from_before_the_recovery_is_ignored() -> None:
    breaker = CircuitBreaker()
    breaker.failed(1_500, 0, at_once=True)
    breaker.answered(2_500)
    breaker.failed(2_600, 1_100, at_once=True)
    assert breaker.state(2_600) is BreakerState.CLOSED
    breaker.failed(4_200, 2_700, at_once=True)
    assert breaker.state(4_200) is BreakerState.OPEN


def test_a_trial_without_an_outcome_is_followed_by_another() -> None:
    breaker = CircuitBreaker()
    breaker.failed(0, 0, at_once=True)
    breaker.try_once(OPEN_MS)
    assert breaker.state(OPEN_MS) is BreakerState.OPEN
    assert breaker.state(2 * OPEN_MS) is BreakerState.HALF_OPEN
