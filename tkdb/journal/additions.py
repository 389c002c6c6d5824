"""What the authority adds to a request to carry it out: fresh sealed keys, and defaults that were in force.

The request and this, together, are an entry's operation. The request stays as the signer signed it; what
needed randomness, a clock or the configuration is here, so that applying an entry needs none of them. An entry
lasts as long as its journal: fields are never added, removed or reordered; what changes gets a new tag.

>>> decode_made(encode_made(Rotated(kid=b"k" * 16, sealed=b"s")))
Rotated(kid=b'kkkkkkkkkkkkkkkk', sealed=b's')
>>> decode_made(encode_made(None)) is None
True
"""

from __future__ import annotations

import msgspec

from tkdb import errors
from tkdb.api import Bytes16, Count, OrganizationName


class Genesis(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="genesis"):
    """The first entry: the journal's id (random), the authority's name, the first chain key, sealed."""

    journal: Bytes16
    name: str
    chain_key: bytes


class Created(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="created"):
    """For ``CreateOrganization``: its first root key, sealed as generation 1."""

    kid: Bytes16
    sealed: bytes
    max_lifetime_s: Count


class Rotated(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="rotated"):
    """For ``RotateKey``: the new signing key, sealed as the organization's next generation."""

    kid: Bytes16
    sealed: bytes


class Replacement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A new signing key, sealed as the organization's next generation."""

    organization: OrganizationName
    kid: Bytes16
    sealed: bytes


class Replaced(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="replaced"):
    """For a ``Revoke`` that retires signing keys: one new signing key for each such organization."""

    keys: list[Replacement]


class Resealed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="resealed"):
    """For ``Reseal``: root keys by kid and chain keys by generation, sealed again; the last batch also starts
    a new chain key."""

    keys: list[tuple[Bytes16, bytes]]
    chain_keys: list[tuple[Count, bytes]]
    next_chain_key: bytes | None


class Purged(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="purged"):
    """Without a request: what can matter no more at the entry's time is forgotten."""


class Restored(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="restored"):
    """For ``Restore``: the entry that it goes back to, and what that comes to. Organizations that get the maximum that
    they had, those deleted since they weren't there, keys that sign again, and all keys that are retired by it."""

    seq: Count
    lifetimes: list[tuple[OrganizationName, Count]]
    deleted: list[OrganizationName]
    signing: list[Bytes16]
    retired: list[Bytes16]

    @property
    def changed(self) -> int:
        """How many organizations and keys it changes."""
        return len(self.lifetimes) + len(self.deleted) + len(self.signing) + len(self.retired)


class Recovered(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="recovered"):
    """Without a request: recovered from damage, perhaps without its last entries, and therefore another journal from
    here on. Every chain key is sealed again, by generation, since the journal's id is bound into that; a new one is
    in force, so that nobody takes entries of the lost end for entries of this one."""

    journal: Bytes16
    chain_keys: list[tuple[Count, bytes]]
    next_chain_key: bytes


Made = Genesis | Created | Rotated | Replaced | Resealed | Restored | Purged | Recovered

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Made)


def encode_made(made: Made | None) -> bytes:
    """Return what an entry keeps of ``made``; nothing for a request that needs nothing."""
    return b"" if made is None else _encoder.encode(made)


def decode_made(raw: bytes) -> Made | None:
    """Return what ``encode_made`` encoded.

    Raises:
        BrokenJournal: it can't be read.
    """
    try:
        return _decoder.decode(raw) if raw else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.BrokenJournal(
            "what the authority added to an entry can't be read", hint="is this version older than the journal?"
        ) from None
