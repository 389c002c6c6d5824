"""The head: the one object that all machines share. It contains the lease, the fence, freshness and the journal's tail.

It has one name in the bucket, and is changed only by compare-and-swap. Its bytes are ``id of the sealing secret (8) ·
HMAC-SHA256 (32) · content``, and the content is a msgpack array. An attacker who can write to the bucket can put an old
head back, which machines detect by its ``rev``. They can't create a head: the HMAC's key is derived from the sealing
secret, and the HMAC is checked before anything is parsed.

>>> from tkdb.journal.seal import SealKey
>>> keys = HeadKeys([SealKey(bytes(32))])
>>> head = first_head(journal=b"j" * 16, attempt=b"a" * 16, owner=b"o" * 16, base="e0-00", place=BEGINNING, epoch=0)
>>> decode_head(encode_head(head, keys), keys) == head
True
>>> decode_head(bytes(200), keys)
Traceback (most recent call last):
...
tkdb.errors.BrokenHead: the head has another sealing secret, or isn't a head: see `tkdb doctor`
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
"""The owner of a head after a handover. ``machine`` is then the next primary, or empty if any machine may be next."""

_KEY_LABEL: Final = b"tkdb key of heads\0"
_HEAD_LABEL: Final = b"tkdb head 1\0"
_MAC_BYTES: Final = 32
_SEE: Final = "see `tkdb doctor`"

# Names go into headers, and paths into URLs: no character in them may end either.
MachineName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[A-Za-z0-9._-]*\Z")]
_PART: Final = "[A-Za-z0-9][A-Za-z0-9._-]*"
Path = Annotated[str, msgspec.Meta(max_length=128, pattern=rf"\A{_PART}(?:/{_PART})*\Z")]


class Checkpoint(NamedTuple):
    """A point in a journal: the position of an entry, and its hash, which covers all entries up to it."""

    seq: int
    hash: bytes


BEGINNING: Final = Checkpoint(0, bytes(32))
"""The point before the first entry."""


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """The content of the shared object.

    Attributes:
        journal: the journal's id.
        rev: a counter that grows by one with each swap.
        attempt: random bytes, new for each swap that is tried, so that no two heads ever have the same bytes.
        epoch: a counter that grows by one with each primary.
        owner: the random id of the primary's process, or ``NOBODY``.
        machine: the primary's machine, for routing. With ``NOBODY``: the machine that is next.
        region: the primary's region.
        lease_ms: how long the head must be unchanged before another machine may take over.
        base: the path in the bucket that the primary's Litestream writes to.
        seq: the position of the last acknowledged entry.
        hash: the hash of that entry.
        recent: the last entries, up to ``seq``. The entries before them are in ``base``.
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
    def place(self) -> Checkpoint:
        """The last point that this head names."""
        return Checkpoint(self.seq, self.hash)

    @property
    def places(self) -> tuple[Checkpoint, ...]:
        """Every point that this head names, in order: from the one before its first recent entry to its last."""
        if not self.recent:
            return (self.place,)
        first = self.recent[0]
        return (
            Checkpoint(first.seq - 1, first.previous),
            *(Checkpoint(entry.seq, entry.hash) for entry in self.recent),
        )

    def contradicts(self, place: Checkpoint) -> bool:
        """Return True if this head shows that ``place``, which an earlier head named, isn't on its journal."""
        places = self.places
        return place.seq > self.seq or (place.seq >= places[0].seq and places[place.seq - places[0].seq] != place)

    def after(self, place: Checkpoint) -> tuple[Entry, ...] | None:
        """Return the entries that lead from ``place`` to this head, or None if the head doesn't name ``place``."""
        places = self.places
        skip = place.seq - places[0].seq
        if not 0 <= skip < len(places) or places[skip] != place:
            return None
        return self.recent[skip:]


class HeadKeys:
    """The keys that authenticate heads. Each is derived from one sealing secret. The first writes, and all read.

    Raises:
        ConfigurationError: there is no sealing secret.
    """

    def __init__(self, keys: Sequence[SealKey]) -> None:
        if not keys:
            raise ConfigurationError("no sealing secret is given", hint="set TKDB_SEAL_KEYS")
        self._first_id = keys[0].id
        self._keys = {key.id: hmac.digest(key.raw, _KEY_LABEL, "sha256") for key in keys}

    def __repr__(self) -> str:
        return f"HeadKeys({', '.join(key.hex() for key in self._keys)})"

    def sign(self, content: bytes) -> bytes:
        """Return ``content`` in the form that the bucket stores."""
        return self._first_id + self._mac(self._first_id, content) + content

    def open(self, raw: bytes) -> memoryview:
        """Return the content of ``raw``.

        Raises:
            BrokenHead: ``raw`` wasn't written with one of these keys.
        """
        key_id, mac, content = raw[:ID_BYTES], raw[ID_BYTES : ID_BYTES + _MAC_BYTES], raw[ID_BYTES + _MAC_BYTES :]
        if key_id not in self._keys:
            raise BrokenHead("the head has another sealing secret, or isn't a head", hint=_SEE)
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
    place: Checkpoint,
    epoch: int,
    machine: str = "",
    region: str = "",
    lease_ms: int = 9_000,
) -> Head:
    """Return the first head of a cluster, or of a new journal. ``base`` contains the whole journal up to ``place``,
    whose entry has ``epoch``.

    It doesn't make its creator primary. A machine takes over if ``owner`` is on its own volume, or when that owner's
    lease runs out.
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
    """Return a head in the form that the bucket stores. One head has one encoding under the same keys."""
    return keys.sign(_encoder.encode(head))


def decode_head(raw: bytes, keys: HeadKeys) -> Head:
    """Return the head in ``raw``.

    Raises:
        BrokenHead: ``raw`` is too long, wasn't written with one of the keys, or has recent entries that don't end at
            its position.
    """
    if len(raw) > HEAD_BYTES_MAX:
        raise BrokenHead(f"the head has {len(raw)} bytes, and at most {HEAD_BYTES_MAX} are allowed", hint=_SEE)
    content = keys.open(raw)
    try:
        head = _decoder.decode(content)
        for before, entry in zip(head.recent, head.recent[1:], strict=False):
            check_place(before.head, entry)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BrokenHead(
            "the head can't be read", hint="upgrade this machine if a newer version wrote the head"
        ) from None
    except BrokenJournal as error:
        raise BrokenHead(f"the head's recent entries don't follow each other: {error.message}", hint=_SEE) from None
    if head.places[-1] != head.place:
        raise BrokenHead(f"the head's recent entries don't end at its own {head.seq}", hint=_SEE)
    return head
