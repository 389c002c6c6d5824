"""Sealing: root keys and chain keys are stored encrypted, under a secret that isn't in the database.

A sealed record is ``id of the sealing secret (8) · nonce (12) · ciphertext · tag (16)``: AES-256-GCM
(NIST SP 800-38D). Its associated data names the key's owner and place, so that a record can't be unsealed in another
place. The first secret of the ring seals; all of them unseal.

>>> ring = SealKeys([SealKey(bytes(32))])
>>> sealed = ring.seal_root_key(RootKey(b"k" * 32), organization="acme", kid=b"i" * 16, generation=1, nonce=b"n" * 12)
>>> ring.unseal_root_key(sealed, organization="acme", kid=b"i" * 16, generation=1)
RootKey(...)
>>> ring.unseal_root_key(sealed, organization="evil", kid=b"i" * 16, generation=1)
Traceback (most recent call last):
...
tkdb.errors.BrokenJournal: a sealed record was altered or moved: restore the database from a copy that audits clean
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tkdb import errors
from tkdb.armor import ArmorError, armor, dearmor

PREFIX: Final = "tkdbseal_"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
ID_BYTES: Final = 8
SEALED_BYTES: Final = ID_BYTES + NONCE_BYTES + KEY_BYTES + 16

_ID_LABEL: Final = b"tkdb id of a sealing secret\0"
_ROOT_KEY: Final = "root key"
_CHAIN_KEY: Final = "chain key"


class _Secret:
    """32 bytes that no repr shows; equal only to the same kind of secret."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise errors.ConfigurationError(f"a {type(self).__name__} has {KEY_BYTES} bytes, not {len(raw)}")
        self.raw = raw

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and compare_digest(self.raw, other.raw)

    def __hash__(self) -> int:
        return hash((type(self), self.raw))


class RootKey(_Secret):
    """The secret from which an organization's macaroons are made."""

    __slots__ = ()


class ChainKey(_Secret):
    """The secret under which the journal's chain is hashed."""

    __slots__ = ()


class SealKey(_Secret):
    """A sealing secret, which comes from outside the database. Each record that it sealed contains its ``id``."""

    __slots__ = ("id",)

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.id = sha256(_ID_LABEL + raw).digest()[:ID_BYTES]

    def __repr__(self) -> str:
        return f"SealKey(id={self.id.hex()})"

    @classmethod
    def parse(cls, text: str) -> SealKey:
        """Return the secret in ``text`` (``tkdbseal_...``).

        Raises:
            ConfigurationError: the text isn't a sealing secret. The message never contains any part of it.
        """
        try:
            return cls(dearmor(PREFIX, text))
        except ArmorError as error:
            raise errors.ConfigurationError(
                f"this is not a sealing secret: {error}", hint="make one with `tkdb keys generate`"
            ) from None

    def text(self) -> str:
        """Return the secret as text, for safekeeping. The text is as secret as the key."""
        return armor(PREFIX, self.raw)


Key = TypeVar("Key", RootKey, ChainKey)


def seal_id(sealed: bytes) -> bytes:
    """Return the id of the sealing secret under which a record is sealed."""
    return sealed[:ID_BYTES]


class SealKeys:
    """The ring of sealing secrets: the first seals, all unseal.

    Raises:
        ConfigurationError: there is none.
    """

    def __init__(self, keys: Sequence[SealKey]) -> None:
        if not keys:
            raise errors.ConfigurationError("no sealing secret is given", hint="set TKDB_SEAL_KEYS")
        self.keys = tuple(keys)
        self.first_id = keys[0].id
        self._ciphers = {key.id: AESGCM(key.raw) for key in keys}

    def __repr__(self) -> str:
        return f"SealKeys({_names(self._ciphers)})"

    @classmethod
    def parse(cls, text: str) -> SealKeys:
        """Return the ring in ``text``: secrets separated by commas. The first one seals.

        Raises:
            ConfigurationError: there is none, or one of them is not a sealing secret.
        """
        return cls([SealKey.parse(part.strip()) for part in text.split(",") if part.strip()])

    def seal_root_key(self, key: RootKey, *, organization: str, kid: bytes, generation: int, nonce: bytes) -> bytes:
        """Return ``key`` sealed. ``nonce``: 12 random bytes, never used before."""
        return self._seal(key, _associated(_ROOT_KEY, organization, kid, generation), nonce)

    def unseal_root_key(self, sealed: bytes, *, organization: str, kid: bytes, generation: int) -> RootKey:
        """Return the root key in ``sealed``.

        Raises:
            WrongSealKey: it is sealed under a secret that isn't in the ring.
            BrokenJournal: it was altered, or sealed for another place.
        """
        return self._unseal(RootKey, sealed, _associated(_ROOT_KEY, organization, kid, generation))

    def seal_chain_key(self, key: ChainKey, *, journal: bytes, generation: int, nonce: bytes) -> bytes:
        """Return ``key`` sealed. ``nonce``: 12 random bytes, never used before."""
        return self._seal(key, _associated(_CHAIN_KEY, "", journal, generation), nonce)

    def unseal_chain_key(self, sealed: bytes, *, journal: bytes, generation: int) -> ChainKey:
        """Return the chain key in ``sealed``.

        Raises:
            WrongSealKey: it is sealed under a secret that isn't in the ring.
            BrokenJournal: it was altered, or sealed for another place.
        """
        return self._unseal(ChainKey, sealed, _associated(_CHAIN_KEY, "", journal, generation))

    def _seal(self, key: RootKey | ChainKey, associated: bytes, nonce: bytes) -> bytes:
        return self.first_id + nonce + self._ciphers[self.first_id].encrypt(nonce, key.raw, associated)

    def _unseal(self, kind: type[Key], sealed: bytes, associated: bytes) -> Key:
        cipher = self._ciphers.get(seal_id(sealed))
        if len(sealed) == SEALED_BYTES and cipher is None:
            raise errors.WrongSealKey(
                f"a record is sealed under sealing secret {seal_id(sealed).hex()}, which isn't among the given ones:"
                f" {_names(self._ciphers)}",
                hint="add the missing secret to TKDB_SEAL_KEYS",
            )
        try:
            if cipher is not None and len(sealed) == SEALED_BYTES:
                nonce = sealed[ID_BYTES : ID_BYTES + NONCE_BYTES]
                return kind(cipher.decrypt(nonce, sealed[ID_BYTES + NONCE_BYTES :], associated))
        except InvalidTag:
            pass
        raise errors.BrokenJournal(
            "a sealed record was altered or moved", hint="restore the database from a copy that audits clean"
        ) from None


def _associated(purpose: str, organization: str, kid: bytes, generation: int) -> bytes:
    # A msgpack array contains the lengths of its parts, so no two places have the same encoding.
    return msgspec.msgpack.encode((purpose, organization, kid, generation))


def _names(ciphers: dict[bytes, AESGCM]) -> str:
    return ", ".join(key.hex() for key in ciphers)
