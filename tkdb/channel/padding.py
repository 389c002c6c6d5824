"""Padding: payloads are padded in steps of 256 bytes, so that a message's length reveals little about its content.

======  =====  ===========================================================
offset  bytes
======  =====  ===========================================================
0       4      n, the payload's length, big-endian
4       n      the payload
4 + n   0-255  zeros, up to the next multiple of 256
======  =====  ===========================================================

A padded payload has at most 255 steps. Together with the keys and tags of Noise it stays below 65,535 bytes.

>>> len(pad(b"hello"))
256
>>> unpad(pad(b"hello"))
b'hello'
"""

from __future__ import annotations

from typing import Final

from tkdb import errors
from tkdb.channel.dh import unreadable

STEP_BYTES: Final = 256
MAX_PADDED_BYTES: Final = 255 * STEP_BYTES
_LENGTH_BYTES: Final = 4
MAX_PAYLOAD_BYTES: Final = MAX_PADDED_BYTES - _LENGTH_BYTES


def pad(payload: bytes) -> bytes:
    """Return the length of ``payload`` and then ``payload``, padded with zeros to a multiple of 256 bytes.

    Raises:
        InvalidRequest: the payload is larger than one message can carry.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise errors.InvalidRequest(
            f"the payload has {len(payload):,} bytes, and one message carries at most {MAX_PAYLOAD_BYTES:,}",
            hint="ask for fewer in one request",
        )
    framed = len(payload).to_bytes(_LENGTH_BYTES, "big") + payload
    return framed + bytes(-len(framed) % STEP_BYTES)


def unpad(padded: bytes) -> bytes:
    """Return the payload in ``padded``. Each payload has exactly one padded form.

    Raises:
        ChannelError: ``padded`` has any other form.
    """
    end = _LENGTH_BYTES + int.from_bytes(padded[:_LENGTH_BYTES], "big")
    whole = end + -end % STEP_BYTES
    if len(padded) != whole or len(padded) > MAX_PADDED_BYTES or padded.count(0, end) != whole - end:
        raise unreadable()
    return padded[_LENGTH_BYTES:end]
