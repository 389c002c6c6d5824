"""The judge: knows what was asked and answered when, and what must never happen.

All times are of one monotonic clock, the test's own: no machine's clock is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from tkdb import api
from tkdb.errors import Reason

STALE = "G2: a revoked token was accepted past the bound"
UNDONE = "a caller saw its own revocation undone"
LOST = "G1: an acknowledged write is lost"
DENIED = "a token that nobody revoked was denied"
REFUSED = "a write that must succeed was refused"
TWICE = "a request was carried out twice"
TWO_WRITERS = "G3: two processes acknowledged in one epoch"
STUCK = "after all faults had ended, the machines did not recover"
UNEQUAL = "the machines' journals differ"
UNAUDITED = "a machine's database doesn't pass the audit"
ALARM = "a machine raised an alarm without cause"


HEAL_MS = 45_000
"""Once no fault is left, writes are acknowledged and every machine is fresh within this time. Mostly it takes 10 s."""


class Stop(Exception):
    """The run ends: something happened that never must."""


class Process(NamedTuple):
    """One life of a machine: between a start and an end."""

    machine: str
    life: int


class Attempt(NamedTuple):
    """One attempt of a call: which process got it, and when."""

    process: Process
    asked_ms: int


@dataclass(eq=False)
class Write:
    """What a writer wants: the same request, again and again, until somebody says that it is done."""

    path: str
    call: api.Call[Any]
    request_id: bytes
    attempts: list[Attempt] = field(default_factory=list)
    acknowledged_ms: int | None = None
    position: int = 0
    """The position that its acknowledgement came with."""


@dataclass(eq=False)
class Case:
    """A token, and its revocation once somebody asked for one."""

    text: str
    organization: str
    revocation: Write | None = None

    @property
    def dead(self) -> bool:
        """Whether its revocation was acknowledged."""
        return self.revocation is not None and self.revocation.acknowledged_ms is not None


class Violation(NamedTuple):
    """What happened that never must, when, and what shows it."""

    kind: str
    at_ms: int
    why: str


class Row(NamedTuple):
    """One entry of a machine's journal, as far as it is compared."""

    seq: int
    hash: bytes
    epoch: int
    request_id: bytes


class Judge:
    """Compares what machines say with what was acknowledged.

    Args:
        bound_ms: how long after its acknowledgement a revocation may go unnoticed.
        now_ms: the clock.
    """

    def __init__(self, bound_ms: int, now_ms: Callable[[], int]) -> None:
        self.violations: list[Violation] = []
        self.writes: list[Write] = []
        """All that were acknowledged, in that order."""
        self.answers: Counter[str] = Counter()
        """What came of reads, of each token in each."""
        self._bound_ms = bound_ms
        self._now_ms = now_ms
        self._primaries: dict[int, Process] = {}

    def flag(self, kind: str, why: str) -> None:
        """Something happened that never must."""
        self.violations.append(Violation(kind, self._now_ms(), why))

    def acknowledged(self, write: Write, position: int) -> None:
        """A writer was told that its write is done."""
        write.acknowledged_ms, write.position = self._now_ms(), position
        self.writes.append(write)

    def verified(
        self, asked: Attempt, position: int, cases: Iterable[Case], results: Iterable[api.Valid | api.Invalid]
    ) -> None:
        """A machine has answered for these tokens; the question carried ``position``."""
        for case, result in zip(cases, results, strict=True):
            if isinstance(result, api.Valid):
                self.answers["accepted"] += 1
                self._accepted(asked, position, case)
            else:
                self.answers[result.reason.value] += 1
                if result.reason is not Reason.STALE and (
                    result.reason is not Reason.REVOKED or case.revocation is None
                ):
                    self.flag(DENIED, f"{asked.process}: {result.reason.value}: {result.message}")

    def _accepted(self, asked: Attempt, position: int, case: Case) -> None:
        write = case.revocation
        if write is None or write.acknowledged_ms is None:
            return
        late_ms = asked.asked_ms - write.acknowledged_ms - self._bound_ms
        if late_ms > 0:
            self.flag(STALE, f"{asked.process}: by {late_ms} ms; entry {write.position} or earlier")
        if position >= write.position:
            self.flag(UNDONE, f"{asked.process}: asked with position {position}")

    def leads(self, process: Process, epoch: int) -> None:
        """A process says that it is primary of an epoch."""
        first = self._primaries.setdefault(epoch, process)
        if first != process:
            self.flag(TWO_WRITERS, f"{first} and {process} say that they are primary of epoch {epoch}")

    # At the end, when all is quiet.

    def last_verified(self, machine: str, cases: Iterable[Case], results: Iterable[api.Valid | api.Invalid]) -> None:
        """A machine that has recovered has answered for these tokens: now nothing is excused."""
        for case, result in zip(cases, results, strict=True):
            reason = None if isinstance(result, api.Valid) else result.reason
            if case.dead and reason is not Reason.REVOKED:
                self.flag(LOST, f"{machine} says {reason or 'valid'}; {_told(case.revocation)}")
            elif case.revocation is None and reason is not None:
                self.flag(DENIED, f"{machine}: {reason}")

    def journals(self, rows: dict[str, list[Row]]) -> None:
        """All machines' journals, when nothing is being written."""
        longest = max(rows.values(), key=len)
        for machine, mine in rows.items():
            differs = next((row for row, other in zip(mine, longest, strict=False) if row.hash != other.hash), None)
            if differs is not None:
                self.flag(UNEQUAL, f"{machine} holds another entry {differs.seq}")
        self._requests(longest)

    def _requests(self, journal: list[Row]) -> None:
        if any(later.epoch < earlier.epoch for earlier, later in pairwise(journal)):
            self.flag(TWO_WRITERS, "epochs go back along the journal")
        epochs = {row.request_id: row.epoch for row in journal}
        counts = Counter(row.request_id for row in journal if any(row.request_id))
        for request_id, count in counts.items():
            if count > 1:
                self.flag(TWICE, f"request {request_id.hex()}, {count} times")
        for write in self.writes:
            if write.path != api.WRITE:
                continue
            epoch = epochs.get(write.request_id)
            if epoch is None:
                self.flag(LOST, f"request {write.request_id.hex()} isn't in the journal; {_told(write)}")
            elif len(write.attempts) == 1:  # nobody else can have committed it
                self.leads(write.attempts[0].process, epoch)


def _told(write: Write | None) -> str:
    if write is None:
        return ""
    attempts = ", ".join(f"{each.process.machine}/{each.process.life} at {each.asked_ms}" for each in write.attempts)
    return f"acknowledged at {write.acknowledged_ms} with position {write.position}; attempts: {attempts}"
