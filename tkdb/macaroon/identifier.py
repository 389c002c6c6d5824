"""The identifier of a root macaroon: the key, the lineage, and the number of caveats that the authority wrote.

=======  =====  =====================================================================================
offset   bytes  what
=======  =====  =====================================================================================
0        1      version, ``0x01``
1        16     kid: names one root key of one organization
17       16     nonce: 48-bit milliseconds since 1970, big-endian; 80 random bits
33       1      m: the number of caveats, counted from the first, that the authority itself wrote
=======  =====  =====================================================================================

The chain authenticates all of it. A lineage is (kid, nonce).

>>> raw = build(kid=b"k" * 16, time_ms=1_700_000_000_000, random=b"r" * 10, m=2)
>>> raw[LINEAGE] == b"k" * 16 + (1_700_000_000_000).to_bytes(6) + b"r" * 10
True
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
IDENTIFIER_BYTES: Final = 34
KID_BYTES: Final = 16
NONCE_BYTES: Final = 16
RANDOM_BYTES: Final = 10

KID: Final = slice(1, 17)
NONCE: Final = slice(17, 33)
LINEAGE: Final = slice(1, 33)
ISSUED: Final = slice(17, 23)
"""The time when the lineage began: milliseconds since 1970, big-endian, so that bytes compare in the order of time."""
M: Final = 33
MAX_M: Final = 255


def build(*, kid: bytes, time_ms: int, random: bytes, m: int) -> bytes:
    """Return the identifier of a new lineage; ``random`` has 10 bytes, ``m`` is 0 to 255."""
    return b"\x01" + kid + time_ms.to_bytes(6) + random + m.to_bytes(1)
