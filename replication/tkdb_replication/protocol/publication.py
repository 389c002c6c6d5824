"""The publication: the primary's journal from the first entry of ``recent`` on, and the callers that wait for its
entries.

An entry is committed on the primary, then named by a head, then uploaded to the object store by Litestream. It may
leave ``recent`` only once it is uploaded, and was in ``recent`` long enough for replicas to read it. So every entry
that a head covers is always in the object store: in ``base``, or in the head itself.

>>> from tkdb.journal.entry import START, link
>>> from tkdb.journal.additions import Purged
>>> from tkdb.journal.seal import ChainKey
>>> from tkdb_replication.protocol.head import BEGINNING
>>> publication = Publication(ProtocolSettings(machine="m1"), (), BEGINNING, now_ms=0)
>>> publication.add([link(START, ChainKey(bytes(32)), now_ms=1, epoch=1, made=Purged())], "ticket", now_ms=5)
>>> [entry.seq for entry in publication.recent(now_ms=6)]
[1]
>>> publication.named(publication.end, now_ms=9)
[('ticket', 1)]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tkdb.errors import BrokenJournal, InvalidRequest, Overloaded
from tkdb.journal.entry import Entry, encode_entry
from tkdb_replication.protocol.events import Ticket
from tkdb_replication.protocol.head import Checkpoint
from tkdb_replication.protocol.settings import NEVER_MS, ProtocolSettings


@dataclass(slots=True)
class _Item:
    """An entry, its size, the time of its commit, and the time since when a head names it."""

    entry: Entry
    size: int
    committed_ms: int
    named_ms: int | None


class Publication:
    """The entries that are, or will be, in ``recent``. A machine has a publication for as long as it is primary.

    Args:
        settings: the limits.
        recent: the entries of the head that made it primary. All of them are in its own base.
        end: the last point of that head.
        now_ms: the time of that head.
    """

    def __init__(self, settings: ProtocolSettings, recent: tuple[Entry, ...], end: Checkpoint, now_ms: int) -> None:
        self.end = end
        """The end of the primary's journal."""
        self.named_seq = end.seq
        """The last entry that a head names."""
        self._settings = settings
        self._items = deque(_Item(entry, len(encode_entry(entry)), now_ms, now_ms) for entry in recent)
        self._size = sum(item.size for item in self._items)
        self._synced_seq = end.seq
        self._success_ms = now_ms
        self._failing_since_ms: int | None = None
        self._waiting: list[tuple[int, Ticket]] = []

    @property
    def pending(self) -> bool:
        """Whether there are entries that no head names yet."""
        return self.end.seq > self.named_seq

    @property
    def unsynced(self) -> bool:
        """Whether there are entries that Litestream isn't known to have uploaded."""
        return self.end.seq > self._synced_seq

    def has_room(self, entries: int, size: int, now_ms: int) -> bool:
        """Return True if ``entries`` more entries, of ``size`` bytes together, fit after every entry that may leave
        has left."""
        entries += len(self._items)
        size += self._size
        for item in self._items:
            if self._fit(entries, size) or not self._may_leave(item, now_ms, self._settings.span_ms):
                break
            entries -= 1
            size -= item.size
        return self._fit(entries, size)

    def require_room(self, entries: int, size: int, now_ms: int) -> None:
        """Return if ``entries`` more entries, of ``size`` bytes together, have room.

        Raises:
            Overloaded: they have no room now.
            InvalidRequest: it is a single entry that never has room.
        """
        if entries == 1 and size > self._settings.recent_bytes:
            raise InvalidRequest(
                f"this write makes an entry of {size} bytes, and at most {self._settings.recent_bytes} are allowed",
                hint="write less at once",
            )
        if not self.has_room(entries, size, now_ms):
            raise Overloaded(
                "there are more writes each second than regions can follow, or than Litestream can upload",
                hint="send fewer writes, with many targets each",
                retry_after_ms=self._settings.span_ms,
            )

    def add(self, entries: Sequence[Entry], ticket: Ticket, now_ms: int) -> None:
        """Add committed entries, at least one. ``ticket`` waits for the last one.

        Raises:
            BrokenJournal: they don't follow the end of the journal.
        """
        for entry in entries:
            if (entry.seq - 1, entry.previous) != self.end:
                raise BrokenJournal(f"entry {entry.seq} was committed, but {self.end.seq + 1} is expected next")
            self._items.append(_Item(entry, size := len(encode_entry(entry)), now_ms, None))
            self._size += size
            self.end = Checkpoint(entry.seq, entry.hash)
        self._failing_since_ms = None
        self.wait(self.end.seq, ticket)

    def failed(self, now_ms: int) -> bool:
        """Record a failed commit. Return True if commits have failed for a whole lease without a success."""
        if self._failing_since_ms is None:
            self._failing_since_ms = now_ms
        return now_ms - self._failing_since_ms >= self._settings.lease_ms

    def wait(self, seq: int, ticket: Ticket) -> None:
        """Let ``ticket`` wait until a head names entry ``seq``."""
        self._waiting.append((seq, ticket))

    def recent(self, now_ms: int) -> tuple[Entry, ...]:
        """Return the entries of the next head."""
        while self._items and self._may_leave(self._items[0], now_ms, self._stay_ms()):
            self._size -= self._items.popleft().size
        return tuple(item.entry for item in self._items)

    def named(self, place: Checkpoint, now_ms: int) -> list[tuple[Ticket, int]]:
        """Record that a head names ``place``. Return the tickets whose entries it covers, each with its entry's
        position."""
        for item in self._items:
            if item.named_ms is None and item.entry.seq <= place.seq:
                item.named_ms = now_ms
        self.named_seq = place.seq
        self._success_ms = now_ms
        told = [(ticket, seq) for seq, ticket in self._waiting if seq <= place.seq]
        self._waiting = [(seq, ticket) for seq, ticket in self._waiting if seq > place.seq]
        return told

    def synced(self, seq: int) -> None:
        """Record that Litestream has uploaded the journal up to entry ``seq``."""
        self._synced_seq = max(seq, self._synced_seq)

    @property
    def stalled_at_ms(self) -> int:
        """The time at which writes will have waited a whole lease without a success; never while none waits."""
        first = next((item for item in self._items if item.named_ms is None), None)
        return NEVER_MS if first is None else max(first.committed_ms, self._success_ms) + self._settings.lease_ms

    @property
    def waiting(self) -> list[Ticket]:
        """The tickets that still wait."""
        return [ticket for _, ticket in self._waiting]

    def _fit(self, entries: int, size: int) -> bool:
        return entries <= self._settings.recent_entries and size <= self._settings.recent_bytes

    def _stay_ms(self) -> int:
        # Keep half of the room free if possible, so that a burst has room.
        crowded = not self._fit(2 * len(self._items), 2 * self._size)
        return self._settings.span_ms if crowded else self._settings.keep_ms

    def _may_leave(self, item: _Item, now_ms: int, stay_ms: int) -> bool:
        if item.named_ms is None or item.entry.seq > self._synced_seq:
            return False
        return now_ms - item.named_ms >= stay_ms
