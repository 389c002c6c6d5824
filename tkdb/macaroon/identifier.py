"""The identifier of a root macaroon: which key, which lineage, and how many caveats are the authority's own.

=======  =====  =====================================================================================
offset   bytes  what
=======  =====  =====================================================================================
0        1      version, ``0x01``
1        16     kid: names one root key of one organization
17       16     nonce: 48-bit milliseconds since 1970, big-endian; 80 random bits
33       1      m: how many caveats, counted from the first, the authority itself wrote
=======  =====  =====================================================================================

The chain authenticates all of it. A lineage is (kid, nonce).

>>> raw = build(kid=b"k" * 16, time_ms=1_700_000_000_000, random=b"r" * 10, m=2)
>>> Identifier(raw).issued_ms, Identifier(raw).m, len(raw)
(1700000000000, 2, 34)
"""

from __future__ import annotations

from typing import Final

import msgspec

VERSION: Final = 1
IDENTIFIER_BYTES: Final = 34
KID_BYTES: Final = 16
NONCE_BYTES: Final = 16
RANDOM_BYTES: Final = 10


def build(*, kid: bytes, time_ms: int, random: bytes, m: int) -> bytes:
    """Return the identifier of a new lineage; ``random`` has 10 bytes, ``m`` is 0 to 255."""
    return b"\x01" + kid + time_ms.to_bytes(6) + random + m.to_bytes(1)


class Identifier(msgspec.Struct, frozen=True, gc=False):
    """An identifier's bytes (34, version 1), read by its fields."""

    raw: bytes

    @property
    def kid(self) -> bytes:
        """The root key's name: 16 bytes."""
        return self.raw[1:17]

    @property
    def nonce(self) -> bytes:
        """The lineage's nonce: 16 bytes."""
        return self.raw[17:33]

    @property
    def lineage(self) -> bytes:
        """Kid and nonce: 32 bytes, which name the lineage everywhere."""
        return self.raw[1:33]

    @property
    def issued_ms(self) -> int:
        """When the lineage began: milliseconds since 1970."""
        return int.from_bytes(self.raw[17:23])

    @property
    def m(self) -> int:
        """How many caveats, from the first, are the authority's own words."""
        return self.raw[33]
