"""The head: the one shared object. Lease, fence, freshness and the journal's tail in one.

It lies in the bucket under one name and is changed only by compare-and-swap. Its bytes are
``id of the sealing secret (8) · HMAC-SHA256 (32) · content``, the content a msgpack array. Whoever can write the bucket
can put an old head back, which machines notice by its ``rev``, but can't make one: the HMAC's key is derived from the
sealing secret, and is checked before anything is parsed.

>>> from tkdb.journal.seal import SealKey
>>> keys = HeadKeys([SealKey(bytes(32))])
>>> head = first_head(journal=b"j" * 16, attempt=b"a" * 16, owner=b"o" * 16, base="e0-00", place=BEGINNING, epoch=0)
>>> decode_head(encode_head(head, keys), keys) == head
True
>>> decode_head(bytes(200), keys)
Traceback (most recent call last):
...
tkdb.errors.BrokenHead: the head was written under another sealing secret, or isn't one: see `tkdb doctor`
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

from tkdb.api import Bytes16, Count
from tkdb.errors import BrokenHead, BrokenJournal, ConfigurationError
from tkdb.journal.entry import Entry, Hash, check_place
from tkdb.journal.seal import ID_BYTES, SealKey

RECENT_ENTRIES_MAX: Final = 256
RECENT_BYTES_MAX: Final = 64 * 1024
HEAD_BYTES_MAX: Final = RECENT_BYTES_MAX + 1024

NOBODY: Final = bytes(16)
"""The owner of a head that was handed over: ``machine`` is whose turn it is, empty for anyone's."""

_KEY_LABEL: Final = b"tkdb key of heads\0"
_HEAD_LABEL: Final = b"tkdb head 1\0"
_MAC_BYTES: Final = 32
_SEE: Final = "see `tkdb doctor`"

# Names go into headers and paths into URLs: nothing in them can end either.
MachineName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[A-Za-z0-9._-]*\Z")]
_PART: Final = "[A-Za-z0-9][A-Za-z0-9._-]*"
Path = Annotated[str, msgspec.Meta(max_length=128, pattern=rf"\A{_PART}(?:/{_PART})*\Z")]


class Place(NamedTuple):
    """A place in a journal: an entry's number, and its hash, which stands for all entries up to it."""

    seq: int
    hash: bytes


BEGINNING: Final = Place(0, bytes(32))
"""The place before the first entry."""


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """What the bucket holds.

    Attributes:
        journal: the journal's id.
        rev: one more with each swap.
        attempt: random, new with each swap that is tried, so that no two heads ever have the same bytes.
        epoch: one more with each primary.
        owner: the random id of the primary's process, or ``NOBODY``.
        machine: the primary's machine, for routing; with ``NOBODY``, the machine that is to be next.
        region: the primary's region.
        lease_ms: how long a head must have stood unchanged before another machine may take over.
        base: the path, in the bucket, that the primary's Litestream writes.
        seq: the number of the last entry that is acknowledged.
        hash: that entry's hash.
        recent: the last entries, up to that one. Those before it are in ``base``.
    """

    journal: Bytes16
    rev: Count
    attempt: Bytes16
    epoch: Count
    owner: Bytes16
    machine: MachineName
    region: MachineName
    lease_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)]
    base: Path
    seq: Count
    hash: Hash
    recent: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=RECENT_ENTRIES_MAX)] = ()

    @property
    def place(self) -> Place:
        """The last place that this head names."""
        return Place(self.seq, self.hash)

    @property
    def places(self) -> tuple[Place, ...]:
        """Every place that this head names, in order: from before its first recent entry to its last."""
        if not self.recent:
            return (self.place,)
        first = self.recent[0]
        return (Place(first.seq - 1, first.previous), *(Place(entry.seq, entry.hash) for entry in self.recent))

    def contradicts(self, place: Place) -> bool:
        """Return whether ``place``, which an earlier head has named, is shown not to lie on this head's journal."""
        places = self.places
        return place.seq > self.seq or (place.seq >= places[0].seq and places[place.seq - places[0].seq] != place)

    def after(self, place: Place) -> tuple[Entry, ...] | None:
        """Return the entries that lead from ``place`` to this head; None where it doesn't name that place."""
        places = self.places
        skip = place.seq - places[0].seq
        if not 0 <= skip < len(places) or places[skip] != place:
            return None
        return self.recent[skip:]


class HeadKeys:
    """The keys under which heads are authenticated: each derived from one sealing secret. The first writes, all read.

    Raises:
        ConfigurationError: there is none.
    """

    def __init__(self, keys: Sequence[SealKey]) -> None:
        if not keys:
            raise ConfigurationError("no sealing secret is given", hint="set TKDB_SEAL_KEYS")
        self._first_id = keys[0].id
        self._keys = {key.id: hmac.digest(key.raw, _KEY_LABEL, "sha256") for key in keys}

    def __repr__(self) -> str:
        return f"HeadKeys({', '.join(key.hex() for key in self._keys)})"

    def sign(self, content: bytes) -> bytes:
        """Return ``content`` as it lies in the bucket."""
        return self._first_id + self._mac(self._first_id, content) + content

    def open(self, raw: bytes) -> memoryview:
        """Return the content of ``raw``.

        Raises:
            BrokenHead: no holder of these keys wrote it.
        """
        key_id, mac, content = raw[:ID_BYTES], raw[ID_BYTES : ID_BYTES + _MAC_BYTES], raw[ID_BYTES + _MAC_BYTES :]
        if key_id not in self._keys:
            raise BrokenHead("the head was written under another sealing secret, or isn't one", hint=_SEE)
        if not hmac.compare_digest(mac, self._mac(key_id, content)):
            raise BrokenHead("the head was altered in the bucket", hint=_SEE)
        return memoryview(content)

    def _mac(self, key_id: bytes, content: bytes) -> bytes:
        return hmac.digest(self._keys[key_id], _HEAD_LABEL + content, "sha256")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Head)


def first_head(
    *,
    journal: bytes,
    attempt: bytes,
    owner: bytes,
    base: str,
    place: Place,
    epoch: int,
    machine: str = "",
    region: str = "",
    lease_ms: int = 9_000,
) -> Head:
    """Return the head that begins a cluster. ``base`` holds the whole journal, to ``place``; ``epoch`` is its entry's.

    It is put only where there is none (If-None-Match: *). Its maker isn't primary by it; whoever finds ``owner`` on its
    own volume, or that owner's lease run out, takes over.
    """
    return Head(
        journal=journal,
        rev=0,
        attempt=attempt,
        epoch=epoch,
        owner=owner,
        machine=machine,
        region=region,
        lease_ms=lease_ms,
        base=base,
        seq=place.seq,
        hash=place.hash,
    )


def encode_head(head: Head, keys: HeadKeys) -> bytes:
    """Return a head as it lies in the bucket. The same head has one encoding under the same keys."""
    return keys.sign(_encoder.encode(head))


def decode_head(raw: bytes, keys: HeadKeys) -> Head:
    """Return the head in ``raw``.

    Raises:
        BrokenHead: it is too long, no holder of the keys wrote it, or its recent entries don't lead to its place.
    """
    if len(raw) > HEAD_BYTES_MAX:
        raise BrokenHead(f"the head is {len(raw)} bytes; {HEAD_BYTES_MAX} are the most", hint=_SEE)
    content = keys.open(raw)
    try:
        head = _decoder.decode(content)
        for before, entry in zip(head.recent, head.recent[1:], strict=False):
            check_place(before.head, entry)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BrokenHead("the head can't be read", hint="is this version older than the one that wrote it?") from None
    except BrokenJournal as error:
        raise BrokenHead(f"the head's recent entries don't hold together: {error.message}", hint=_SEE) from None
    if head.places[-1] != head.place:
        raise BrokenHead(f"the head's recent entries don't end at its own {head.seq}", hint=_SEE)
    return head
