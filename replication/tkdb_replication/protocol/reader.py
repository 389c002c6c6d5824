"""The reader of the head: when it is read, and which heads are accepted.

At most one read is in flight; an answer to any other is dropped. A head is rejected if it belongs to another journal,
or if its rev is below the highest one seen. A lower rev may be a late answer, which is harmless. But if the read was
sent after the higher rev was known, the bucket was put back to an older copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from tkdb.errors import BrokenHead
from tkdb_replication.bucket.objects import Found, Missing, NotModified
from tkdb_replication.protocol.actions import Read
from tkdb_replication.protocol.events import ReadAnswered
from tkdb_replication.protocol.head import BEGINNING, Checkpoint, Head, HeadKeys, decode_head
from tkdb_replication.protocol.settings import NEVER_MS, ProtocolSettings

_PUT_BACK: Final = "put the newest head back, or see `tkdb recover`"


class Known(NamedTuple):
    """An accepted head, and its ETag."""

    head: Head
    etag: str


class Seen(NamedTuple):
    """The head that a read returned, and the time at which the read was sent."""

    known: Known
    sent_ms: int


class _InFlight(NamedTuple):
    """A read that was sent, the time, and the head whose ETag the read carries."""

    read: int
    sent_ms: int
    known: Known | None


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """The facts on a machine's disk when it starts.

    Attributes:
        journal: the journal's id; None for a new, empty volume.
        rev: the highest rev seen when the machine last served; -1 for none.
        place: the last point that was served.
        owner: the process that was the last to be primary, or to try, on this volume; empty for none. One process at a
            time locks a volume.
    """

    journal: bytes | None = None
    rev: int = -1
    place: Checkpoint = BEGINNING
    owner: bytes = b""


class HeadReader:
    """Reads the head.

    Args:
        settings: the pauses between reads.
        keys: the keys that authenticate heads.
        volume: the journal and the rev on this machine's disk.
    """

    def __init__(self, settings: ProtocolSettings, keys: HeadKeys, volume: Volume) -> None:
        self.known: Known | None = None
        """The newest head; None before the first."""
        self.rev = volume.rev
        """The highest rev seen."""
        self.place = volume.place
        """The last place that was served here: it lies on the journal of every later head."""
        self._journal = volume.journal
        self._settings = settings
        self._keys = keys
        self._rev_ms = self._sent_ms = self._asked_ms = -NEVER_MS
        self._in_flight: _InFlight | None = None
        self._at_once = False

    def asked(self, now_ms: int) -> None:
        """Record that a caller sent a request. While callers do, the head is read often."""
        self._asked_ms = now_ms

    def hurry(self) -> None:
        """Make the next read due at once."""
        self._at_once = True

    def due_ms(self, *, urgent: bool) -> int:
        """Return when the next read is due, or when the one in flight is given up. ``urgent``: something waits for the
        read."""
        if self._in_flight is not None:
            return self._in_flight.sent_ms + self._settings.answer_ms
        in_use = urgent or self.known is None or self._sent_ms - self._asked_ms < self._settings.in_use_ms
        pace_ms = self._settings.poll_ms if in_use else self._settings.idle_poll_ms
        return -NEVER_MS if self._at_once else self._sent_ms + pace_ms

    def read(self, number: Callable[[], int], now_ms: int, *, urgent: bool) -> Read | None:
        """Return the next read, with the next ``number``, or None if it isn't due."""
        if now_ms >= self.due_ms(urgent=urgent):
            self._in_flight = None  # if a read was in flight, its answer is late
        if self._in_flight is not None or now_ms < self.due_ms(urgent=urgent):
            return None
        self._in_flight = _InFlight(number(), now_ms, self.known)
        self._sent_ms, self._at_once = now_ms, False
        return Read(self._in_flight.read, self.known.etag if self.known else None)

    def answered(self, event: ReadAnswered) -> Seen | None:
        """Return the head that a read returned, or None if there is none, or none that is new enough.

        Raises:
            BrokenHead: the bucket holds no head that this machine may follow.
        """
        reading = self._in_flight
        if reading is None or event.read != reading.read:
            return None
        self._in_flight = None
        match event.answer:
            case Missing():
                raise BrokenHead("the bucket has no head", hint="create one with `tkdb init`, or see `tkdb recover`")
            case NotModified():
                known = reading.known
            case Found(body, etag):
                known = Known(decode_head(body, self._keys), etag)
            case _:
                known = None
        if known is None or self._is_old(known.head, reading.sent_ms):
            return None
        return Seen(known, reading.sent_ms)

    def accept(self, known: Known, now_ms: int) -> None:
        """Record the newest head."""
        self.known = known
        self._journal = known.head.journal
        if known.head.rev > self.rev:
            self.rev, self._rev_ms = known.head.rev, now_ms

    def _is_old(self, head: Head, sent_ms: int) -> bool:
        if self._journal not in (None, head.journal):
            raise BrokenHead(
                f"the head belongs to journal {head.journal.hex()}, and this machine's volume to another",
                hint="use a volume and a bucket of the same journal",
            )
        if head.rev < self.rev and sent_ms > self._rev_ms:
            raise BrokenHead(f"the head went back from rev {self.rev} to {head.rev}", hint=_PUT_BACK)
        if self.known and head.rev == self.known.head.rev and head.attempt != self.known.head.attempt:
            raise BrokenHead(f"another head with rev {head.rev} replaced the known one", hint=_PUT_BACK)
        if head.rev >= self.rev and head.contradicts(self.place):
            raise BrokenHead(f"the head's journal lacks entry {self.place.seq}, which was acknowledged", hint=_PUT_BACK)
        return head.rev < self.rev
