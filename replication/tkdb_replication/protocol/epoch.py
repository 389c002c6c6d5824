"""The epoch that a machine leads, or tries to: its number, its own path in the bucket, its syncs, its publication.

Whoever waits for something of it is told when one of its heads has landed, or when it ends.
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
from tkdb_replication.protocol.settings import NEVER_MS, Settings

WAIT: Final = "try again: a primary is found, or takes over, within seconds"
"""What to try where a machine isn't primary."""


def deposed(ticket: Ticket, *, hint: str = "repeat the request with its request id") -> Fail:
    """Return what is told to whoever waits for something of a machine that leads no more."""
    return Fail(ticket, OutcomeUnknown("this machine isn't primary any more", hint=hint))


def let_go(head: Head, attempt: bytes) -> Head:
    """Return the head by which a process hands over to any what it doesn't lead any more: else its lease would have to
    run out, and it begins anew with a swap that lands late."""
    return msgspec.structs.replace(head, rev=head.rev + 1, attempt=attempt, owner=NOBODY, machine="")


class _InFlight(NamedTuple):
    """A sync that was asked for, when, and the entry up to which all was committed by then."""

    sync: int
    sent_ms: int
    seq: int


class Syncs:
    """Litestream's synchronous syncs: one at a time. None blocks anything else.

    Args:
        settings: how often, and how long an answer is waited for.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._in_flight: _InFlight | None = None
        self._at_ms = -NEVER_MS

    @property
    def due_ms(self) -> int:
        """When the next one may be sent, or the one in flight is given up."""
        return self._at_ms if self._in_flight is None else self._in_flight.sent_ms + self._settings.sync_ms

    def sync(self, number: Callable[[], int], seq: int, now_ms: int) -> Sync | None:
        """Return a sync that will cover all entries up to ``seq``, if one is due, with the next ``number``."""
        if now_ms < self.due_ms:
            return None
        self._in_flight = _InFlight(number(), now_ms, seq)
        self._at_ms = now_ms + self._settings.sync_pace_ms
        return Sync(self._in_flight.sync)

    def answered(self, event: Synced | SyncFailed) -> int | None:
        """Return the entry up to which the object store has everything now; None where the sync didn't succeed.

        A stalled Litestream answers without an error; the numbers of that same answer tell.
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
    """The primary is being moved to ``machine``, or to any where that is empty, until ``until_ms`` at the latest."""

    machine: str
    until_ms: int
    tickets: list[Ticket] = field(default_factory=list)


class Epoch:
    """One epoch of one machine: a candidate's until the one swap of its takeover has landed, then a primary's.

    Args:
        settings: the machine's.
        number: the epoch's.
        path: where the machine's Litestream writes in it; never used before, never again.
        owner: the machine's process.
        now_ms: when it begins.
    """

    def __init__(self, settings: Settings, number: int, path: str, owner: bytes, now_ms: int) -> None:
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
    def hopeless_at_ms(self) -> int:
        """When the machine gives up leading: the takeover has failed, or all writes have for a whole lease."""
        return self._until_ms if self.publication is None else self.publication.stalled_at_ms

    def unsynced_ms(self, now_ms: int) -> int:
        """Return for how long no sync has succeeded although there was something to sync."""
        return 0 if self._unsynced_since_ms is None else now_ms - self._unsynced_since_ms

    def due_ms(self, *, swaps: bool) -> int:
        """Return when something is to be done next; ``swaps``: whether a swap could be sent."""
        due_ms = self.hopeless_at_ms
        if self.move is not None:
            due_ms = min(due_ms, self.move.until_ms)
        if self.publication is not None and swaps:
            due_ms = min(due_ms, self._renew_at_ms)
        if not self.in_store or (self.publication is not None and self.publication.unsynced):
            due_ms = min(due_ms, self.syncs.due_ms)
        return due_ms

    def next_head(self, head: Head, attempt: Callable[[], bytes], now_ms: int) -> Head | None:
        """Return the head that is to be swapped in for ``head``, if one is due: renewal and publication in one."""
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
        """Return a sync of what isn't known to be in the object store, if one is due.

        A primary for which none succeeds lets another lead: that one's Litestream may do better.
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
        """One of this epoch's swaps has put ``head``: return who is told of success."""
        if self.publication is None:
            self.publication = Publication(self._settings, head.recent, head.place, now_ms)
        told = [Acknowledge(ticket, seq) for ticket, seq in self.publication.named(head.place, now_ms)]
        if head.owner == NOBODY and self.move is not None:
            told += [Acknowledge(ticket, head.seq) for ticket in self.move.tickets]
            self.move = None
        return told

    def ended(self) -> list[Fail]:
        """The machine leads no more: return who is told that the outcome isn't known."""
        writes = [] if self.publication is None else self.publication.waiting
        moves = [] if self.move is None else self.move.tickets
        return [*map(deposed, writes), *(deposed(ticket, hint=WAIT) for ticket in moves)]

    def hand_over(self, event: HandOver, publication: Publication, now_ms: int) -> list[Acknowledge | Fail]:
        """Begin a move, and return who is told of what already. One that is under way goes on."""
        if event.machine == self._settings.machine:
            return [Acknowledge(event.ticket, publication.named_seq)]
        if event.machine and self.move is not None:
            return [Fail(event.ticket, NoPrimary("this primary is being moved already", hint=WAIT))]
        if self.move is None:
            self.move = Move(event.machine, now_ms + self._settings.lease_ms)
        self.move.tickets.append(event.ticket)
        return []

    def give_up_move(self, move: Move) -> list[Fail]:
        """Stay primary after all: return who is told."""
        self.move = None
        error = OutcomeUnknown("this primary could not be drained in time", hint=WAIT)
        return [Fail(ticket, error) for ticket in move.tickets]

    def commit_failed(self, event: CommitFailed, publication: Publication, now_ms: int) -> None:
        """A commit failed. A machine that can't write publishes what it has committed, and lets any other lead."""
        if publication.failed(now_ms) or event.doubtful:
            self._give_way(now_ms)

    def synced(self, event: Synced | SyncFailed) -> None:
        """A sync ended."""
        seq = self.syncs.answered(event)
        if seq is not None:
            self.in_store, self._unsynced_since_ms = True, None
            if self.publication is not None:
                self.publication.synced(seq)

    def _give_way(self, now_ms: int) -> None:
        self.gives_way = True
        self.move = self.move or Move("", now_ms + self._settings.lease_ms)

    def _stamp(self, head: Head, attempt: Callable[[], bytes]) -> dict[str, Any]:
        """What makes each swap's head another one than any before."""
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
