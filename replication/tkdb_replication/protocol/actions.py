"""The actions of the state machine. They are carried out in their order.

``Remember``, ``StartReplication`` and ``StopReplication`` are completed before the next action begins. The others only
begin before it, and their outcomes come back as events.
"""

from __future__ import annotations

import msgspec

from tkdb.errors import StoreError, TkdbError
from tkdb.journal.entry import Entry
from tkdb_replication.protocol.events import Ticket
from tkdb_replication.protocol.head import Checkpoint


class Read(msgspec.Struct, frozen=True):
    """GET the head, with If-None-Match ``etag`` if there is one. Answered by ``ReadAnswered``."""

    read: int
    etag: str | None


class Swap(msgspec.Struct, frozen=True):
    """PUT ``body`` as the head, with If-Match ``etag``, and without any retry. Answered by ``SwapAnswered``."""

    attempt: bytes
    body: bytes
    etag: str

    def __repr__(self) -> str:
        # Not the body: the head contains entries, and these may contain tokens.
        return f"Swap({len(self.body)} bytes, etag={self.etag!r})"


class Remember(msgspec.Struct, frozen=True):
    """Store these values on this machine's disk, for the ``Volume`` of its next start.

    If that fails, it is tried again: no later action may begin before it succeeds.
    """

    rev: int
    place: Checkpoint
    owner: bytes


class CutBack(msgspec.Struct, frozen=True):
    """Cut the journal back to the last of ``places`` that is on it. If none is on it, leave the journal as it is.

    No entry after that point was ever acknowledged. Answered by ``JournalAt``, with the new end of the journal. Like
    ``Apply`` and ``RestoreBackup``, it waits until a commit that has begun has ended, and the machine was informed. If
    there is nothing to cut, it writes nothing: it must succeed on a full disk.
    """

    step: int
    places: tuple[Checkpoint, ...]


class Apply(msgspec.Struct, frozen=True):
    """Check ``entries`` against the chain key, and append them to the journal. Answered by ``JournalAt``.

    All entries go into one transaction: if a batch was published together, no machine ever shows a part of it.
    """

    step: int
    entries: tuple[Entry, ...]


class RestoreBackup(msgspec.Struct, frozen=True):
    """Replace the journal with the latest copy in ``base``. Answered by ``JournalAt``.

    Restore into a new file next to the old one, check its chain, cut it back to the last of ``places`` that is on it,
    and swap the files. The step fails, and the old file stays, if none of ``places`` is on it, or if ``through`` isn't:
    the last point that was served here.
    """

    step: int
    base: str
    places: tuple[Checkpoint, ...]
    through: Checkpoint


class Serve(msgspec.Struct, frozen=True):
    """Let memory, feed, minting and positions show the journal up to ``place``, and nothing after it.

    These actions run one after the other. Answered by ``Served``; until then the machine reports no newer data than
    before.
    """

    place: Checkpoint


class StartReplication(msgspec.Struct, frozen=True):
    """Delete Litestream's local folder, and start Litestream on ``path``, which was never used before.

    If that fails, its syncs fail.
    """

    path: str


class StopReplication(msgspec.Struct, frozen=True):
    """Stop Litestream."""


class Sync(msgspec.Struct, frozen=True):
    """Make Litestream upload every committed entry to the object store. Answered by ``Synced`` or ``SyncFailed``."""

    sync: int


class Acknowledge(msgspec.Struct, frozen=True):
    """Acknowledge a caller's request, at position ``seq``: a head contains it."""

    ticket: Ticket
    seq: int


class Fail(msgspec.Struct, frozen=True):
    """Give the caller an error: the request isn't done, or its outcome is unknown."""

    ticket: Ticket
    error: TkdbError


class Alarm(msgspec.Struct, frozen=True):
    """Log an error: the bucket holds no valid head. It is logged once, and holds until a valid head is read."""

    error: StoreError


Action = (
    Read
    | Swap
    | Remember
    | CutBack
    | Apply
    | RestoreBackup
    | Serve
    | StartReplication
    | StopReplication
    | Sync
    | Acknowledge
    | Fail
    | Alarm
)
