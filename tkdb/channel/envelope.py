"""The envelope: the payload of message 1. It contains the time, the request id, the request and the signature.

It is a padded msgpack array inside the handshake. Anyone who recorded a message 1 can replay it. The envelope therefore
contains its time, and is refused if that is more than 30 s ago. It also contains a request id, by which the authority
recognizes a repeated write. On signed paths it contains the signer's Ed25519 signature, which the journal keeps.

>>> from tkdb.channel.keys import SignerSecret
>>> signer = SignerSecret(bytes(range(32)))
>>> context = prologue("/v1/write", "tkdb.example")
>>> signature = signer.sign(signed_bytes(context, 1_700_000_000_000, bytes(16), b"body"))
>>> envelope = Envelope(1_700_000_000_000, bytes(16), 0, b"body", signature)
>>> verify_signature(signer.public, context, 1_700_000_000_000, bytes(16), b"body", signature=signature)
>>> check_time(envelope, now_ms=1_700_000_031_500)
Traceback (most recent call last):
...
tkdb.errors.OutOfTime: the request's time is 1700000000000 ms since 1970 and the authority's is 1700000031500, \
31.5 s later; at most 30 s are allowed: check the clock of this machine
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tkdb import errors
from tkdb.channel.dh import unreadable
from tkdb.channel.keys import SignerPublic

REQUEST_ID_BYTES: Final = 16
MAX_AGE_MS: Final = 30_000
MAX_AHEAD_MS: Final = 5_000
"""How far the caller's clock may be ahead. A clock that is slightly fast is no attack, and no reason to refuse."""

_PROLOGUE_LABEL: Final = b"tkdb channel 1"
_SIGNATURE_LABEL: Final = b"tkdb request 1"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The payload of message 1. ``position`` is the highest that the caller has seen; ``signature`` may be empty."""

    time_ms: Count
    request_id: Annotated[bytes, msgspec.Meta(min_length=REQUEST_ID_BYTES, max_length=REQUEST_ID_BYTES)]
    position: Count
    body: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""

    def __repr__(self) -> str:
        return f"<Envelope {self.request_id.hex()} of {self.time_ms}>"  # the body may contain a token


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """Return the envelope as msgpack."""
    return _encoder.encode(envelope)


def decode(payload: bytes) -> Envelope:
    """Return the envelope in ``payload``.

    Raises:
        ChannelError: ``payload`` contains no envelope.
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise unreadable() from None


def prologue(path: str, name: str) -> bytes:
    """Return the bytes that both sides must agree on before the first message. If they differ, no handshake succeeds.

    ======  =====  ==================================
    offset  bytes
    ======  =====  ==================================
    0       14     ``tkdb channel 1``, the version
    14      2      p, the path's length, big-endian
    16      p      the path
    16 + p  2      n, the name's length, big-endian
    18 + p  n      the authority's name
    ======  =====  ==================================
    """
    return _PROLOGUE_LABEL + _sized(path.encode(), 2) + _sized(name.encode(), 2)


def signed_bytes(prologue: bytes, time_ms: int, request_id: bytes, body: bytes) -> bytes:
    """Return the bytes that a signer signs.

    ======  =====  ==================================
    offset  bytes
    ======  =====  ==================================
    0       14     ``tkdb request 1``, the version
    14      2      p, the prologue's length
    16      p      the prologue
    16 + p  8      the time, ms since 1970
    24 + p  16     the request id
    40 + p  4      n, the body's length
    44 + p  n      the body
    ======  =====  ==================================

    Numbers are big-endian.
    """
    return b"".join((_SIGNATURE_LABEL, _sized(prologue, 2), time_ms.to_bytes(8, "big"), request_id, _sized(body, 4)))


def verify_signature(
    signer: SignerPublic, prologue: bytes, time_ms: int, request_id: bytes, body: bytes, signature: bytes
) -> None:
    """Check that ``signer`` signed ``body`` with this time and request id, for the path and authority in ``prologue``.

    Raises:
        ChannelError: the signature is missing, or isn't the signer's signature of these.
    """
    signer.verify(signature, signed_bytes(prologue, time_ms, request_id, body))


def check_time(envelope: Envelope, now_ms: int) -> None:
    """Check that the request is at most 30 s old, and at most 5 s ahead of ``now_ms``.

    Raises:
        OutOfTime: it isn't. The message contains both times.
    """
    age_ms = now_ms - envelope.time_ms
    if -MAX_AHEAD_MS <= age_ms <= MAX_AGE_MS:
        return
    limit_ms, side = (MAX_AGE_MS, "later") if age_ms > 0 else (MAX_AHEAD_MS, "earlier")
    raise errors.OutOfTime(
        f"the request's time is {envelope.time_ms} ms since 1970 and the authority's is {now_ms},"
        f" {abs(age_ms) / 1000:.1f} s {side}; at most {limit_ms // 1000} s are allowed",
        hint="check the clock of this machine",
        authority_ms=now_ms,
    )


def _sized(value: bytes, length_bytes: int) -> bytes:
    return len(value).to_bytes(length_bytes, "big") + value
