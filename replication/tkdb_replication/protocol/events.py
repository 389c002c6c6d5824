"""What a machine is told. Each is one fact: an answer, a completed action, a caller's wish, or that time passed.

Answers name what they answer. Those that come late, or twice, name nothing that is waited for, and are dropped.
A ``ticket`` is whatever the caller chooses to be found by when the machine acts on it.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from tkdb.journal.entry import Entry
from tkdb_replication.bucket.objects import Conflict, Found, Missing, NotModified, Stored, Unknown
from tkdb_replication.protocol.head import Place

Ticket = Hashable


class TimePassed(msgspec.Struct, frozen=True):
    """Nothing but time: due at ``Machine.due_ms`` at the latest."""


class ReadAnswered(msgspec.Struct, frozen=True):
    """What became of ``actions.Read`` number ``read``."""

    read: int
    answer: Found | NotModified | Missing | Unknown


class SwapAnswered(msgspec.Struct, frozen=True):
    """What became of ``actions.Swap`` of that ``attempt``."""

    attempt: bytes
    answer: Stored | Conflict | Unknown


class JournalAt(msgspec.Struct, frozen=True):
    """Step ``step`` (``CutBack``, ``Apply`` or ``Restore``) is done and the journal ends at ``place``; None: it failed.

    A step that failed may have been done all the same: the journal is then cut back again before it is believed.
    """

    step: int
    place: Place | None


class Served(msgspec.Struct, frozen=True):
    """``actions.Serve`` is done: whoever is answered from now on sees the journal up to ``place`` at least."""

    place: Place


class Synced(msgspec.Struct, frozen=True):
    """Litestream's answer to ``actions.Sync`` number ``sync``: both numbers are of that one answer."""

    sync: int
    txid: int
    replicated_txid: int


class SyncFailed(msgspec.Struct, frozen=True):
    """``actions.Sync`` number ``sync`` ended without such an answer."""

    sync: int


class Asked(msgspec.Struct, frozen=True):
    """A caller asked something of this machine that takes freshness."""


class Committed(msgspec.Struct, frozen=True):
    """A batch that ``Machine.require_writable`` let pass is on this machine's disk, by one transaction.

    ``entries`` are in order, one at least. They are told of at once, so that one swap publishes them all, and no head
    ever names a part of them.
    """

    ticket: Ticket
    entries: tuple[Entry, ...]


class CommitFailed(msgspec.Struct, frozen=True):
    """A batch that ``Machine.require_writable`` let pass could not be committed: the disk is full, or fails.

    ``doubtful``: nobody knows whether it was. Then the journal's end isn't known, and is cut back to what a head names.
    """

    doubtful: bool


class Repeated(msgspec.Struct, frozen=True):
    """A request came whose entry, number ``seq``, is in this machine's journal already."""

    ticket: Ticket
    seq: int


class HandOver(msgspec.Struct, frozen=True):
    """The primary is moved away from here, to ``machine``.

    Empty: to any, because this machine is being shut down. It never takes over again.
    """

    ticket: Ticket
    machine: str = ""


class Promote(msgspec.Struct, frozen=True):
    """The operator makes this machine primary now, whatever is left of the lease."""

    ticket: Ticket


Event = (
    TimePassed
    | ReadAnswered
    | SwapAnswered
    | JournalAt
    | Served
    | Synced
    | SyncFailed
    | Asked
    | Committed
    | CommitFailed
    | Repeated
    | HandOver
    | Promote
)
