"""Calls to several regions, of which some are healthy, in thousands of simulated schedules."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import profiles
from tests.client.fake_authority import report
from tests.client.simulated import Ended, Simulated
from tkdb import api, errors
from tkdb_client.calls.circuit_breaker import OPEN_MAX_MS

FEED = api.Revocations(kids=[b"k" * 16], after=0)
"""A read that no probe makes."""

ROTATE = api.RotateKey(name="acme")

FAULTS = ["hang", "refuse", "reset", "503", errors.StaleAuthority("6 s behind"), errors.Draining("going away")]
SPAN_MS = 3_000

schedules = st.lists(st.sampled_from(["ok", "ok", *FAULTS]), min_size=1, max_size=20)
"""The outcomes of calls in one region, one for each ``SPAN_MS``."""

several_regions = st.lists(st.tuples(st.integers(1, 300), schedules), min_size=2, max_size=4)
waits = st.lists(st.integers(0, 4_000), min_size=1, max_size=25)


def answer(call: Any) -> Any:
    if isinstance(call, api.Revocations):
        return api.Feed(position=1, revocations=[], more=False)
    return report() if isinstance(call, api.Status) else api.Organization("acme", 1, 1, [])


def half_jitter(size: int) -> bytes:
    return b"\x80\0\0\0" if size == 4 else os.urandom(size)


def simulate(*rtts_ms: int, world: Any, **given: Any) -> Simulated:
    simulated = Simulated(*rtts_ms, world=world, **({"random": half_jitter} | given))
    simulated.handler = answer
    return simulated


def read(simulated: Simulated) -> Ended:
    return simulated.call(api.VERIFY, FEED)


def write(simulated: Simulated) -> Ended:
    return simulated.call(api.WRITE, ROTATE)


def world_of(regions: list[tuple[int, list[Any]]], healthy: int | None = None) -> Any:
    """Return the world in which each region follows its schedule. The region ``healthy`` always answers."""

    def world(region: int, _call: Any, at_ms: int) -> Any:
        schedule = regions[region][1]
        return "ok" if region == healthy else schedule[at_ms // SPAN_MS % len(schedule)]

    return world


@settings(max_examples=profiles.CURRENT.many_examples, deadline=None)
@given(several_regions, waits, st.data())
def test_no_call_fails_while_one_region_is_healthy(
    regions: list[tuple[int, list[Any]]], waits: list[int], data: st.DataObject
) -> None:
    healthy = data.draw(st.integers(0, len(regions) - 1))
    simulated = simulate(*(rtt_ms for rtt_ms, _ in regions), world=world_of(regions, healthy))
    for wait_ms in waits:
        ended = read(simulated)
        assert isinstance(ended.result, api.Feed)
        asked = [attempt.region for attempt in ended.attempts]
        assert len(set(asked)) == len(asked)  # No region is asked twice, because one round is enough.
        assert ended.took_ms <= 1_500 * (len(regions) - 1) + regions[healthy][0]
        simulated.wait(wait_ms)


@settings(max_examples=profiles.CURRENT.many_examples, deadline=None)
@given(several_regions, st.data(), st.sampled_from([*FAULTS[:4]]), waits)
def test_a_recovered_region_is_found_although_its_breaker_is_open(
    regions: list[tuple[int, list[Any]]], data: st.DataObject, fault: Any, waits: list[int]
) -> None:
    """One region is down, and then recovers. From then on, no other region answers."""
    healthy = data.draw(st.integers(0, len(regions) - 1))
    back_ms = 20_000

    def world(region: int, call: Any, at_ms: int) -> Any:
        if at_ms < back_ms:
            return fault if region == healthy else world_of(regions)(region, call, at_ms)
        schedule = [each for each in regions[region][1] if each != "ok"]
        return "ok" if region == healthy else schedule[at_ms // SPAN_MS % len(schedule)] if schedule else "hang"

    simulated = simulate(*(rtt_ms for rtt_ms, _ in regions), world=world, timeout_ms=30_000)
    for wait_ms in waits:
        read(simulated)
        simulated.wait(wait_ms)
    simulated.wait(back_ms)
    ended = read(simulated)
    assert isinstance(ended.result, api.Feed)
    assert ended.took_ms <= OPEN_MAX_MS + 1_500 * 2 * len(regions)


@settings(max_examples=profiles.CURRENT.many_examples, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=4), st.integers(2, 30))
def test_a_hung_region_costs_one_attempt_of_one_call(rtts_ms: list[int], calls: int) -> None:
    hung_from_ms = 60_000

    def world(region: int, _call: Any, at_ms: int) -> Any:
        return "hang" if region == home and at_ms >= hung_from_ms else "ok"

    home = -1
    simulated = simulate(*rtts_ms, world=world)
    for _ in range(20):
        first = read(simulated).attempts[0].region
        simulated.wait(1_000)
    home = first
    simulated.wait(hung_from_ms)
    ended = [read(simulated) for _ in range(calls)]
    assert all(isinstance(each.result, api.Feed) for each in ended)
    assert [attempt.region for each in ended for attempt in each.attempts].count(home) == 1
    assert max(each.took_ms for each in ended) <= 1_500 + max(rtts_ms)


def test_without_the_breaker_every_call_waits_for_the_hung_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tkdb_client.calls.circuit_breaker.CircuitBreaker.failed", lambda *_, **__: None)
    simulated = simulate(10, 20, world=lambda region, *_: "ok" if region else "hang")
    assert [read(simulated).took_ms for _ in range(3)] == [1_520] * 3


@settings(max_examples=profiles.CURRENT.many_examples, deadline=None)
@given(several_regions, waits)
def test_a_call_always_ends_by_its_deadline_with_one_request_id(
    regions: list[tuple[int, list[Any]]], waits: list[int]
) -> None:
    simulated = simulate(*(rtt_ms for rtt_ms, _ in regions), world=world_of(regions), timeout_ms=5_000)
    for wait_ms in waits:
        for ask in (read, write):
            ended = ask(simulated)
            assert ended.took_ms <= 5_000
            assert not isinstance(ended.result, errors.Refused)
            assert len({attempt.request_id for attempt in ended.attempts}) == 1
        simulated.wait(wait_ms)


def test_calls_move_to_the_next_region_and_return() -> None:
    down: set[int] = set()
    simulated = simulate(225, 165, 93, world=lambda region, *_: "hang" if region in down else "ok")

    def homes(calls: int = 10) -> list[int]:
        found = []
        for _ in range(calls):
            found.append(read(simulated).attempts[-1].region)
            simulated.wait(700)
        return found

    assert homes(20)[-1] == 2  # Calls move from the first region to the nearest.
    down.add(2)
    assert set(homes()) == {1}
    down.add(1)
    assert set(homes()) == {0}
    down.clear()
    simulated.wait(OPEN_MAX_MS)
    assert homes(20)[-1] == 2
    assert {attempt.region for _ in range(20) for attempt in read(simulated).attempts} == {2}


def test_failover_to_another_region_needs_no_retry_budget() -> None:
    """The budget keeps retries from overloading a region. A request to another region isn't such a retry."""
    simulated = simulate(10, 20, world=lambda region, *_: "ok" if region else "refuse")
    simulated.exchange._budget.withdraw = lambda **_: False  # type: ignore[method-assign]
    assert all(isinstance(read(simulated).result, api.Feed) for _ in range(50))


def test_an_overloaded_authority_gets_few_retries_in_each_region() -> None:
    simulated = simulate(0, 0, 0, world=lambda *_: errors.Overloaded("slow down"))
    calls = 400
    for _ in range(calls):
        assert isinstance(read(simulated).result, errors.Overloaded)
    elapsed_s = (simulated.now_ms - 1_000_000) / 1_000
    for region in range(3):
        seen = sum(attempt.region == region for attempt in simulated.attempts if attempt.call == FEED)
        assert seen <= calls + 100 + 0.2 * calls + 10 * elapsed_s


def test_a_call_leaves_a_stale_or_lagging_region_at_once() -> None:
    for error in (errors.StaleAuthority("6 s behind"), errors.Unavailable("this machine hasn't reached that position")):
        simulated = simulate(10, 20, world=lambda region, *_, error=error: error if region == 0 else "ok")
        ended = read(simulated)
        assert [attempt.region for attempt in ended.attempts] == [0, 1]
        assert ended.took_ms == 30


def test_a_probe_measures_the_round_trip_without_the_connection_setup() -> None:
    """A proxy has no open connection to a region without calls. It opens one first, which takes one more round trip."""
    asked: list[int] = []

    def world(region: int, call: Any, elapsed_ms: int) -> str:
        simulated.rtts_ms = (186 if region not in asked else 93,)
        asked.append(region)
        return "ok"

    simulated = Simulated(93, world=world)
    assert (_survey(simulated, 0).rtt_ms, len(asked)) == (93.0, 2)


def test_a_probe_reports_the_fault_of_a_stale_region() -> None:
    simulated = simulate(10, 20, world=lambda *_: "ok")
    faulty = {"fault": "the head was last read 6.1 s ago"}
    for _ in range(8):
        read(simulated)
        simulated.wait(1_000)
    simulated.handler = lambda call: msgspec.structs.replace(report(), **faulty)
    (first, second) = [_survey(simulated, region) for region in (0, 1)]
    assert (first.fault, first.health, second.rtt_ms) == (faulty["fault"], faulty["fault"], 20.0)


def _survey(simulated: Simulated, region: int) -> Any:
    found: list[Any] = []
    simulated.start(simulated.exchange.survey()[region], found.append)
    simulated.wait(5_000)
    return found[0]


def primary_at(primary: list[int]) -> Any:
    def world(region: int, call: Any, _at_ms: int) -> Any:
        if not isinstance(call, api.RotateKey) or region == primary[0]:
            return "ok"
        return errors.NoPrimary(f"this machine isn't primary: m-{primary[0]} is", hint=f"ask m-{primary[0]}")

    return world


def test_a_write_goes_first_to_the_region_that_took_the_last_one() -> None:
    primary = [2]
    simulated = simulate(10, 100, 200, world=primary_at(primary))
    assert [attempt.region for attempt in write(simulated).attempts] == [0, 1, 2]
    assert [attempt.region for attempt in write(simulated).attempts] == [2]
    assert [attempt.region for attempt in read(simulated).attempts] == [0]
    primary[0] = 1
    assert [attempt.region for attempt in write(simulated).attempts][:2] == [2, 0]
    assert [attempt.region for attempt in write(simulated).attempts] == [1]


def test_a_write_to_a_hung_primary_moves_on_with_its_request_id() -> None:
    primary, hung = [1], [False]
    world = primary_at(primary)
    simulated = simulate(10, 100, 200, world=lambda r, c, t: "hang" if hung[0] and r == 1 else world(r, c, t))
    write(simulated)
    hung[0], primary[0] = True, 2
    ended = write(simulated)
    assert isinstance(ended.result, api.Organization)
    assert [attempt.region for attempt in ended.attempts] == [1, 0, 2]
    assert len({attempt.request_id for attempt in ended.attempts}) == 1
    assert ended.took_ms == 1_500 + 10 + 200


@settings(max_examples=profiles.CURRENT.many_examples, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12_000)), min_size=1, max_size=10), st.integers(0, 5))
def test_writes_follow_the_primary_to_any_region(moves: list[tuple[int, int]], seed: int) -> None:
    primary = [seed % 3]
    simulated = simulate(10, 100, 200, world=primary_at(primary))
    for region, wait_ms in moves:
        primary[0] = region
        ended = write(simulated)
        assert isinstance(ended.result, api.Organization)
        assert ended.attempts[-1].region == region
        assert [attempt.region for attempt in write(simulated).attempts] == [region]
        simulated.wait(wait_ms)


def test_a_write_without_any_primary_raises_no_primary_and_opens_no_breaker() -> None:
    simulated = simulate(10, 20, world=primary_at([7]), timeout_ms=1_000)
    ended = write(simulated)
    assert isinstance(ended.result, errors.NoPrimary)
    assert [attempt.region for attempt in read(simulated).attempts] == [0]


def test_an_answer_of_the_authority_is_raised_rather_than_a_failed_connection() -> None:
    world = {0: errors.NoPrimary("this machine isn't primary: m-3 is", hint="ask m-3"), 1: "refuse"}
    simulated = simulate(10, 20, world=lambda region, *_: world[region], timeout_ms=500)
    assert isinstance(write(simulated).result, errors.NoPrimary)


def test_a_long_poll_measures_no_distance_and_gets_its_full_wait() -> None:
    simulated = simulate(10, 20, world=lambda *_: "ok")
    for _ in range(10):
        ended = simulated.call(api.VERIFY, FEED, wait_ms=25_000)
    assert {attempt.timeout_ms for attempt in ended.attempts} == {26_500}
    assert [each.usual_ms(0) for each in (simulated.exchange._attempts._regions,)] == [None]
