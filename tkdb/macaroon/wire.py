"""The binary format: libmacaroons' v2, read strictly and in one pass, and written in its only accepted encoding.

A macaroon is ``0x02``, a section (location, identifier, end), one section for each caveat ([location,] identifier
[, vid], end), an end, and the signature. A field is ``type, length, bytes``. The types are 1 location, 2 identifier,
4 vid, 6 signature. An end is ``0x00``. A length is a minimal varint (LEB128).

Each macaroon has exactly one encoding here. These are malformed: trailing bytes, non-minimal varints, fields that are
unknown, repeated or out of order, a first-party caveat with a location, an empty identifier, a vid that isn't 72 bytes,
and a signature that isn't 32 bytes. The authenticated bytes are the bytes as received. Time and memory are linear in
the number of bytes.

>>> raw = write(b"here", b"id", [b"caveat"], bytes(32))
>>> read(raw) == (b"here", b"id", [b"caveat"])
True
>>> read(raw + b"!")
Traceback (most recent call last):
...
tkdb.errors.MalformedToken: the signature is not the token's last 32 bytes
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from tkdb.armor import ArmorError, ChecksumMismatch, Stem, armor, b64url_bytes, dearmor
from tkdb.errors import Denied, MalformedToken, OverLimit, TruncatedToken
from tkdb.macaroon.limits import DEFAULT, Limits

PREFIX: Final = "tkdb_"
VID_BYTES: Final = 72
SIGNATURE_BYTES: Final = 32
# The trailer is the end of the caveats, the type and the length of the signature, and the signature.
TRAILER_BYTES: Final = 3 + SIGNATURE_BYTES
TRAILER_HEAD: Final = b"\x00\x06\x20"
_SHORT_HEADS: Final = tuple(b"\x02" + size.to_bytes(1) for size in range(128))
_SHORTEST: Final = 1 + 3 + 3 + 1 + TRAILER_BYTES


class ThirdParty(msgspec.Struct, frozen=True, gc=False):
    """A third-party caveat as it is in a token. It is carried unchanged; a holder of the tail before it can open it."""

    location: bytes
    ticket: bytes
    vid: bytes


Packet = bytes | ThirdParty
"""One caveat as read: the id of a first-party caveat as bytes, or a third-party caveat."""


def decode_text(token: str | bytes, limits: Limits = DEFAULT) -> bytes:
    """Return the binary form of a token. The input is armored text, bare base64url, or the binary form itself, which is
    returned unchecked: ``read`` checks it.

    Raises:
        TruncatedToken: the checksum doesn't match.
        MalformedToken: the text isn't a token, or contains stray bits or characters.
        OverLimit: the text is longer than a token may be.
    """
    if isinstance(token, bytes):
        if token.startswith(b"\x02"):
            return token
        token = token.decode("ascii", "replace")
    if len(token) > 2 * limits.token_bytes:
        raise _too_long(token, limits)
    try:
        if token.startswith(PREFIX):
            return dearmor(PREFIX, token)
        if token[:1] == "A" and "g" <= token[1:2] <= "v":  # base64 encodes a first byte of 0x02 like this
            return b64url_bytes(token.encode("ascii", "replace"))
        raise ArmorError(f"it doesn't begin with {PREFIX}")
    except ArmorError as error:
        raise _unreadable(token, error) from None


def decode_rest(stem: Stem, token: str, limits: Limits = DEFAULT) -> bytes | None:
    """Return the bytes of a token's armored text after the bytes of ``stem``; None if it doesn't begin with those.

    Raises:
        TruncatedToken, MalformedToken, OverLimit: as ``decode_text``.
    """
    if len(token) > 2 * limits.token_bytes:
        raise _too_long(token, limits)
    try:
        return stem.rest(token)
    except ArmorError as error:
        raise _unreadable(token, error) from None


def _too_long(token: str, limits: Limits) -> OverLimit:
    return OverLimit(f"this token has {len(token)} characters; at most {limits.token_bytes} bytes are read")


def _unreadable(token: str, error: ArmorError) -> Denied:
    if isinstance(error, ChecksumMismatch):
        return TruncatedToken(
            f"this token ends early or was altered ({error}; {len(token)} characters were read)",
            hint="copy it again, whole",
        )
    return MalformedToken(f"this is not a token's text: {error}", hint="pass one token, without spaces or quotes")


def encode_text(raw: bytes) -> str:
    """Return a token's text: ``tkdb_``, base64url, checksum."""
    return armor(PREFIX, raw)


def read(raw: bytes, limits: Limits = DEFAULT) -> tuple[bytes, bytes, list[Packet]]:
    """Return location, identifier and caveats of one macaroon; its signature is its last 32 bytes.

    Raises:
        MalformedToken: ``raw`` is not a macaroon in its only accepted encoding.
        OverLimit: ``raw`` has more bytes or caveats than a token may have.
    """
    size = len(raw)
    if size > limits.token_bytes:
        raise OverLimit(f"this token has {size} bytes; at most {limits.token_bytes} are read")
    end = size - TRAILER_BYTES
    if size < _SHORTEST or raw[0] != 2:
        raise MalformedToken("this is not a version 2 macaroon")
    if raw[end : end + 3] != TRAILER_HEAD:
        raise MalformedToken("the signature is not the token's last 32 bytes")
    try:
        if raw[1] != 1:
            raise MalformedToken("the token has no location", hint="pass a tkdb token, which names its authority there")
        at = 3 + raw[2]
        if at < 131 and raw[at] == 2 and raw[at + 1] < 128:
            location = raw[3:at]
            start = at + 2
            at = start + raw[at + 1]
        else:
            at, start = _long_field(raw, 2)
            location = raw[start:at]
            if raw[at] != 2:
                raise MalformedToken("the token has no identifier after its location")
            at, start = _long_field(raw, at + 1)
        identifier = raw[start:at]
        if raw[at]:
            raise MalformedToken("the token's identifier is followed by a field that does not belong there")
        if not identifier or not location:
            raise MalformedToken("the token's location or identifier is empty")
        return location, identifier, read_caveats(raw, at + 1, end, limits.caveats)
    except IndexError:
        raise MalformedToken("a field is longer than the token") from None


def read_caveats(raw: bytes, at: int, end: int, most: int) -> list[Packet]:
    """Return the caveats between two offsets of a macaroon. Their sections must fill exactly this range.

    Raises:
        MalformedToken: a section is not a caveat, or the last section ends elsewhere.
        OverLimit: there are more than ``most`` caveats.
        IndexError: a field runs past the end of ``raw``.
    """
    packets: list[Packet] = []
    while at < end:
        length = raw[at + 1]
        start = at + 2
        if raw[at] != 2 or length > 127:
            at, packet = _long_caveat(raw, at)
            packets.append(packet)
            continue
        at = start + length
        if raw[at]:
            _after_identifier(raw, at)
        if not length:
            raise MalformedToken("a caveat is empty")
        packets.append(raw[start:at])
        at += 1
    if at != end:
        raise MalformedToken("the caveats do not end where the signature begins")
    if len(packets) > most:
        raise OverLimit(f"this token has {len(packets)} caveats; at most {most} are read")
    return packets


def write(location: bytes, identifier: bytes, packets: list[bytes], signature: bytes) -> bytes:
    """Return a macaroon with first-party caveats in its only encoding."""
    head = b"\x02\x01" + _length(location) + location + b"\x02" + _length(identifier) + identifier + b"\x00"
    return head + b"".join(map(write_caveat, packets)) + TRAILER_HEAD + signature


def write_caveat(cid: bytes) -> bytes:
    """Return the section of a first-party caveat."""
    size = len(cid)
    return (_SHORT_HEADS[size] if size < 128 else b"\x02" + _length(cid)) + cid + b"\x00"


def write_third_party(caveat: ThirdParty) -> bytes:
    """Return the section of a third-party caveat."""
    location, ticket, vid = caveat.location, caveat.ticket, caveat.vid
    return (
        b"\x01" + _length(location) + location + b"\x02" + _length(ticket) + ticket
        + b"\x04" + _length(vid) + vid + b"\x00"
    )  # fmt: skip


def append(raw: bytes, cids: Iterable[bytes], signature: bytes) -> bytes:
    """Return the macaroon ``raw`` with first-party caveats after its present ones, and the new signature."""
    return raw[:-TRAILER_BYTES] + b"".join(map(write_caveat, cids)) + TRAILER_HEAD + signature


def _length(field: bytes) -> bytes:
    size = len(field)
    out = bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


def _long_field(raw: bytes, at: int) -> tuple[int, int]:
    """Return the end and the start of a field. Its length, a varint, is at ``at``."""
    size = shift = 0
    for shift in (0, 7, 14):
        byte = raw[at]
        at += 1
        size |= (byte & 127) << shift
        if byte < 128:
            if not byte and shift:
                raise MalformedToken("a length is not written in its shortest form")
            return at + size, at
    raise MalformedToken("a length is larger than any token")


def _long_caveat(raw: bytes, at: int) -> tuple[int, Packet]:
    """Read a section that has a location, a vid or a length of two bytes.
    Return the start of the next section, and the caveat."""
    location = None
    if raw[at] == 1:
        at, start = _long_field(raw, at + 1)
        location = raw[start:at]
    if raw[at] != 2:
        raise MalformedToken("a caveat does not begin with a location or an identifier")
    at, start = _long_field(raw, at + 1)
    cid = raw[start:at]
    if not cid:
        raise MalformedToken("a caveat is empty")
    if location is None:
        if raw[at]:
            _after_identifier(raw, at)
        return at + 1, cid
    if not location or raw[at] != 4 or raw[at + 1] != VID_BYTES:
        raise MalformedToken("a caveat with a location is not a third-party caveat with a vid of 72 bytes")
    start = at + 2
    at = start + VID_BYTES
    if raw[at]:
        raise MalformedToken("a third-party caveat is followed by a field that does not belong there")
    return at + 1, ThirdParty(location, cid, raw[start:at])


def _after_identifier(raw: bytes, at: int) -> None:
    if raw[at] == 4:
        raise MalformedToken("a third-party caveat has no location")
    raise MalformedToken("a caveat is followed by a field that does not belong there")
