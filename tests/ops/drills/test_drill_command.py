"""``tkdb drill`` at a terminal: the list of drills, refusals, and results as text and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.cli.processes import quick
from tests.ops.drills.records import good, with_calls
from tkdb.cli import drill_progress
from tkdb_ops.drills.catalogue import DRILLS, find
from tkdb_ops.drills.fly_target import can as can_fly
from tkdb_ops.drills.lab_target import can as can_lab
from tkdb_ops.drills.objectives import Objectives
from tkdb_ops.drills.record import CallKind, CallOutcome, CallRecord, Record
from tkdb_ops.drills.report import Result
from tkdb_ops.drills.session import FailedRun
from tkdb_ops.drills.verdict import judge


def result(record: Record) -> Result:
    return Result(find(record.drill), record, judge(record, Objectives()))


def summary_text(record: Record) -> str:
    parts = [part if isinstance(part, str) else repr(part) for part in drill_progress.summary(result(record))]
    return "\n".join(parts)


@pytest.mark.parametrize(("target", "can"), [("lab", can_lab), ("fly", can_fly)])
def test_each_target_lists_the_drills_that_it_can_run(target: str, can: object) -> None:
    ran = quick("drill", "list", "--target", target, "--json")
    listed = [each["name"] for each in json.loads(ran.out)["drills"]]
    assert listed == [drill.name for drill in DRILLS if can(drill)]  # type: ignore[operator]
    assert len(listed) >= 5


def test_every_drill_can_run_on_some_target() -> None:
    assert all(can_lab(drill) or can_fly(drill) for drill in DRILLS)


def test_an_unknown_name_gets_the_nearest_one_as_a_hint() -> None:
    ran = quick("drill", "run", "primary-kiled")
    assert (ran.code, "did you mean primary-killed?" in ran.err) == (2, True)


def test_invalid_objectives_are_refused_before_a_drill_starts(tmp_path: Path) -> None:
    file = tmp_path / "drills.toml"
    file.write_text("[objectives]\nlost_writes = 3\n")
    ran = quick("drill", "run", "primary-killed", "--objectives", str(file))
    assert (ran.code, "lost_writes is always 0" in ran.err) == (2, True)
    ran = quick("drill", "run", "primary-killed", "--objectives", str(tmp_path / "none.toml"))
    assert (ran.code, "can't be read" in ran.err) == (2, True)


def test_a_folder_that_can_not_be_created_is_refused_before_a_drill_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = quick("drill", "run", "primary-killed", "--folder", str(tmp_path / "file"))
    assert (ran.code, "can't be created" in ran.err) == (2, True)


def test_a_summary_contains_the_verdict_and_the_command_to_repeat_the_drill() -> None:
    text = summary_text(good())
    for words in (
        "warm up",
        "kill m-iad",
        "writes back after 7.3 s",
        "0 of 4 acknowledged writes lost",
        "verdict: pass",
    ):
        assert words in text
    assert "again: tkdb drill run primary-killed --seed 41" in text


def test_the_summary_of_a_failed_drill_contains_the_missed_objective() -> None:
    slow = CallRecord(12_000, "sin", CallKind.VERIFY, 2_500, CallOutcome.OK, token=1)
    assert "verdict: fail   longest read ≤ 2.0 s: 2.5 s ✗" in summary_text(with_calls(good(), slow))


def test_the_document_contains_figures_objectives_and_failed_runs() -> None:
    document = msgspec.to_builtins(drill_progress.document(result(good())))
    assert (document["passed"], document["figures"]["writes_back_ms"]) == (True, 7_300)
    assert {each["objective"] for each in document["objectives"]} == set(Objectives.__struct_fields__)
    failed_run = drill_progress.document(FailedRun(find("store-down"), "unavailable", "no lab", "try again"))
    assert (failed_run["passed"], failed_run["error"]["message"]) == (None, "no lab")
