"""Checks, and what came of each. Pure.

>>> check = Check("bucket-private", "nobody reads the bucket without a key", "make the bucket private")
>>> check.failed("its head was read without one")
Finding(check='bucket-private', outcome=<Outcome.FAILED: 'failed'>, found='its head was read without one', \
fix='make the bucket private')
>>> check.unmade(NotAsked("BUCKET_NAME isn't set")).outcome, check.unmade(Unlearned("no answer")).outcome
(<Outcome.SKIPPED: 'skipped'>, <Outcome.UNKNOWN: 'unknown'>)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It was to be made, and what it judges couldn't be learnt."""
    SKIPPED = "skipped"
    """Nobody said where to look."""


@dataclass(frozen=True, slots=True)
class NotAsked:
    """In place of facts that nobody asked for: ``why``, such as a variable that isn't set."""

    why: str


@dataclass(frozen=True, slots=True)
class Unlearned:
    """In place of facts that were asked for and didn't come, and ``why``."""

    why: str


Absent = NotAsked | Unlearned


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check.

    Attributes:
        check: the check's permanent word.
        outcome: what came of it.
        found: what was found; or why nothing was.
        fix: what to do; empty where there is nothing to do.
    """

    check: str
    outcome: Outcome
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        id: its permanent word.
        title: what is true where it passes.
        fix: what to do where it fails, unless a finding says more.
    """

    id: str
    title: str
    fix: str

    def passed(self, found: str) -> Finding:
        """It is as it should be."""
        return Finding(self.id, Outcome.PASSED, found)

    def failed(self, found: str, fix: str = "") -> Finding:
        """It isn't."""
        return Finding(self.id, Outcome.FAILED, found, fix or self.fix)

    def unmade(self, absent: Absent) -> Finding:
        """What it judges isn't known."""
        outcome = Outcome.SKIPPED if isinstance(absent, NotAsked) else Outcome.UNKNOWN
        return Finding(self.id, outcome, absent.why)

    def judged(self, faults: Iterable[str], found: str, fix: str = "") -> Finding:
        """It passes where there are no ``faults``; else it fails with all of them."""
        listed = list(dict.fromkeys(faults))
        return self.failed("; ".join(listed), fix) if listed else self.passed(found)


def listed(names: Iterable[str]) -> str:
    """Return names as people list them.

    >>> listed(["iad"]), listed(["iad", "ams", "syd"])
    ('iad', 'iad, ams and syd')
    """
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last
