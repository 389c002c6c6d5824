"""The history of drills: runs are appended, even after a damaged line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.ops.drills.records import changed, good
from tkdb.errors import ConfigurationError
from tkdb_ops.drills.history import FILE, Run, append
from tkdb_ops.drills.objectives import Objectives
from tkdb_ops.drills.verdict import judge


def run(seed: int = 41) -> Run:
    record = changed(good(), seed=seed)
    return Run.from_record(record, judge(record, Objectives()))


def runs_in(path: Path) -> list[Run]:
    return [msgspec.json.decode(line, type=Run) for line in path.read_bytes().splitlines()]


def test_runs_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "drills" / FILE
    append(path, [run(1)])
    append(path, [run(2), run(3)])
    assert runs_in(path) == [run(1), run(2), run(3)]


def test_a_cut_off_line_does_not_damage_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / FILE
    append(path, [run(1), run(2)])
    path.write_bytes(path.read_bytes()[:-30])
    append(path, [run(3)])
    assert runs_in(path) == [run(1), run(3)]


def test_an_error_names_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't be written"):
        append(tmp_path / "file" / FILE, [run()])
