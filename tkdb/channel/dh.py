"""X25519 (RFC 7748), with one exception class for every unusable point.

>>> ours, theirs = KeyPair(bytes(range(32))), KeyPair(bytes(range(1, 33)))
>>> ours.exchange(theirs.public) == theirs.exchange(ours.public)
True
>>> ours.exchange(PublicKey(bytes(32)))
Traceback (most recent call last):
...
tkdb.errors.ChannelError: the message can't be opened: check the authority's name and key, and the signer's key
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NewType

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tkdb import errors

KEY_BYTES: Final = 32

Random = Callable[[int], bytes]
"""A function that returns the given number of cryptographically random bytes, such as ``os.urandom``."""

Shared = NewType("Shared", bytes)
"""The product of a private and a public key: 32 bytes, never all zero."""


class PublicKey:
    """A point as received: 32 bytes."""

    __slots__ = ("point", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.point = X25519PublicKey.from_public_bytes(raw)


class KeyPair:
    """A private key, which no repr shows, and its public key."""

    __slots__ = ("_scalar", "public")

    def __init__(self, raw: bytes) -> None:
        self._scalar = X25519PrivateKey.from_private_bytes(raw)
        self.public = PublicKey(self._scalar.public_key().public_bytes_raw())

    def exchange(self, public: PublicKey) -> Shared:
        """Return the product of our private key and their public key.

        Raises:
            ChannelError: their key is a point of low order, so the product would not be secret (RFC 7748, 6.1).
        """
        try:
            return Shared(self._scalar.exchange(public.point))
        except ValueError:
            raise unreadable() from None


def unreadable() -> errors.ChannelError:
    """Return the only error of the channel. Its class and text are the same for every cause,
    so that it reveals nothing."""
    return errors.ChannelError(
        "the message can't be opened", hint="check the authority's name and key, and the signer's key"
    )
