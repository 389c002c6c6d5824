"""The rows that entries put. A change is ``Forget``, or a row that replaces the row with the same key.

The state in memory and the tables in SQLite carry out the same changes, so that each of them is the journal's fold.

>>> OrganizationRow("acme", max_lifetime_s=60, longest_lifetime_s=90, created_ms=0).longest_lifetime_s
90
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from tkdb.api import Bytes16, Count

KeyState = Literal["signing", "verifying", "retired"]

# A nonce begins with its time, 48 bits of ms: the first 3 bytes name a span of 2**24 ms, about 4.7 hours.
BUCKET_BYTES: Final = 3
BUCKET_BITS: Final = 24
LAST_BUCKET: Final = 2**24 - 1


class AuthorityRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The authority that the journal belongs to. There is only one such row."""

    journal: Bytes16
    name: str


class ChainKeyRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A chain key, sealed. The entries from ``from_seq`` until the next generation begins are hashed under it."""

    generation: Count
    from_seq: Count
    sealed: bytes


class OrganizationRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An organization. It is kept after its deletion, so that its name is never used again.

    ``longest_lifetime_s`` is the largest maximum that was ever in force. Revocations and old keys must be kept for this
    long, even if the maximum is lowered later. Tokens with a nonce time before ``issued_from_ms`` are revoked.
    """

    name: str
    max_lifetime_s: Count
    longest_lifetime_s: Count
    created_ms: Count
    issued_from_ms: Count = 0
    deleted: bool = False


class KeyRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A root key, sealed. A verifying key is kept until ``until_ms``. Of a retired key, only the name is kept."""

    kid: Bytes16
    organization: str
    generation: Count
    state: KeyState
    until_ms: Count | None
    sealed: bytes


class RevocationRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A revoked branch, or a revoked lineage if ``branch`` is empty. ``seq`` is the first entry that revoked it."""

    kid: Bytes16
    nonce: Bytes16
    branch: Annotated[bytes, msgspec.Meta(max_length=16)]
    seq: Count


class SubjectRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A subject (16 bytes of SHA-256) whose tokens with a nonce time before ``issued_from_ms`` are revoked."""

    organization: str
    subject: Bytes16
    issued_from_ms: Count


class Forget(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Forget rows that concern only tokens with a nonce time before ``horizon_ms``. All these tokens have expired.

    Revocations are forgotten in whole buckets (see ``bucket``): each bucket that ends at the horizon or before.
    """

    horizon_ms: Count

    @property
    def first_bucket(self) -> bytes:
        """The first bucket that is kept."""
        return min(max(self.horizon_ms, 0) >> BUCKET_BITS, LAST_BUCKET).to_bytes(BUCKET_BYTES, "big")


Row = AuthorityRow | ChainKeyRow | OrganizationRow | KeyRow | RevocationRow | SubjectRow
Change = Row | Forget


def is_covered(organization: OrganizationRow | None, key: KeyRow, nonce: bytes) -> bool:
    """Return True if no token of this nonce can be valid under ``key``, whichever lineages are revoked.

    This never ends: a retired key stays retired, and ``issued_from_ms`` only grows.
    """
    if key.state == "retired":
        return True
    return organization is not None and int.from_bytes(nonce[:6]) < organization.issued_from_ms


def bucket(nonce: bytes) -> bytes:
    """Return the name of the bucket that holds the revocations of ``nonce``."""
    return nonce[:BUCKET_BYTES]
