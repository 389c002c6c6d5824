"""The journal's entries, and the chain that links them.

Each entry has the hash of the entry before it and its own hash: HMAC-SHA256 (RFC 2104) under the chain key over all
fields. An attacker without the chain key can't alter, drop, swap or add an entry without detection. Limit: only a
reader who keeps the last hash in another place can detect that someone cut off the end.

>>> from tkdb.journal.additions import Purged
>>> key = ChainKey(bytes(32))
>>> entry = link(START, key, now_ms=5, epoch=0, made=Purged())
>>> check_link(START, key, entry)
>>> check_link(START, key, msgspec.structs.replace(entry, time_ms=6))
Traceback (most recent call last):
...
tkdb.errors.BrokenJournal: entry 1: its hash doesn't match its content: restore a copy that audits clean
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


class Tip(NamedTuple):
    """The tip of a journal, to which the next entry is linked."""

    seq: int
    hash: bytes
    epoch: int
    time_ms: int


START: Final = Tip(seq=0, hash=bytes(32), epoch=0, time_ms=0)


class Origin(msgspec.Struct, frozen=True):
    """The signer who sent a request, and the proof. All fields are empty for the authority itself or a token's holder.

    ``signer`` is the 16-byte thumbprint of the signer's key. ``signature`` is made with this key by Ed25519, over the
    prologue of ``/v1/write``, ``signed_ms``, ``request_id`` and the request's body.
    """

    signer: bytes = b""
    request_id: bytes = b""
    signed_ms: int = 0
    signature: bytes = b""


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One write. ``body`` holds the request's bytes exactly as signed, ``made`` the data that the authority added."""

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

    def __repr__(self) -> str:
        return f"<Entry {self.seq} of epoch {self.epoch}>"  # the body may contain a token

    @property
    def head(self) -> Tip:
        """The journal's tip when this entry is the last one."""
        return Tip(self.seq, self.hash, self.epoch, self.time_ms)


class Entries(Protocol):
    """A source of a journal's entries, usually a disk."""

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """Return at most ``limit`` entries after seq ``after``, in order.

        Raises:
            StoreError: they can't be read.
        """


_NOBODY: Final = Origin()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def link(
    head: Tip,
    chain_key: ChainKey,
    *,
    now_ms: int,
    epoch: int,
    made: Made | None = None,
    body: bytes = b"",
    origin: Origin = _NOBODY,
) -> Entry:
    """Return the entry that follows ``head``. Its time is ``now_ms``, or the time of ``head`` if that is later.

    ``chain_key`` is the chain key in force after the entry is applied. An entry that adds a chain key is hashed under
    the new key, so that an attacker who holds only older keys can't put another history before it.
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


def check_place(head: Tip, entry: Entry) -> None:
    """Check that the position, previous hash, time and epoch of ``entry`` follow ``head``.

    Raises:
        BrokenJournal: another position or previous hash is expected, or the time or the epoch would decrease.
    """
    if entry.seq != head.seq + 1:
        raise errors.BrokenJournal(f"entry {entry.seq} is in the place of entry {head.seq + 1}", hint=_ALTERED)
    if entry.previous != head.hash:
        raise errors.BrokenJournal(
            f"entry {entry.seq}: it doesn't follow entry {head.seq}, which has another hash", hint=_ALTERED
        )
    if entry.time_ms < head.time_ms or entry.epoch < head.epoch:
        raise errors.BrokenJournal(
            f"entry {entry.seq}: its time or its epoch is lower than that of the entry before", hint=_ALTERED
        )


def check_link(head: Tip, chain_key: ChainKey, entry: Entry) -> None:
    """Check that ``entry`` follows ``head`` and was written by a holder of ``chain_key``.

    Raises:
        BrokenJournal: one of the two is not the case.
    """
    check_place(head, entry)
    if not hmac.compare_digest(entry.hash, _hash(chain_key, entry)):
        raise errors.BrokenJournal(f"entry {entry.seq}: its hash doesn't match its content", hint=_ALTERED)


def encode_entry(entry: Entry) -> bytes:
    """Return an entry in the form in which machines send it to each other."""
    return _encoder.encode(entry)


def decode_entry(raw: bytes) -> Entry:
    """Return the entry in ``raw``.

    Raises:
        BrokenJournal: the bytes aren't an entry.
    """
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.BrokenJournal("these bytes are not an entry of a journal", hint=_ALTERED) from None


def _hash(chain_key: ChainKey, entry: Entry) -> bytes:
    # The encoding is canonical: msgspec writes each value in msgpack's shortest form, and an array has a fixed order.
    content = _encoder.encode(msgspec.structs.replace(entry, hash=b""))
    return hmac.digest(chain_key.raw, _LABEL + content, "sha256")
