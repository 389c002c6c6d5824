"""A drill that can't fail shows nothing: with a rule switched off in real machines, the drill that should fail does."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import tkdb_replication
from tests.cli.processes import quick
from tests.ops.drills.drilled import DEPOSED, PACE, STORE_DOWN, WITHOUT_STORE, WRITING, Trusting, drilled, missed
from tests.regions.chaos.controls import CONTROLS
from tkdb_ops.drills.drill import Drill
from tkdb_ops.drills.run import Pace
from tkdb_replication.protocol.epoch import Epoch
from tkdb_replication.protocol.follower import Follower
from tkdb_replication.protocol.freshness import Freshness
from tkdb_replication.protocol.publication import Publication
from tkdb_replication.protocol.reader import HeadReader
from tkdb_replication.protocol.state_machine import StateMachine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("control", "drill", "pace", "objective"),
    [
        ("no fence", DEPOSED, WRITING, "lost_writes"),
        ("acknowledged at the commit", WITHOUT_STORE, WRITING, "lost_writes"),
        ("no freshness check", STORE_DOWN, PACE, "blind_accepts"),
    ],
)
def test_with_a_rule_switched_off_the_drill_that_should_fail_does(
    folder: Path, control: str, drill: Drill, pace: Pace, objective: str
) -> None:
    ((_, verdict),) = drilled(folder, [drill], control, kind=Trusting, pace=pace)
    assert objective in missed(verdict)


@pytest.mark.slow
def test_with_every_rule_on_the_same_callers_find_nothing_in_the_same_drills(folder: Path) -> None:
    ended = drilled(folder, [DEPOSED, WITHOUT_STORE], kind=Trusting, pace=WRITING)
    assert [missed(verdict) for _, verdict in ended] == [set(), set()]
    assert all(verdict.figures.took_over_ms is not None for _, verdict in ended)


@pytest.mark.parametrize("control", CONTROLS)
def test_production_takes_no_switch(control: str) -> None:
    assert quick(control, "serve").code == 2
    assert quick("serve", f"--without={control}").code == 2
    ran = quick("serve", env={"TKDB_WITHOUT": control})
    assert (ran.code, "TKDB_WITHOUT: there is no such setting" in ran.err) == (2, True)


@pytest.mark.parametrize("part", [StateMachine, Epoch, Publication, HeadReader, Freshness, Follower])
def test_what_is_shipped_knows_a_machine_with_all_its_rules_only(part: type) -> None:
    for module in walk_packages(tkdb_replication.__path__, "tkdb_replication."):
        import_module(module.name)
    assert [each for each in _below(part) if not each.__module__.startswith("tests.")] == []


def _below(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
