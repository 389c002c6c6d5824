"""No simulated schedule violates a guarantee, and some schedule does as soon as a rule is switched off.

``make simulate SECONDS=600`` runs as many schedules as fit into that time.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests import profiles
from tests.replication.protocol.simulation import checker
from tests.replication.protocol.simulation.controls import CONTROLS, Control
from tests.replication.protocol.simulation.schedules import first_found, run, run_seeds
from tests.replication.protocol.simulation.world import World

SCHEDULES = profiles.CURRENT.schedules
SEEDS_MOST = 1_000
"""The rarest control is found in about one of 80 schedules. The chance to miss it in 1,000 is 3e-6."""

HARM = {
    "no swap at acknowledgement": {checker.UNPUBLISHED, checker.LOST},
    "freshness by seq alone, no cut-back": {checker.SERVED, checker.STALE, checker.UNDONE, checker.ALARM},
    "freshness dated by arrival": {checker.STALE},
    "no freshness check": {checker.STALE},
    "eventual reads of the store": {checker.STALE},
    "a clock that stops": {checker.STALE},
    "identical head bytes": {checker.SERVED, checker.UNPUBLISHED, checker.WENT_BACK, checker.ALARM, checker.STUCK},
    "old heads not ignored": {checker.WENT_BACK},
    "late answers not dropped": {checker.WENT_BACK},
    "412 taken as success": {checker.SERVED, checker.ALARM, checker.UNPUBLISHED},
    "takeover in two steps": {checker.UNRECOVERABLE},
    "recovery in two steps": {checker.LOST},
    "a commit in doubt taken as success": {checker.WENT_BACK, checker.UNRECOVERABLE, checker.LOST},
    "one path for all epochs": {checker.UNRECOVERABLE},
    "a shared identity that resumes": {checker.TWO_WRITERS, checker.UNRECOVERABLE},
    "entries leave recent unsynced": {checker.UNRECOVERABLE},
    "a stalled sync believed": {checker.UNRECOVERABLE},
    "a sync credited with later commits": {checker.UNRECOVERABLE},
    "takeover without a sync": {checker.UNRECOVERABLE},
    "observations not kept on disk": {checker.WENT_BACK},
    "freshness before it is served": {checker.STALE, checker.UNDONE},
    "the primary serves entries that no head names": {checker.SERVED, checker.WENT_BACK, checker.ALARM},
    "a repeated request answered at once": {checker.UNPUBLISHED},
}


@pytest.mark.slow
def test_no_schedule_violates_a_guarantee() -> None:
    half, first = SCHEDULES // 2, profiles.fresh_seed()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(run_seeds, each, each + half) for each in (first, first + half)]:
            counts, finding = done.result()
            assert finding is None, f"to see it: python -m tests.replication.protocol.simulation --seed {finding.seed}"
            assert counts.schedules == half
            # Without enough revocations, epochs and crashes, the result would mean nothing.
            assert counts.revocations > 10 * half
            assert counts.epochs > half
            assert counts.crashes > half


@pytest.mark.parametrize("name", CONTROLS)
def test_switching_a_rule_off_violates_a_guarantee(name: str) -> None:
    first = profiles.fresh_seed()
    finding = first_found(name, start=first, most=SEEDS_MOST)
    assert finding is not None, f"no schedule from seed {first} on violates a guarantee"
    assert finding.violation.kind in HARM[name]


def test_every_control_lists_its_harm() -> None:
    assert HARM.keys() == CONTROLS.keys()


def test_a_store_with_eventual_reads_raises_alarms() -> None:
    alarms = 0
    for seed in range(100):
        lines: list[str] = []
        World(seed, Control(eventual_reads=True), log=lambda _, text, lines=lines: lines.append(text)).run()
        alarms += any("alarm: the head went back" in text for text in lines)
    assert alarms > 50


def test_the_seed_determines_the_schedule() -> None:
    def log_of(seed: int) -> list[tuple[int, str]]:
        lines: list[tuple[int, str]] = []
        World(seed, log=lambda at_ms, text: lines.append((at_ms, text))).run()
        return lines

    assert log_of(5) == log_of(5) != log_of(6)


def test_the_counts_match_the_schedules_that_ran() -> None:
    counts, finding = run(range(10))
    assert (counts.schedules, counts.violating, finding) == (10, 0, None)
