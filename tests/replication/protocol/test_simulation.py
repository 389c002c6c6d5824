"""The simulation in the test run: no schedule violates a guarantee, and each rule that is switched off is missed.

``make simulate SECONDS=600`` runs as many schedules as fit into the time.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests import profiles
from tests.replication.protocol.simulation import judge
from tests.replication.protocol.simulation.controls import CONTROLS, Control
from tests.replication.protocol.simulation.schedules import first_found, run, run_seeds
from tests.replication.protocol.simulation.world import World

SCHEDULES = profiles.CURRENT.schedules
SEEDS_MOST = 1_000
"""The rarest control is found in about one schedule of eighty: to miss it in so many has a chance of 3e-6."""

HARM = {
    "no swap at acknowledgement": {judge.UNPUBLISHED, judge.LOST},
    "freshness by seq alone, no cut-back": {judge.SERVED, judge.STALE, judge.UNDONE, judge.ALARM},
    "freshness dated by arrival": {judge.STALE},
    "no freshness check": {judge.STALE},
    "eventual reads of the store": {judge.STALE},
    "a clock that stops": {judge.STALE},
    "identical head bytes": {judge.SERVED, judge.UNPUBLISHED, judge.WENT_BACK, judge.ALARM, judge.STUCK},
    "old heads not ignored": {judge.WENT_BACK},
    "late answers not dropped": {judge.WENT_BACK},
    "412 taken as success": {judge.SERVED, judge.ALARM, judge.UNPUBLISHED},
    "takeover in two steps": {judge.UNRECOVERABLE},
    "recovery in two steps": {judge.LOST},
    "a commit in doubt taken as success": {judge.WENT_BACK, judge.UNRECOVERABLE, judge.LOST},
    "one path for all epochs": {judge.UNRECOVERABLE},
    "a shared identity that resumes": {judge.TWO_WRITERS, judge.UNRECOVERABLE},
    "entries leave recent unsynced": {judge.UNRECOVERABLE},
    "a stalled sync believed": {judge.UNRECOVERABLE},
    "a sync credited with what came later": {judge.UNRECOVERABLE},
    "takeover without a sync": {judge.UNRECOVERABLE},
    "what was seen not kept on disk": {judge.WENT_BACK},
    "freshness before it is served": {judge.STALE, judge.UNDONE},
    "the primary shows what no head names": {judge.SERVED, judge.WENT_BACK, judge.ALARM},
    "a repeated request answered at once": {judge.UNPUBLISHED},
}


@pytest.mark.slow
def test_no_schedule_violates_a_guarantee() -> None:
    half, first = SCHEDULES // 2, profiles.fresh_seed()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(run_seeds, each, each + half) for each in (first, first + half)]:
            counts, finding = done.result()
            assert finding is None, f"see: python -m tests.replication.protocol.simulation --seed {finding.seed}"
            assert counts.schedules == half
            # The weather was bad enough for this to mean something.
            assert counts.revocations > 10 * half
            assert counts.epochs > half
            assert counts.crashes > half


@pytest.mark.parametrize("name", CONTROLS)
def test_a_rule_that_is_switched_off_is_missed(name: str) -> None:
    first = profiles.fresh_seed()
    finding = first_found(name, start=first, most=SEEDS_MOST)
    assert finding is not None, f"no schedule from seed {first} on has shown it"
    assert finding.violation.kind in HARM[name]


def test_every_control_says_what_harm_it_does() -> None:
    assert HARM.keys() == CONTROLS.keys()


def test_a_store_of_eventual_reads_is_noticed() -> None:
    alarms = 0
    for seed in range(100):
        told: list[str] = []
        World(seed, Control(eventual_reads=True), tell=lambda _, text, told=told: told.append(text)).run()
        alarms += any("alarm: the head went back" in text for text in told)
    assert alarms > 50


def test_a_schedule_follows_from_its_seed() -> None:
    def story(seed: int) -> list[tuple[int, str]]:
        told: list[tuple[int, str]] = []
        World(seed, tell=lambda at_ms, text: told.append((at_ms, text))).run()
        return told

    assert story(5) == story(5) != story(6)


def test_what_is_counted_is_what_was_run() -> None:
    counts, finding = run(range(10))
    assert (counts.schedules, counts.violating, finding) == (10, 0, None)
