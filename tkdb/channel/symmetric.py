"""The symmetric half of a handshake: a running hash, a chaining key, and one cipher key at a time.

Noise specification, revision 34, sections 5.1 and 5.2, with SHA-256 and ChaCha20-Poly1305. In Noise_IK and
Noise_KK every cipher key encrypts one message, at nonce 0. So this state counts nothing: a key is spent by its
use, and using it again without a ``mix_key`` between raises, where a counter kept wrong would repeat a nonce.

>>> ours, theirs = (SymmetricState(b"Noise_KK_25519_ChaChaPoly_SHA256", b"prologue") for _ in range(2))
>>> for state in (ours, theirs):
...     state.mix_key(Shared(b"a product of two keys, 32 bytes."))
>>> theirs.decrypt_and_hash(ours.encrypt_and_hash(b"hello"))
b'hello'
>>> ours.encrypt_and_hash(b"hello")
Traceback (most recent call last):
...
RuntimeError: this cipher key was used already
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tkdb.channel.dh import Shared, unreadable

HASH_BYTES: Final = 32
TAG_BYTES: Final = 16
_NONCE_0: Final = bytes(12)
_SHA256: Final = SHA256()


class SymmetricState:
    """``h``, ``ck`` and ``k`` of the specification. For one handshake, and then to be dropped."""

    __slots__ = ("_chaining_key", "_cipher_key", "hash")

    def __init__(self, protocol: bytes, prologue: bytes) -> None:
        if len(protocol) != HASH_BYTES:  # a longer or shorter name would be hashed or padded; ours need neither
            raise ValueError("a protocol name of 32 bytes was expected")
        self._chaining_key = protocol
        self._cipher_key: bytes | None = None
        self.hash = sha256(protocol + prologue).digest()

    def mix_hash(self, data: bytes) -> None:
        """MixHash: bind the handshake to ``data``."""
        self.hash = sha256(self.hash + data).digest()

    def mix_key(self, shared: Shared) -> None:
        """MixKey: a new chaining key and a new cipher key.

        The HKDF of section 4.3 is that of RFC 5869 with the chaining key as salt and no info.
        """
        derived = HKDF(_SHA256, 2 * HASH_BYTES, salt=self._chaining_key, info=b"").derive(shared)
        self._chaining_key, self._cipher_key = derived[:HASH_BYTES], derived[HASH_BYTES:]

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """EncryptAndHash: return ciphertext and tag, and spend the cipher key."""
        ciphertext = self._spend().encrypt(_NONCE_0, plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """DecryptAndHash: return the plaintext, and spend the cipher key.

        Raises:
            ChannelError: altered, or sealed under another key, prologue or transcript.
        """
        try:
            plaintext = self._spend().decrypt(_NONCE_0, ciphertext, self.hash)
        except InvalidTag:
            raise unreadable() from None
        self.mix_hash(ciphertext)
        return plaintext

    def _spend(self) -> ChaCha20Poly1305:
        if self._cipher_key is None:
            raise RuntimeError("this cipher key was used already")
        cipher = ChaCha20Poly1305(self._cipher_key)
        self._cipher_key = None
        return cipher
