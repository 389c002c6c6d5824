"""The monitor: records requests and answers with their times, and detects violations of the guarantees.

All times come from the test's own monotonic clock. No machine's clock is trusted.
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
"""The time limit for writes and fresh machines after the last fault has ended. Usually it takes 10 s."""


class Stop(Exception):
    """The run ends because of a violation."""


class Process(NamedTuple):
    """One process of a machine, from its start to its end."""

    machine: str
    life: int


class Attempt(NamedTuple):
    """One attempt of a call: the process that it was sent to, and the time."""

    process: Process
    sent_ms: int


@dataclass(eq=False)
class Write:
    """A write: one request, which is repeated until a machine acknowledges it."""

    path: str
    call: api.Call[Any]
    request_id: bytes
    attempts: list[Attempt] = field(default_factory=list)
    acknowledged_ms: int | None = None
    position: int = 0
    """The position in its acknowledgement."""


@dataclass(eq=False)
class Case:
    """A token, and its revocation once it was requested."""

    text: str
    organization: str
    revocation: Write | None = None

    @property
    def is_revoked(self) -> bool:
        """True if its revocation was acknowledged."""
        return self.revocation is not None and self.revocation.acknowledged_ms is not None


class Violation(NamedTuple):
    """A violation: its kind, its time and its details."""

    kind: str
    at_ms: int
    why: str


class Row(NamedTuple):
    """The compared fields of one entry in a machine's journal."""

    seq: int
    hash: bytes
    epoch: int
    request_id: bytes


class Monitor:
    """Compares the answers of machines with the acknowledged writes.

    Args:
        bound_ms: how long after its acknowledgement a revoked token may still be accepted.
        now_ms: the clock.
    """

    def __init__(self, bound_ms: int, now_ms: Callable[[], int]) -> None:
        self.violations: list[Violation] = []
        self.writes: list[Write] = []
        """All acknowledged writes, in the order of their acknowledgements."""
        self.answers: Counter[str] = Counter()
        """The number of verified tokens by result."""
        self._bound_ms = bound_ms
        self._now_ms = now_ms
        self._primaries: dict[int, Process] = {}

    def flag(self, kind: str, why: str) -> None:
        """Record a violation."""
        self.violations.append(Violation(kind, self._now_ms(), why))

    def record_write(self, write: Write, position: int) -> None:
        """Record that a write was acknowledged."""
        write.acknowledged_ms, write.position = self._now_ms(), position
        self.writes.append(write)

    def check_results(
        self,
        attempt: Attempt,
        position: int,
        cases: Iterable[Case],
        results: Iterable[api.Valid | api.Invalid | api.Unsure],
    ) -> None:
        """Check a machine's results for these tokens. The request contained ``position``."""
        for case, result in zip(cases, results, strict=True):
            if isinstance(result, api.Valid):
                self.answers["accepted"] += 1
                self._accepted(attempt, position, case)
            elif isinstance(result, api.Unsure):
                self.answers["unsure"] += 1
            else:
                self.answers[result.reason.value] += 1
                if result.reason is not Reason.REVOKED or case.revocation is None:
                    self.flag(DENIED, f"{attempt.process}: {result.reason.value}: {result.message}")

    def _accepted(self, attempt: Attempt, position: int, case: Case) -> None:
        write = case.revocation
        if write is None or write.acknowledged_ms is None:
            return
        late_ms = attempt.sent_ms - write.acknowledged_ms - self._bound_ms
        if late_ms > 0:
            self.flag(STALE, f"{attempt.process}: by {late_ms} ms; entry {write.position} or earlier")
        if position >= write.position:
            self.flag(UNDONE, f"{attempt.process}: the request had position {position}")

    def record_primary(self, process: Process, epoch: int) -> None:
        """Record that a process is primary of an epoch."""
        first = self._primaries.setdefault(epoch, process)
        if first != process:
            self.flag(TWO_WRITERS, f"{first} and {process} are both primary of epoch {epoch}")

    # After all faults and writes have ended.

    def check_final_results(
        self, machine: str, cases: Iterable[Case], results: Iterable[api.Valid | api.Invalid | api.Unsure]
    ) -> None:
        """Check the results of a machine that has recovered: no stale answer is allowed."""
        for case, result in zip(cases, results, strict=True):
            reason = result.reason if isinstance(result, api.Invalid) else None
            if isinstance(result, api.Unsure):
                self.flag(STUCK, f"{machine} is unsure about a token")
            elif case.is_revoked and reason is not Reason.REVOKED:
                self.flag(LOST, f"{machine} answers {reason or 'valid'}; {_describe(case.revocation)}")
            elif case.revocation is None and reason is not None:
                self.flag(DENIED, f"{machine}: {reason}")

    def check_journals(self, rows: dict[str, list[Row]]) -> None:
        """Compare the journals of all machines, while no write is in flight."""
        longest = max(rows.values(), key=len)
        for machine, mine in rows.items():
            differs = next((row for row, other in zip(mine, longest, strict=False) if row.hash != other.hash), None)
            if differs is not None:
                self.flag(UNEQUAL, f"{machine} has a different entry {differs.seq}")
        self._check_requests(longest)

    def _check_requests(self, journal: list[Row]) -> None:
        if any(later.epoch < earlier.epoch for earlier, later in pairwise(journal)):
            self.flag(TWO_WRITERS, "an epoch in the journal is lower than the one before")
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
                self.flag(LOST, f"request {write.request_id.hex()} isn't in the journal; {_describe(write)}")
            elif len(write.attempts) == 1:  # no other process can have committed it
                self.record_primary(write.attempts[0].process, epoch)


def _describe(write: Write | None) -> str:
    if write is None:
        return ""
    attempts = ", ".join(f"{each.process.machine}/{each.process.life} at {each.sent_ms}" for each in write.attempts)
    return f"acknowledged at {write.acknowledged_ms} with position {write.position}; attempts: {attempts}"
