"""Negative controls: a drill that can't fail proves nothing, so each one here fails on machines without a rule."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import tkdb_replication
from tests.cli.processes import quick
from tests.ops.drills.lab_drills import DEPOSED, PACE, STORE_DOWN, WITHOUT_STORE, WRITING, Trusting, missed, run_drills
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
def test_without_a_rule_of_the_machines_its_drill_fails(
    folder: Path, control: str, drill: Drill, pace: Pace, objective: str
) -> None:
    ((_, verdict),) = run_drills(folder, [drill], control, kind=Trusting, pace=pace)
    assert objective in missed(verdict)


@pytest.mark.slow
def test_with_every_rule_the_same_drills_pass_with_the_same_callers(folder: Path) -> None:
    results = run_drills(folder, [DEPOSED, WITHOUT_STORE], kind=Trusting, pace=WRITING)
    assert [missed(verdict) for _, verdict in results] == [set(), set()]
    assert all(verdict.figures.took_over_ms is not None for _, verdict in results)


@pytest.mark.parametrize("control", CONTROLS)
def test_no_option_or_setting_switches_a_rule_off(control: str) -> None:
    assert quick(control, "serve").code == 2
    assert quick("serve", f"--without={control}").code == 2
    ran = quick("serve", env={"TKDB_WITHOUT": control})
    assert (ran.code, "TKDB_WITHOUT: there is no such setting" in ran.err) == (2, True)


@pytest.mark.parametrize("part", [StateMachine, Epoch, Publication, HeadReader, Freshness, Follower])
def test_no_shipped_class_weakens_a_rule(part: type) -> None:
    for module in walk_packages(tkdb_replication.__path__, "tkdb_replication."):
        import_module(module.name)
    assert [each for each in _below(part) if not each.__module__.startswith("tests.")] == []


def _below(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
