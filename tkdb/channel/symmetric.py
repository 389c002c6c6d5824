"""The symmetric half of a handshake: a running hash, a chaining key, and one cipher key at a time.

It follows the Noise specification, revision 34, sections 5.1 and 5.2, with SHA-256 and ChaCha20-Poly1305. In Noise_IK
and Noise_KK every cipher key encrypts one message, at nonce 0. So this state has no counter, which a bug could make
repeat a nonce. Each use spends the key; a second use without a ``mix_key`` in between raises an error.

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
    """The state ``h``, ``ck`` and ``k`` of the specification. Use it for one handshake, and then drop it."""

    __slots__ = ("_chaining_key", "_cipher_key", "hash")

    def __init__(self, protocol: bytes, prologue: bytes) -> None:
        if len(protocol) != HASH_BYTES:  # other lengths need a hash or padding, which isn't implemented
            raise ValueError("a protocol name of 32 bytes was expected")
        self._chaining_key = protocol
        self._cipher_key: bytes | None = None
        self.hash = sha256(protocol + prologue).digest()

    def mix_hash(self, data: bytes) -> None:
        """Bind the handshake to ``data`` (MixHash)."""
        self.hash = sha256(self.hash + data).digest()

    def mix_key(self, shared: Shared) -> None:
        """Derive a new chaining key and a new cipher key (MixKey).

        The HKDF of section 4.3 is the HKDF of RFC 5869 with the chaining key as salt and no info.
        """
        derived = HKDF(_SHA256, 2 * HASH_BYTES, salt=self._chaining_key, info=b"").derive(shared)
        self._chaining_key, self._cipher_key = derived[:HASH_BYTES], derived[HASH_BYTES:]

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Return the ciphertext and the tag, and spend the cipher key (EncryptAndHash)."""
        ciphertext = self._spend().encrypt(_NONCE_0, plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """Return the plaintext, and spend the cipher key (DecryptAndHash).

        Raises:
            ChannelError: the ciphertext was altered, or was sealed under another key, prologue or transcript.
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
