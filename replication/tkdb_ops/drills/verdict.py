"""The verdict: the measured figures compared with the objectives. Pure.

>>> from tkdb_ops.drills.record import Record
>>> nothing = Record("primary-killed", "lab", 1, "2026-11-26T17:00:00Z", {}, 5_000, (), ("sin",), 0, 0, 0, 0)
>>> verdict = judge(nothing, Objectives())
>>> verdict.passed, verdict.findings[0].text
(False, 'no failed reads: there was nothing to measure')
"""

from __future__ import annotations

from typing import Final

import msgspec

from tkdb_ops.drills.figures import Figures, measure
from tkdb_ops.drills.objectives import ALWAYS, USUAL, Objectives
from tkdb_ops.drills.record import Delay, Record

TIMED: Final = frozenset({*USUAL, "undone_steps"})
"""The objectives that a delay can miss: those in time, failed reads (which have a time limit), and steps (as well)."""

_NAMES: Final = {
    "failed_reads": "failed reads",
    "longest_read_ms": "longest read",
    "reads_back_ms": "reads back",
    "writes_back_ms": "writes back",
    "revoked_p99_ms": "revoked everywhere, p99",
    "lost_writes": "acknowledged writes lost",
    "stale_accepts": "stale accepts",
    "blind_accepts": "blind accepts",
    "wrong_denials": "wrong denials",
    "two_writers": "two writers",
    "unsound_journals": "unsound journals",
    "undone_steps": "steps undone",
}

_NEEDED: Final = {
    "failed_reads": "reads",
    "stale_accepts": "reads",
    "wrong_denials": "reads",
    "lost_writes": "checked",
}
"""The count that must not be 0 for an objective to be measured: without any reads, no failed read proves nothing."""


class ObjectiveFinding(msgspec.Struct, frozen=True):
    """One objective: its limit, and the measured value; None if there was nothing to measure."""

    objective: str
    limit: int
    measured: int | None

    @property
    def met(self) -> bool:
        """True if the objective was met. An objective that wasn't measured isn't met."""
        return self.measured is not None and self.measured <= self.limit

    @property
    def name(self) -> str:
        """The objective in words."""
        return _NAMES[self.objective]

    @property
    def text(self) -> str:
        """The limit and the measured value in words."""
        wanted = f"no {self.name}" if self.limit == 0 else f"{self.name} ≤ {format_value(self.objective, self.limit)}"
        if self.measured is None:
            return f"{wanted}: there was nothing to measure"
        return f"{wanted}: {format_value(self.objective, self.measured)}"


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on one run."""

    findings: tuple[ObjectiveFinding, ...]
    figures: Figures
    delay: Delay = Delay()

    @property
    def passed(self) -> bool:
        """True if every objective was met."""
        return all(finding.met for finding in self.findings)

    @property
    def failed(self) -> bool:
        """True if an objective was missed, and this machine's delay can't be the reason."""
        return not self.passed and not self.unmeasurable

    @property
    def unmeasurable(self) -> bool:
        """True if only objectives in time were missed, on a machine that is too busy to measure them.

        A lost write or an accepted revoked token is a failure on any machine.
        """
        missed = {finding.objective for finding in self.findings if not finding.met}
        return bool(missed) and missed <= TIMED and self.delay.is_too_long


def judge(record: Record, objectives: Objectives) -> Verdict:
    """Return the verdict on a record."""
    figures = measure(record)
    findings = [
        ObjectiveFinding(name, getattr(objectives, name), _measured(figures, name)) for name in (*USUAL, *ALWAYS)
    ]
    return Verdict(tuple(findings), figures, record.delay)


def format_value(objective: str, value: int) -> str:
    """Return a figure with its unit.

    >>> format_value("writes_back_ms", 8_100), format_value("revoked_p99_ms", 402), format_value("lost_writes", 0)
    ('8.1 s', '0.40 s', '0')
    """
    if not objective.endswith("_ms"):
        return f"{value:,}"
    return f"{value / 1000:.2f} s" if value % 1_000 and value < 2_000 else f"{value / 1000:.1f} s"


def _measured(figures: Figures, objective: str) -> int | None:
    needed = _NEEDED.get(objective)
    if needed is not None and not getattr(figures, needed):
        return None
    measured: int | None = getattr(figures, objective)
    return measured
