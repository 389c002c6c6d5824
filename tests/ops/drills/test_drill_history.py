"""Runs are appended to a file and found again, whatever happened to its last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.drills.written import changed, good
from tkdb.errors import ConfigurationError
from tkdb_ops.drills.history import FILE, Change, Run, append, compare, load
from tkdb_ops.drills.objectives import Objectives
from tkdb_ops.drills.verdict import judge


def run(seed: int = 41) -> Run:
    record = changed(good(), seed=seed)
    return Run.of(record, judge(record, Objectives()))


def test_what_is_appended_is_found_in_that_order(tmp_path: Path) -> None:
    path = tmp_path / "drills" / FILE
    assert load(path) == []
    append(path, [run(1)])
    append(path, [run(2), run(3)])
    assert load(path) == [run(1), run(2), run(3)]


def test_half_a_line_is_passed_over_and_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / FILE
    append(path, [run(1), run(2)])
    path.write_bytes(path.read_bytes()[:-30])
    assert load(path) == [run(1)]
    append(path, [run(3)])
    assert load(path) == [run(1), run(3)]


def test_a_file_that_is_something_else_is_said_to_be_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("dear diary\n")
    with pytest.raises(ConfigurationError, match="isn't a history of drills"):
        load(path)
    assert path.read_text() == "dear diary\n"


def test_a_folder_that_can_not_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't be written"):
        append(tmp_path / "file" / FILE, [run()])


def test_two_runs_are_compared_figure_by_figure() -> None:
    faster = changed(good(), writes=tuple(each for each in good().writes if each.token != 3))
    changes = {each.figure: each for each in compare(run(), Run.of(faster, judge(faster, Objectives())))}
    assert changes["writes_back_ms"] == Change("writes_back_ms", 7_300, 200)
    assert [changes[name].worse for name in ("writes_back_ms", "lost_writes", "acknowledged")] == [False, False, None]
