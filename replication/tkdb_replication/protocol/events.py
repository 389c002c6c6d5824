"""The events of the state machine. Each is one fact: an answer, a completed action, a caller's request, or passed time.

An answer names the request that it answers. The state machine drops answers that come late or twice, because it no
longer waits for them. A ``ticket`` is any value by which the caller recognizes its request when the machine acts on it.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from tkdb.journal.entry import Entry
from tkdb_replication.bucket.objects import Conflict, Found, Missing, NotModified, Stored, Unknown
from tkdb_replication.protocol.head import Checkpoint

Ticket = Hashable


class TimePassed(msgspec.Struct, frozen=True):
    """Time has passed. Due at ``Machine.due_ms`` at the latest."""


class ReadAnswered(msgspec.Struct, frozen=True):
    """The outcome of ``actions.Read`` number ``read``."""

    read: int
    answer: Found | NotModified | Missing | Unknown


class SwapAnswered(msgspec.Struct, frozen=True):
    """The outcome of ``actions.Swap`` with this ``attempt``."""

    attempt: bytes
    answer: Stored | Conflict | Unknown


class JournalAt(msgspec.Struct, frozen=True):
    """Step ``step`` (``CutBack``, ``Apply`` or ``Restore``) is done, and the journal ends at ``place``. None: the step
    failed.

    A failed step may still have changed the journal. The journal is then cut back again before it is used.
    """

    step: int
    place: Checkpoint | None


class Served(msgspec.Struct, frozen=True):
    """``actions.Serve`` is done: every answer from now on includes the journal up to ``place``."""

    place: Checkpoint


class Synced(msgspec.Struct, frozen=True):
    """Litestream's answer to ``actions.Sync`` number ``sync``. Both transaction numbers are from this one answer."""

    sync: int
    txid: int
    replicated_txid: int


class SyncFailed(msgspec.Struct, frozen=True):
    """``actions.Sync`` number ``sync`` ended without an answer."""

    sync: int


class Asked(msgspec.Struct, frozen=True):
    """A caller sent this machine a request that needs fresh data."""


class Committed(msgspec.Struct, frozen=True):
    """A batch that ``Machine.require_writable`` allowed is on this machine's disk, committed by one transaction.

    ``entries`` are in order, and there is at least one. They are announced together, so that one swap publishes them
    all. No head ever names a part of them.
    """

    ticket: Ticket
    entries: tuple[Entry, ...]


class CommitFailed(msgspec.Struct, frozen=True):
    """A batch that ``Machine.require_writable`` allowed could not be committed: the disk is full, or fails.

    ``doubtful``: the outcome of the commit is unknown. Then the end of the journal is unknown too, and it is cut back
    to the last point that a head names.
    """

    doubtful: bool


class Repeated(msgspec.Struct, frozen=True):
    """A request was repeated. Its entry, at position ``seq``, is already in this machine's journal."""

    ticket: Ticket
    seq: int


class HandOver(msgspec.Struct, frozen=True):
    """The primary moves from here to ``machine``.

    If ``machine`` is empty, it moves to any machine, because this one is shutting down. This one never takes over
    again.
    """

    ticket: Ticket
    machine: str = ""


class Promote(msgspec.Struct, frozen=True):
    """The operator makes this machine primary now, even if the lease hasn't run out."""

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
