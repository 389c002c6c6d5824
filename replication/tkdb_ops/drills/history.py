"""The history of drills: a file with one line of JSON for each run.

>>> from tkdb_ops.drills.verdict import judge
>>> from tkdb_ops.drills.objectives import Objectives
>>> from tkdb_ops.drills.record import Record
>>> record = Record("primary-killed", "lab", 1, "2026-11-26T17:00:00Z", {}, 5_000, (), ("sin",), 0, 0, 0, 0)
>>> run = Run.from_record(record, judge(record, Objectives()))
>>> run.drill, run.passed, run.figures["failed_reads"]
('primary-killed', False, 0)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import msgspec

from tkdb.errors import ConfigurationError
from tkdb_ops.drills.objectives import ALWAYS, USUAL
from tkdb_ops.drills.record import Record
from tkdb_ops.drills.verdict import Verdict

FILE: Final = "history.jsonl"

_FURTHER: Final = ("detected_ms", "took_over_ms", "refused_ms", "revoked_in_fault_ms", "calls", "acknowledged")


class Run(msgspec.Struct, frozen=True):
    """One line of the history. A figure is None if it wasn't measured, and ``passed`` if the machine was too busy."""

    began: str
    drill: str
    target: str
    seed: int
    versions: dict[str, str]
    passed: bool | None
    missed: tuple[str, ...]
    figures: dict[str, int | None]

    @classmethod
    def from_record(cls, record: Record, verdict: Verdict) -> Self:
        """Return the line for a record and its verdict."""
        return cls(
            record.began, record.drill, record.target, record.seed, record.versions,
            None if verdict.unmeasurable else verdict.passed,
            tuple(finding.objective for finding in verdict.findings if not finding.met),
            {name: getattr(verdict.figures, name) for name in (*USUAL, *ALWAYS, *_FURTHER)},
        )  # fmt: skip


def append(path: Path, runs: Iterable[Run]) -> None:
    """Append runs to a file, and create the file if it doesn't exist.

    Raises:
        ConfigurationError: the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        with path.open("ab") as file:
            if whole[2]:  # The last line is incomplete, because a process was killed while it wrote.
                file.truncate(len(whole[0]) + len(whole[1]))
            file.write(b"".join(msgspec.json.encode(run) + b"\n" for run in runs))
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}", hint="give another --folder") from None
