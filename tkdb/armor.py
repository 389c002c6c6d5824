"""Armor: bytes as text that secret scanners can find, with a checksum that detects a cut-off text.

The form is ``prefix + base64url without padding + 6 base62 digits``. The digits are the CRC-32 (RFC 1952) of all
characters before them, most significant first, over ``0-9A-Za-z``. Each value has exactly one text.

>>> armor("tkdb_", b"hello")
'tkdb_aGVsbG80frkqS'
>>> dearmor("tkdb_", "tkdb_aGVsbG80frkqS")
b'hello'

A reader that has read a text needn't read it again as the beginning of a longer text:

>>> stem = Stem.from_bytes("tkdb_", b"hello")
>>> stem.rest(armor("tkdb_", b"hello, world")), stem.rest(armor("tkdb_", b"help"))
(b', world', None)
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Self
from zlib import crc32

import msgspec

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIR_VALUE = {a + b: 62 * i + j for i, a in enumerate(_DIGITS) for j, b in enumerate(_DIGITS)}
_PAIR_TEXT = {value: pair for pair, value in _PAIR_VALUE.items()}

# The standard alphabet's own two characters, and padding, become characters that no base64 decoder accepts.
_FROM_URLSAFE = bytes.maketrans(b"-_+/=", b"+/\xff\xff\xff")
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_PADDING = {0: b"", 2: b"==", 3: b"="}
# If the last character had bits beyond the last byte, one value would have several texts.
_LAST = {1: frozenset[int](), 2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}

CHECKSUM_CHARS = 6


class ArmorError(ValueError):
    """The text isn't armored text with this prefix. The caller turns this into its own kind of error."""


class ChecksumMismatch(ArmorError):
    """The prefix is right and the checksum is wrong: the text was cut short, or altered while it was copied."""


def armor(prefix: str, raw: bytes) -> str:
    """Return ``raw`` as text: prefix, base64url without padding, checksum."""
    body = prefix.encode() + b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URLSAFE)
    rest, low = divmod(crc32(body), 3844)
    high, middle = divmod(rest, 3844)
    return body.decode() + _PAIR_TEXT[high] + _PAIR_TEXT[middle] + _PAIR_TEXT[low]


def dearmor(prefix: str, text: str) -> bytes:
    """Return the bytes from which ``armor(prefix, ...)`` made ``text``.

    Raises:
        ChecksumMismatch: the prefix is right, and the checksum is wrong.
        ArmorError: another prefix, a character outside the alphabet, or stray bits at the end.
    """
    if not text.startswith(prefix):
        raise ArmorError(f"it doesn't begin with {prefix}")
    return _read(text, len(prefix), crc32(prefix.encode()))


class Stem(msgspec.Struct, frozen=True, gc=False):
    """The common part of all texts whose bytes begin with the same bytes: the part in whole groups of characters.

    Attributes:
        text: these characters.
        checksum: their CRC-32.
        beyond: the common bytes after them: two at most.
    """

    text: str
    checksum: int
    beyond: bytes

    def __repr__(self) -> str:
        return f"<Stem of {len(self.text)} characters>"  # they are the beginning of a token

    @classmethod
    def from_bytes(cls, prefix: str, raw: bytes) -> Self:
        """Return the stem of all texts with ``prefix`` whose bytes begin with ``raw``."""
        shown = len(raw) // 3 * 3
        text = prefix + b64url(raw[:shown])
        return cls(text, crc32(text.encode()), raw[shown:])

    def rest(self, text: str) -> bytes | None:
        """Return the bytes of ``text`` after the common ones, or None if it doesn't begin with them.

        Only the characters after the stem are read, and the checksum continues from the stem's.

        Raises:
            ArmorError, ChecksumMismatch: as ``dearmor``.
        """
        if not text.startswith(self.text):
            return None
        raw = _read(text, len(self.text), self.checksum)
        return raw[len(self.beyond) :] if raw.startswith(self.beyond) else None


def _read(text: str, at: int, checksum: int) -> bytes:
    """Return the bytes of ``text`` from the group of characters at ``at`` on. ``checksum`` covers the characters
    before it."""
    if not text.isascii():
        raise ArmorError("it holds a character that is not ASCII")
    body = text[at:-CHECKSUM_CHARS].encode()
    try:
        said = (_PAIR_VALUE[text[-6:-4]] * 3844 + _PAIR_VALUE[text[-4:-2]]) * 3844 + _PAIR_VALUE[text[-2:]]
    except KeyError:
        said = -1
    if said != crc32(body, checksum):
        raise ChecksumMismatch("its checksum doesn't match")
    return b64url_bytes(body)


def b64url(raw: bytes) -> str:
    """Return ``raw`` as base64url without padding (RFC 4648, section 5)."""
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URLSAFE).decode()


def b64url_bytes(text: bytes) -> bytes:
    """Return the bytes of base64url ``text``, which has no padding and no stray bits.

    Raises:
        ArmorError: a character outside the alphabet, an impossible length, or stray bits at the end.
    """
    remainder = len(text) & 3
    if remainder and text[-1] not in _LAST[remainder]:
        raise ArmorError("its base64url ends in stray bits")
    try:
        return a2b_base64(text.translate(_FROM_URLSAFE) + _PADDING[remainder], strict_mode=True)
    except Base64Error:
        raise ArmorError("it holds a character outside base64url") from None
