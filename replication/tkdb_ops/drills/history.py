"""What earlier drills came to: one line of JSON a run, appended to a file; and how two runs differ.

>>> from tkdb_ops.drills.verdict import judge
>>> from tkdb_ops.drills.objectives import Objectives
>>> from tkdb_ops.drills.record import Record
>>> record = Record("primary-killed", "lab", 1, "2026-11-26T17:00:00Z", {}, 5_000, (), ("sin",), 0, 0, 0, 0)
>>> run = Run.of(record, judge(record, Objectives()))
>>> run.drill, run.passed, compare(run, run)[0]
('primary-killed', False, Change(figure='failed_reads', before=0, after=0))
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
    """What is kept of a run: when, of what, and what it came to. ``figures`` has None for what wasn't measured."""

    began: str
    drill: str
    target: str
    seed: int
    versions: dict[str, str]
    passed: bool
    missed: tuple[str, ...]
    figures: dict[str, int | None]

    @classmethod
    def of(cls, record: Record, verdict: Verdict) -> Self:
        """Return what is kept of a record and its verdict."""
        return cls(
            record.began, record.drill, record.target, record.seed, record.versions, verdict.passed,
            tuple(finding.objective for finding in verdict.findings if not finding.met),
            {name: getattr(verdict.figures, name) for name in (*USUAL, *ALWAYS, *_FURTHER)},
        )  # fmt: skip


class Change(msgspec.Struct, frozen=True):
    """One figure of two runs."""

    figure: str
    before: int | None
    after: int | None

    @property
    def worse(self) -> bool | None:
        """Whether it grew; None where one of them isn't known, or it says nothing about well or ill."""
        if self.before is None or self.after is None or self.figure in ("calls", "acknowledged"):
            return None
        return self.after > self.before


def append(path: Path, runs: Iterable[Run]) -> None:
    """Add runs to a file, which is made where there is none.

    Raises:
        ConfigurationError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        with path.open("ab") as file:
            if whole[2]:  # half a line, of a run that was killed as it wrote
                file.truncate(len(whole[0]) + len(whole[1]))
            file.write(b"".join(msgspec.json.encode(run) + b"\n" for run in runs))
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}", hint="give another --folder") from None


def load(path: Path) -> list[Run]:
    """Return the runs of a file, the oldest first; none where there is no file. Half a line at the end is passed over:
    whoever wrote it was killed.

    Raises:
        ConfigurationError: a line isn't a run.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    try:
        return [msgspec.json.decode(line, type=Run) for line in lines[:-1]]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} isn't a history of drills: {error}", hint="move it away") from None


def compare(before: Run, after: Run) -> list[Change]:
    """Return how the figures of two runs differ."""
    return [Change(name, before.figures.get(name), value) for name, value in after.figures.items()]


def last_two(runs: Iterable[Run], drill: str | None = None) -> list[tuple[Run, Run]]:
    """Return, for each drill and target that was run twice or more, the last run but one and the last.

    Args:
        runs: the oldest first.
        drill: only this one.
    """
    kept: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if drill is None or run.drill == drill:
            kept.setdefault((run.drill, run.target), []).append(run)
    return [(every[-2], every[-1]) for every in kept.values() if len(every) > 1]
