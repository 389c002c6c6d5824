"""Checks and their findings. Pure.

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
    """The outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """A source was given, but the facts that the check needs couldn't be gathered."""
    SKIPPED = "skipped"
    """The source that the check needs wasn't given."""


@dataclass(frozen=True, slots=True)
class NotAsked:
    """The reason ``why`` facts weren't asked for, such as a variable that isn't set. It replaces the facts."""

    why: str


@dataclass(frozen=True, slots=True)
class Unlearned:
    """The reason ``why`` facts were asked for but not obtained. It replaces the facts."""

    why: str


Absent = NotAsked | Unlearned


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of one check.

    Attributes:
        check: the check's permanent id.
        outcome: the outcome.
        found: what the doctor found; or why it found nothing.
        fix: what to do; empty if there is nothing to do.
    """

    check: str
    outcome: Outcome
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        id: its permanent id, a short word.
        title: the statement that is true if the check passes.
        fix: what to do if the check fails, unless a finding has a more specific fix.
    """

    id: str
    title: str
    fix: str

    def passed(self, found: str) -> Finding:
        """Return a finding that the check passed."""
        return Finding(self.id, Outcome.PASSED, found)

    def failed(self, found: str, fix: str = "") -> Finding:
        """Return a finding that the check failed."""
        return Finding(self.id, Outcome.FAILED, found, fix or self.fix)

    def unmade(self, absent: Absent) -> Finding:
        """Return a finding that the check wasn't made, because its facts are absent."""
        outcome = Outcome.SKIPPED if isinstance(absent, NotAsked) else Outcome.UNKNOWN
        return Finding(self.id, outcome, absent.why)

    def judged(self, faults: Iterable[str], found: str, fix: str = "") -> Finding:
        """Return a finding: passed if there are no ``faults``, else failed with all of them."""
        listed = list(dict.fromkeys(faults))
        return self.failed("; ".join(listed), fix) if listed else self.passed(found)


def listed(names: Iterable[str]) -> str:
    """Return names as a list in a sentence.

    >>> listed(["iad"]), listed(["iad", "ams", "syd"])
    ('iad', 'iad, ams and syd')
    """
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last
