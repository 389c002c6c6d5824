"""The catalogue is complete, and each drill describes itself."""

from __future__ import annotations

from tkdb_ops.drills.catalogue import DRILLS, NAMES
from tkdb_ops.drills.drill import Role, Verb
from tkdb_ops.drills.objectives import USUAL


def test_each_drill_has_a_unique_name_and_a_description() -> None:
    assert len(set(NAMES)) == len(DRILLS)
    assert all(drill.title and drill.shows.endswith(".") and drill.fault for drill in DRILLS)


def test_every_limit_names_an_objective() -> None:
    assert {name for drill in DRILLS for name in drill.limits} <= set(USUAL)


def test_every_verb_is_used() -> None:
    used = {step.verb for drill in DRILLS for step in (*drill.fault, *drill.mend)}
    assert used == set(Verb)


def test_a_drill_without_any_store_or_machine_blinds_all_callers() -> None:
    longer_than_the_bound_ms = 5_000
    for drill in DRILLS:
        everyone = any(
            step.at is Role.EVERY and step.verb in (Verb.KILL, Verb.STALL_STORE, Verb.CUT_STORE) for step in drill.fault
        )
        if everyone and drill.fault_s * 1_000 > longer_than_the_bound_ms:
            assert drill.blinds is Role.EVERY, drill.name
