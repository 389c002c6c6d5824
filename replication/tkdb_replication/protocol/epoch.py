"""The epoch that a machine leads, or tries to lead: its number, its path in the bucket, its syncs and its
publication.

A caller that waits for the epoch gets its answer when one of the epoch's heads succeeds, or when the epoch ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from tkdb.errors import NoPrimary, OutcomeUnknown
from tkdb_replication.protocol.actions import Acknowledge, Fail, Sync
from tkdb_replication.protocol.events import CommitFailed, HandOver, Synced, SyncFailed, Ticket
from tkdb_replication.protocol.head import NOBODY, Head
from tkdb_replication.protocol.publication import Publication
from tkdb_replication.protocol.settings import NEVER_MS, ProtocolSettings

WAIT: Final = "try again: a primary is found, or takes over, within seconds"
"""The hint for a caller of a machine that isn't primary."""


def deposed(ticket: Ticket, *, hint: str = "repeat the request with its request id") -> Fail:
    """Return the error for a caller that waits for a machine that leads no longer."""
    return Fail(ticket, OutcomeUnknown("this machine is no longer primary", hint=hint))


def let_go(head: Head, attempt: bytes) -> Head:
    """Return the head by which a process releases an epoch that it leads no longer, so that any machine may take
    over.

    Otherwise its lease would have to run out, and a late swap of its own would start the lease again.
    """
    return msgspec.structs.replace(head, rev=head.rev + 1, attempt=attempt, owner=NOBODY, machine="")


class _InFlight(NamedTuple):
    """A sync that was sent, the time, and the last entry that was committed by then."""

    sync: int
    sent_ms: int
    seq: int


class Syncs:
    """Litestream's synchronous syncs, one at a time. No sync blocks anything else.

    Args:
        settings: the pause between syncs, and their timeout.
    """

    def __init__(self, settings: ProtocolSettings) -> None:
        self._settings = settings
        self._in_flight: _InFlight | None = None
        self._at_ms = -NEVER_MS

    @property
    def due_ms(self) -> int:
        """The time at which the next sync may be sent, or the one in flight is given up."""
        return self._at_ms if self._in_flight is None else self._in_flight.sent_ms + self._settings.sync_ms

    def sync(self, number: Callable[[], int], seq: int, now_ms: int) -> Sync | None:
        """Return a sync that covers all entries up to ``seq``, with the next ``number``, or None if none is due."""
        if now_ms < self.due_ms:
            return None
        self._in_flight = _InFlight(number(), now_ms, seq)
        self._at_ms = now_ms + self._settings.sync_pace_ms
        return Sync(self._in_flight.sync)

    def answered(self, event: Synced | SyncFailed) -> int | None:
        """Return the last entry that is now in the object store, or None if the sync didn't succeed.

        A stalled Litestream answers without an error. The two numbers of the answer show it.
        """
        sync = self._in_flight
        if sync is None or event.sync != sync.sync:
            return None
        self._in_flight = None
        if isinstance(event, SyncFailed) or not 0 < event.txid <= event.replicated_txid:
            return None
        return sync.seq


@dataclass(slots=True)
class Move:
    """A move of the primary to ``machine``, or to any machine if that is empty, until ``until_ms`` at the latest."""

    machine: str
    until_ms: int
    tickets: list[Ticket] = field(default_factory=list)


class Epoch:
    """One epoch of one machine: a candidate's until the swap of its takeover succeeds, then a primary's.

    Args:
        settings: the machine's settings.
        number: the epoch's number.
        path: the path that the machine's Litestream writes to in this epoch. It was never used before, and never is
            again.
        owner: the id of the machine's process.
        now_ms: the time at which the epoch begins.
    """

    def __init__(self, settings: ProtocolSettings, number: int, path: str, owner: bytes, now_ms: int) -> None:
        self.number = number
        self.path = path
        self.syncs = Syncs(settings)
        self.in_store = False
        """Whether a sync has succeeded, so that ``path`` holds all that the head names."""
        self.publication: Publication | None = None
        """What is published; None for a candidate."""
        self.move: Move | None = None
        """A move that is under way: the next head is handed over."""
        self.gives_way = False
        """Whether others are to lead rather than this machine, whose takeover or writes failed."""
        self._settings = settings
        self._owner = owner
        self._until_ms = now_ms + settings.takeover_ms
        self._unsynced_since_ms: int | None = None
        self._renew_at_ms = -NEVER_MS

    @property
    def give_up_at_ms(self) -> int:
        """The time at which the machine stops leading: its takeover failed, or all writes failed for a whole lease."""
        return self._until_ms if self.publication is None else self.publication.stalled_at_ms

    def unsynced_ms(self, now_ms: int) -> int:
        """Return for how long no sync has succeeded although there was something to upload."""
        return 0 if self._unsynced_since_ms is None else now_ms - self._unsynced_since_ms

    def due_ms(self, *, swaps: bool) -> int:
        """Return the time of the next task. ``swaps``: whether a swap may be sent."""
        due_ms = self.give_up_at_ms
        if self.move is not None:
            due_ms = min(due_ms, self.move.until_ms)
        if self.publication is not None and swaps:
            due_ms = min(due_ms, self._renew_at_ms)
        if not self.in_store or (self.publication is not None and self.publication.unsynced):
            due_ms = min(due_ms, self.syncs.due_ms)
        return due_ms

    def next_head(self, head: Head, attempt: Callable[[], bytes], now_ms: int) -> Head | None:
        """Return the head that replaces ``head``, or None if none is due. One head both renews the lease and
        publishes entries."""
        if self.publication is None:
            if not self.in_store:
                return None
            changes = self._takeover()
        elif self.publication.pending or self.move is not None or now_ms >= self._renew_at_ms:
            changes = self._round(self.publication, now_ms)
        else:
            return None
        self._renew_at_ms = now_ms + self._settings.lease_ms // 3
        return msgspec.structs.replace(head, **self._stamp(head, attempt), **changes)

    def sync(self, head: Head, number: Callable[[], int], now_ms: int) -> Sync | None:
        """Return a sync of the entries that aren't known to be in the object store, or None if none is due.

        A primary whose syncs all fail lets another machine lead, whose Litestream may work.
        """
        if self.publication is None:
            return None if self.in_store else self.syncs.sync(number, head.seq, now_ms)
        if not self.publication.unsynced:
            return None
        if self._unsynced_since_ms is None:
            self._unsynced_since_ms = now_ms
        if now_ms - self._unsynced_since_ms >= self._settings.unsynced_ms:
            self._give_way(now_ms)
        return self.syncs.sync(number, self.publication.end.seq, now_ms)

    def landed(self, head: Head, now_ms: int) -> list[Acknowledge]:
        """Record that a swap of this epoch succeeded with ``head``. Return the acknowledgements that follow."""
        if self.publication is None:
            self.publication = Publication(self._settings, head.recent, head.place, now_ms)
        told = [Acknowledge(ticket, seq) for ticket, seq in self.publication.named(head.place, now_ms)]
        if head.owner == NOBODY and self.move is not None:
            told += [Acknowledge(ticket, head.seq) for ticket in self.move.tickets]
            self.move = None
        return told

    def ended(self) -> list[Fail]:
        """Return the errors for all waiting callers: the machine leads no longer, and the outcome is unknown."""
        writes = [] if self.publication is None else self.publication.waiting
        moves = [] if self.move is None else self.move.tickets
        return [*map(deposed, writes), *(deposed(ticket, hint=WAIT) for ticket in moves)]

    def hand_over(self, event: HandOver, publication: Publication, now_ms: int) -> list[Acknowledge | Fail]:
        """Begin a move. Return the answers that can be given already. A move in progress continues."""
        if event.machine == self._settings.machine:
            return [Acknowledge(event.ticket, publication.named_seq)]
        if event.machine and self.move is not None:
            return [Fail(event.ticket, NoPrimary("this primary is already being moved", hint=WAIT))]
        if self.move is None:
            self.move = Move(event.machine, now_ms + self._settings.lease_ms)
        self.move.tickets.append(event.ticket)
        return []

    def give_up_move(self, move: Move) -> list[Fail]:
        """Cancel the move and stay primary. Return the errors for the callers that wait for the move."""
        self.move = None
        error = OutcomeUnknown("the move of the primary didn't succeed in time", hint=WAIT)
        return [Fail(ticket, error) for ticket in move.tickets]

    def commit_failed(self, event: CommitFailed, publication: Publication, now_ms: int) -> None:
        """Handle a failed commit. A machine that can't write publishes its committed entries, and lets another
        machine lead."""
        if publication.failed(now_ms) or event.doubtful:
            self._give_way(now_ms)

    def synced(self, event: Synced | SyncFailed) -> None:
        """Record that a sync ended."""
        seq = self.syncs.answered(event)
        if seq is not None:
            self.in_store, self._unsynced_since_ms = True, None
            if self.publication is not None:
                self.publication.synced(seq)

    def _give_way(self, now_ms: int) -> None:
        self.gives_way = True
        self.move = self.move or Move("", now_ms + self._settings.lease_ms)

    def _stamp(self, head: Head, attempt: Callable[[], bytes]) -> dict[str, Any]:
        """Return the fields that make every head different from all earlier ones."""
        return {"rev": head.rev + 1, "attempt": attempt()}

    def _takeover(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "epoch": self.number,
            "owner": self._owner,
            "machine": settings.machine,
            "region": settings.region,
            "lease_ms": settings.lease_ms,
            "base": self.path,
        }

    def _round(self, publication: Publication, now_ms: int) -> dict[str, Any]:
        end = publication.end
        changes: dict[str, Any] = {"recent": publication.recent(now_ms), "seq": end.seq, "hash": end.hash}
        if self.move is not None:
            changes |= {"owner": NOBODY, "machine": self.move.machine}
        return changes
