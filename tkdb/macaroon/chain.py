"""The HMAC chain of a macaroon: each link's key is the tail before it.

From "Macaroons: Cookies with Contextual Caveats for Decentralized Authorization in the Cloud" (NDSS 2014) and
libmacaroons: the root key is first derived by HMAC-SHA256 under the key ``macaroons-key-generator``; then
``tail = HMAC(derived, identifier)``, and for each caveat ``tail = HMAC(tail, cid)``, or for a third-party caveat
``tail = HMAC(tail, HMAC(tail, vid) + HMAC(tail, cid))``.

>>> tail = RootKeyState(b"k" * 32).sign(b"identifier")
>>> tail == link(link(b"macaroons-key-generator".ljust(32, bytes(1)), b"k" * 32), b"identifier")
True
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from tkdb.macaroon.wire import Packet

# HMAC-SHA256 (RFC 2104) with a 32-byte key, written as two plain hashes over the padded key. It takes half the time of
# hmac.digest, because each pad is one table lookup a byte and no object is created for the key.
_INNER: Final = bytes(i ^ 0x36 for i in range(256))
_OUTER: Final = bytes(i ^ 0x5C for i in range(256))
_INNER_REST: Final = b"\x36" * 32
_OUTER_REST: Final = b"\x5c" * 32

_KEY_GENERATOR: Final = b"macaroons-key-generator".ljust(32, b"\0")

BRANCH_BYTES: Final = 16


def link(key: bytes, message: bytes) -> bytes:
    """Return HMAC-SHA256 of ``message`` under ``key``, which has 32 bytes."""
    inner = sha256(key.translate(_INNER) + _INNER_REST + message).digest()
    return sha256(key.translate(_OUTER) + _OUTER_REST + inner).digest()


def walk(tail: bytes, packets: Iterable[Packet]) -> list[bytes]:
    """Return every tail of a chain: ``tail``, then the tail after each caveat."""
    tails = [tail]
    for packet in packets:
        if isinstance(packet, bytes):
            # This is ``link``, inlined, because verification spends most of its time in this loop.
            inner = sha256(tail.translate(_INNER) + _INNER_REST + packet).digest()
            tail = sha256(tail.translate(_OUTER) + _OUTER_REST + inner).digest()
        else:
            tail = link(tail, link(tail, packet.vid) + link(tail, packet.ticket))
        tails.append(tail)
    return tails


def branch(tail: bytes) -> bytes:
    """Return the 16 bytes that name the branch of ``tail``. They may be shown; the tail itself is secret."""
    return sha256(tail).digest()[:BRANCH_BYTES]


class RootKeyState:
    """A derived root key with both HMAC states prepared, so that each token costs one ``sign``.

    It is as secret as the root key. Its repr shows nothing of it.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, root_key: bytes) -> None:
        derived = link(_KEY_GENERATOR, root_key)
        self._inner = sha256(derived.translate(_INNER) + _INNER_REST)
        self._outer = sha256(derived.translate(_OUTER) + _OUTER_REST)

    def sign(self, identifier: bytes) -> bytes:
        """Return the first tail of a macaroon: 32 bytes."""
        inner = self._inner.copy()
        inner.update(identifier)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def __repr__(self) -> str:
        return "RootKeyState(…)"
