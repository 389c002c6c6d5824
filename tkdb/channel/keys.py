"""The keys of the channel, as text and as objects: of authorities, of signers, and the identity that a client trusts.

================  ===================  ========================================================
class             text begins with     bytes
================  ===================  ========================================================
AuthoritySecret   ``tkdbauth_``        X25519 private key, 32
AuthorityPublic   ``tkdbpub_``         X25519 public key, 32
SignerSecret      ``tkdbsigner_``      random, 32: gives an X25519 and an Ed25519 key
SignerPublic      ``tkdbsignerpub_``   X25519 public key, 32; Ed25519 public key, 32
================  ===================  ========================================================

A thumbprint is 16 bytes of SHA-256 over a label and the public bytes. Secrets compare by identity, public keys
by their bytes; no repr shows a secret, and no error shows the text that couldn't be read.

>>> secret = AuthoritySecret.parse("tkdbauth_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh81caO7D")
>>> secret
<AuthoritySecret of 0b9e3771dfd4d8505209fabe712aa760>
>>> AuthorityIdentity("tkdb.example", (secret.public,)).text()
'tkdb.example=tkdbpub_j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF84MRDEv'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tkdb import errors
from tkdb.armor import ArmorError, ChecksumMismatch, armor, dearmor
from tkdb.channel.dh import KEY_BYTES, KeyPair, PublicKey, Random, unreadable

SIGNATURE_BYTES: Final = 64
THUMBPRINT_BYTES: Final = 16

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:/_-]{0,127}", re.ASCII)
_PROBE: Final = KeyPair(bytes(KEY_BYTES))  # any private key finds a point of low order, because all are multiples of 8


class _Key:
    """The base of the four kinds: a text form, and errors that name the expected kind and the given kind."""

    PREFIX: ClassVar[str]
    KIND: ClassVar[str]
    RAW_BYTES: ClassVar[int] = KEY_BYTES

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != self.RAW_BYTES:
            raise errors.ConfigurationError(f"{self.KIND} has {self.RAW_BYTES} bytes, and this one has {len(raw)}")
        self._raw = raw

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that ``text`` encodes.

        Raises:
            ConfigurationError: the text is another kind of key, was cut short or altered, or can't be used.
        """
        try:
            raw = dearmor(cls.PREFIX, text)
        except ChecksumMismatch:
            raise errors.ConfigurationError(
                f"{cls.KIND} ({cls.PREFIX}…) was expected, and this one was cut short or altered", hint="copy it again"
            ) from None
        except ArmorError:
            if text.startswith(cls.PREFIX):
                raise errors.ConfigurationError(
                    f"{cls.KIND} ({cls.PREFIX}…) was expected, and this text only begins as one: it is a placeholder,"
                    " or it was altered",
                    hint="copy the whole key",
                ) from None
            raise errors.ConfigurationError(
                f"{cls.KIND} ({cls.PREFIX}…) was expected, and {_kind_of(text)} was given"
            ) from None
        return cls(raw)

    def text(self) -> str:
        """Return the key as text."""
        return armor(self.PREFIX, self._raw)


class _PublicKey(_Key):
    """A key that may be shown. It is compared by its bytes, and named by its thumbprint."""

    LABEL: ClassVar[bytes]

    __slots__ = ("point", "thumbprint")

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.point = PublicKey(raw[:KEY_BYTES])
        self.thumbprint = sha256(self.LABEL + raw).digest()[:THUMBPRINT_BYTES]
        try:
            _PROBE.exchange(self.point)
        except errors.ChannelError:
            raise errors.ConfigurationError(
                f"{self.KIND} was expected, and this one is a point of low order, for which anyone could answer"
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other._raw == self._raw

    def __hash__(self) -> int:
        return hash(self.thumbprint)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text()}>"


class AuthorityPublic(_PublicKey):
    """The public key by which clients identify an authority."""

    PREFIX = "tkdbpub_"
    KIND = "an authority's public key"
    LABEL = b"tkdb authority key 1"

    __slots__ = ()


class SignerPublic(_PublicKey):
    """The public keys by which an authority identifies a signer: one for Noise_KK, one for signatures."""

    PREFIX = "tkdbsignerpub_"
    KIND = "a signer's public key"
    LABEL = b"tkdb signer key 1"
    RAW_BYTES = 2 * KEY_BYTES

    __slots__ = ("_verifier",)

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._verifier = Ed25519PublicKey.from_public_bytes(raw[KEY_BYTES:])

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check an Ed25519 signature (RFC 8032).

        Raises:
            ChannelError: ``signature`` isn't this signer's signature of ``message``.
        """
        try:
            self._verifier.verify(signature, message)
        except InvalidSignature:
            raise unreadable() from None


class AuthoritySecret(_Key):
    """The static key of an authority. Anyone who has it can answer as the authority, and read recorded requests."""

    PREFIX = "tkdbauth_"
    KIND = "an authority's secret key"

    __slots__ = ("pair", "public")

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.pair = KeyPair(raw)
        self.public = AuthorityPublic(self.pair.public.raw)

    @classmethod
    def generate(cls, random: Random) -> Self:
        """Return a new key, made from ``random``."""
        return cls(random(KEY_BYTES))

    def __repr__(self) -> str:
        return f"<AuthoritySecret of {self.public.thumbprint.hex()}>"


class SignerSecret(_Key):
    """The one secret of a signer. Anyone who has it can do everything that the signer may do.

    The X25519 key and the Ed25519 key are derived from it by HKDF-SHA256 (RFC 5869), each with its label.
    """

    PREFIX = "tkdbsigner_"
    KIND = "a signer's secret key"

    __slots__ = ("_signing", "pair", "public")

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.pair = KeyPair(_derive(raw, b"x25519"))
        self._signing = Ed25519PrivateKey.from_private_bytes(_derive(raw, b"ed25519"))
        self.public = SignerPublic(self.pair.public.raw + self._signing.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, random: Random) -> Self:
        """Return a new secret, made from ``random``."""
        return cls(random(KEY_BYTES))

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of ``message``, 64 bytes."""
        return self._signing.sign(message)

    def __repr__(self) -> str:
        return f"<SignerSecret of {self.public.thumbprint.hex()}>"


@dataclass(frozen=True, slots=True)
class AuthorityIdentity:
    """The identity that a client trusts: an authority's name and public key,
    or two keys while its static key is rotated.

    The name is also the location of the authority's macaroons.

    Raises:
        ConfigurationError: the name isn't valid, or there is no key, more than two keys, or the same key twice.
    """

    name: str
    keys: tuple[AuthorityPublic, ...]

    def __post_init__(self) -> None:
        parse_name(self.name)
        if not 1 <= len(self.keys) <= 2:
            raise errors.ConfigurationError(f"one or two public keys were expected, and {len(self.keys)} were given")
        if len(set(self.keys)) != len(self.keys):
            raise errors.ConfigurationError("the same public key was given twice")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the identity in ``text``, in the form ``NAME=tkdbpub_…`` or ``NAME=tkdbpub_…,tkdbpub_…``.

        Raises:
            ConfigurationError: the text is anything else.
        """
        name, equals, keys = text.partition("=")
        if not equals:
            raise errors.ConfigurationError(
                f"an authority's identity, NAME=tkdbpub_…, was expected, and {_kind_of(text)} was given",
                hint="ask the authority's operator for it",
            )
        return cls(parse_name(name), tuple(AuthorityPublic.parse(key) for key in keys.split(",")))

    def text(self) -> str:
        """Return the identity as text, in the form that clients are configured with."""
        return f"{self.name}={','.join(key.text() for key in self.keys)}"


def parse_name(text: str) -> str:
    """Return ``text`` if it is a valid name of an authority.

    Raises:
        ConfigurationError: it isn't valid.
    """
    if _NAME.fullmatch(text) is None:
        raise errors.ConfigurationError(
            "the authority's name can't be used: 1 to 128 letters, digits and . : / _ - were expected,"
            " the first a letter or digit",
            hint="use a name such as tkdb.example",
        )
    return text


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=b"tkdb signer secret 1", info=purpose).derive(secret)


def _kind_of(text: str) -> str:
    kinds: list[type[_Key]] = [AuthoritySecret, AuthorityPublic, SignerSecret, SignerPublic]
    return next((kind.KIND for kind in kinds if text.startswith(kind.PREFIX)), "something else")
