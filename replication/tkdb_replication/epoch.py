"""The epoch that a machine leads, or tries to: its number, its own path in the bucket, its syncs, its publication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tkdb_replication.actions import Sync
from tkdb_replication.events import Synced, SyncFailed, Ticket
from tkdb_replication.publication import Publication
from tkdb_replication.settings import NEVER_MS, Settings


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
    """A planned move to ``machine``, given up at ``until_ms``."""

    ticket: Ticket
    machine: str
    until_ms: int


@dataclass(slots=True)
class Epoch:
    """One epoch of one machine.

    Attributes:
        number: the epoch's.
        path: where its Litestream writes; never used before, never again.
        until_ms: when a takeover is given up.
        syncs: its syncs.
        in_store: whether the first of them has succeeded, so that ``path`` holds all that the head names.
        publication: what is published; None until the one swap of the takeover has landed.
        move: a planned move that is under way.
    """

    number: int
    path: str
    until_ms: int
    syncs: Syncs
    in_store: bool = False
    publication: Publication | None = None
    move: Move | None = None
