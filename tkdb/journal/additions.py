"""The data that the authority adds to a request in order to carry it out: new sealed keys, and defaults of that time.

The request and this data together are an entry's operation. The request stays exactly as the signer signed it. All
values from randomness, a clock or the configuration are in this data, so applying an entry needs none of these sources.
An entry lasts as long as its journal: fields are never added, removed or reordered, and a changed form gets a new tag.

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
    """For the first entry: the journal's id (random), the authority's name, and the first chain key, sealed."""

    journal: Bytes16
    name: str
    chain_key: bytes


class Created(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="created"):
    """For ``CreateOrganization``: the first root key, sealed as generation 1, and the maximum lifetime."""

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
    """For ``Reseal``: root keys by kid and chain keys by generation, sealed again. The last batch also adds a new chain
    key."""

    keys: list[tuple[Bytes16, bytes]]
    chain_keys: list[tuple[Count, bytes]]
    next_chain_key: bytes | None


class Purged(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="purged"):
    """Without a request: forget the rows that can no longer matter at the entry's time."""


class Restored(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="restored"):
    """For ``Restore``: the entry that it goes back to, and the changes.

    ``lifetimes`` has the organizations that get their former maximum, ``deleted`` those that didn't exist then,
    ``signing`` the keys that sign again, and ``retired`` all keys that the restore retires.
    """

    seq: Count
    lifetimes: list[tuple[OrganizationName, Count]]
    deleted: list[OrganizationName]
    signing: list[Bytes16]
    retired: list[Bytes16]

    @property
    def changed(self) -> int:
        """The number of organizations and keys that the restore changes."""
        return len(self.lifetimes) + len(self.deleted) + len(self.signing) + len(self.retired)


class Recovered(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="recovered"):
    """Without a request: the journal was recovered from damage, perhaps without its last entries.

    Therefore it is another journal from this entry on, with a new id. Every chain key is sealed again, by generation,
    because the sealing binds the journal's id. A new chain key is in force, so that no one can take entries of the lost
    end for entries of this journal.
    """

    journal: Bytes16
    chain_keys: list[tuple[Count, bytes]]
    next_chain_key: bytes


Made = Genesis | Created | Rotated | Replaced | Resealed | Restored | Purged | Recovered

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Made)


def encode_made(made: Made | None) -> bytes:
    """Return ``made`` as an entry stores it; no bytes for None."""
    return b"" if made is None else _encoder.encode(made)


def decode_made(raw: bytes) -> Made | None:
    """Return the value that ``encode_made`` encoded.

    Raises:
        BrokenJournal: it can't be read.
    """
    try:
        return _decoder.decode(raw) if raw else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.BrokenJournal(
            "the data that the authority added to an entry can't be read",
            hint="upgrade tkdb, if this version is older than the journal",
        ) from None
