"""What a machine wants done. Whoever carries actions out does so in their order.

``Remember``, ``StartReplication`` and ``StopReplication`` are done before the next action is begun. The others are only
begun by then, and what becomes of them comes back as an event.
"""

from __future__ import annotations

import msgspec

from tkdb.errors import StoreError, TkdbError
from tkdb.journal.entry import Entry
from tkdb_replication.protocol.events import Ticket
from tkdb_replication.protocol.head import Place


class Read(msgspec.Struct, frozen=True):
    """GET the head, If-None-Match ``etag`` where there is one. Answered by ``ReadAnswered``."""

    read: int
    etag: str | None


class Swap(msgspec.Struct, frozen=True):
    """PUT ``body`` as the head, If-Match ``etag``, without any retry. Answered by ``SwapAnswered``."""

    attempt: bytes
    body: bytes
    etag: str


class Remember(msgspec.Struct, frozen=True):
    """Keep these on this machine's disk, for the ``Volume`` of its next start.

    Where that fails it is tried again: nothing after it may be begun before.
    """

    rev: int
    place: Place
    owner: bytes


class CutBack(msgspec.Struct, frozen=True):
    """Cut the journal back to the last of ``places`` that lies on it; where none does, leave it as it is.

    Nothing past that place was ever acknowledged. Answered by ``JournalAt``, with the journal's end as it is now.
    Like all three of these, it waits until a commit that has begun has ended, and been told. Where there is nothing to
    cut, it writes nothing: it must succeed on a disk that is full.
    """

    step: int
    places: tuple[Place, ...]


class Apply(msgspec.Struct, frozen=True):
    """Check ``entries`` against the chain key and append them to the journal. Answered by ``JournalAt``.

    All in one transaction: where a batch was published as one, no machine ever shows a part of it.
    """

    step: int
    entries: tuple[Entry, ...]


class Restore(msgspec.Struct, frozen=True):
    """Replace the journal by the latest that ``base`` holds. Answered by ``JournalAt``.

    Restore into a new file beside the old one, check its chain, cut it back to the last of ``places`` that lies on it,
    and swap the files. Where none lies on it, or where ``through`` doesn't, the last place that was served here, the
    old file is kept: the step failed.
    """

    step: int
    base: str
    places: tuple[Place, ...]
    through: Place


class Serve(msgspec.Struct, frozen=True):
    """Let memory, feed, minting and positions show the journal up to ``place``, and nothing past it.

    One after the other. Answered by ``Served``: until then the machine vouches for no more than before.
    """

    place: Place


class StartReplication(msgspec.Struct, frozen=True):
    """Delete Litestream's local folder, and start it on ``path``, which was never used before.

    Where that fails, its syncs fail.
    """

    path: str


class StopReplication(msgspec.Struct, frozen=True):
    """Stop Litestream."""


class Sync(msgspec.Struct, frozen=True):
    """Have Litestream bring all that is committed into the object store. Answered by ``Synced`` or ``SyncFailed``."""

    sync: int


class Acknowledge(msgspec.Struct, frozen=True):
    """Tell the caller that it is done, at position ``seq``: a head contains it."""

    ticket: Ticket
    seq: int


class Fail(msgspec.Struct, frozen=True):
    """Tell the caller that it isn't done, or that nobody knows whether it is."""

    ticket: Ticket
    error: TkdbError


class Alarm(msgspec.Struct, frozen=True):
    """Say loudly that the bucket holds no head that can be believed. It is said once, and lasts until one is read."""

    error: StoreError


Action = (
    Read
    | Swap
    | Remember
    | CutBack
    | Apply
    | Restore
    | Serve
    | StartReplication
    | StopReplication
    | Sync
    | Acknowledge
    | Fail
    | Alarm
)
