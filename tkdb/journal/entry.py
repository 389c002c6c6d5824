"""The journal's entries, and the chain that holds them together.

Each entry carries the hash of the one before it, and its own: HMAC-SHA256 (RFC 2104) under the chain key over
all of its fields. Who doesn't hold the chain key can neither alter an entry, nor drop, swap or add one. Only
the end can be cut off unseen; who keeps the last hash elsewhere sees that too.

>>> from tkdb.journal.additions import Purged
>>> key = ChainKey(bytes(32))
>>> entry = link(START, key, now_ms=5, epoch=0, made=Purged())
>>> check_link(START, key, entry)
>>> check_link(START, key, msgspec.structs.replace(entry, time_ms=6))
Traceback (most recent call last):
...
tkdb.errors.BrokenJournal: entry 1: its hash is not that of its content: restore a copy that audits clean
"""

from __future__ import annotations

import hmac
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec

from tkdb import errors
from tkdb.api import Count
from tkdb.journal.additions import Made, encode_made
from tkdb.journal.seal import ChainKey

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]

_LABEL: Final = b"tkdb journal entry 1\0"
_ALTERED: Final = "restore a copy that audits clean"


class Head(NamedTuple):
    """The end of a journal: what the next entry is linked to."""

    seq: int
    hash: bytes
    epoch: int
    time_ms: int


START: Final = Head(seq=0, hash=bytes(32), epoch=0, time_ms=0)


class Origin(msgspec.Struct, frozen=True):
    """Who asked, with the proof of it. All empty: the authority itself, or whoever possessed a token.

    ``signer`` is the 16-byte thumbprint of the signer's key, ``signature`` its Ed25519 signature over the
    prologue of ``/v1/write``, ``signed_ms``, ``request_id`` and the request's body.
    """

    signer: bytes = b""
    request_id: bytes = b""
    signed_ms: int = 0
    signature: bytes = b""


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One write. ``body`` is the request's bytes exactly as they were signed, ``made`` what was added to them."""

    seq: Count
    previous: Hash
    epoch: Count
    time_ms: Count
    signer: Annotated[bytes, msgspec.Meta(max_length=16)]
    request_id: Annotated[bytes, msgspec.Meta(max_length=16)]
    signed_ms: Count
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]
    body: bytes
    made: bytes
    hash: Hash

    @property
    def head(self) -> Head:
        """The journal's end, once this entry is its last."""
        return Head(self.seq, self.hash, self.epoch, self.time_ms)


class Entries(Protocol):
    """Where the entries of a journal are read: on a disk, as a rule."""

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """Return at most ``limit`` entries after seq ``after``, in order.

        Raises:
            StoreError: they can't be read.
        """


_NOBODY: Final = Origin()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def link(
    head: Head,
    chain_key: ChainKey,
    *,
    now_ms: int,
    epoch: int,
    made: Made | None = None,
    body: bytes = b"",
    origin: Origin = _NOBODY,
) -> Entry:
    """Return the entry that follows ``head``. Its time is ``now_ms``, or that of ``head`` where a clock fell back.

    ``chain_key`` is the one in force once the entry is applied: an entry that brings a chain key is hashed
    under that, so that who holds only older ones can't put another history before it.
    """
    time_ms = max(now_ms, head.time_ms)
    entry = Entry(
        seq=head.seq + 1,
        previous=head.hash,
        epoch=epoch,
        time_ms=time_ms,
        signer=origin.signer,
        request_id=origin.request_id,
        signed_ms=origin.signed_ms,
        signature=origin.signature,
        body=body,
        made=encode_made(made),
        hash=bytes(32),
    )
    return msgspec.structs.replace(entry, hash=_hash(chain_key, entry))


def check_place(head: Head, entry: Entry) -> None:
    """Check that ``entry`` says to follow ``head``.

    Raises:
        BrokenJournal: another number or previous hash is expected, or time or epoch would decrease.
    """
    if entry.seq != head.seq + 1:
        raise errors.BrokenJournal(f"entry {entry.seq} stands where {head.seq + 1} is expected", hint=_ALTERED)
    if entry.previous != head.hash:
        raise errors.BrokenJournal(f"entry {entry.seq}: it doesn't follow entry {head.seq} as it is", hint=_ALTERED)
    if entry.time_ms < head.time_ms or entry.epoch < head.epoch:
        raise errors.BrokenJournal(f"entry {entry.seq}: its time or epoch is before its predecessor's", hint=_ALTERED)


def check_link(head: Head, chain_key: ChainKey, entry: Entry) -> None:
    """Check that ``entry`` follows ``head`` and was written by a holder of ``chain_key``.

    Raises:
        BrokenJournal: it doesn't, or wasn't.
    """
    check_place(head, entry)
    if not hmac.compare_digest(entry.hash, _hash(chain_key, entry)):
        raise errors.BrokenJournal(f"entry {entry.seq}: its hash is not that of its content", hint=_ALTERED)


def encode_entry(entry: Entry) -> bytes:
    """Return an entry as it travels between machines."""
    return _encoder.encode(entry)


def decode_entry(raw: bytes) -> Entry:
    """Return the entry in ``raw``.

    Raises:
        BrokenJournal: it isn't one.
    """
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.BrokenJournal("these bytes are not an entry of a journal", hint=_ALTERED) from None


def _hash(chain_key: ChainKey, entry: Entry) -> bytes:
    # Canonical: msgspec writes each value in msgpack's shortest form, and an array has one order.
    content = _encoder.encode(msgspec.structs.replace(entry, hash=b""))
    return hmac.digest(chain_key.raw, _LABEL + content, "sha256")
