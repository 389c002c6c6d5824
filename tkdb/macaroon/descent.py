"""Descent: the check of a token from a known valid ancestor. Only the added caveats are read and walked.

If a reader knows that some bytes are a valid chain, and knows its tail, it can check descendants without a key, because
each link's key is the tail before it. (The last tail of a token is its signature; the tails before it can't be
recovered.)

>>> from tkdb.macaroon.caveats import Act
>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[Act("rw")])
>>> child = token.narrow(Act("r"))
>>> at = len(token.raw) - TRAILER_BYTES
>>> child.raw.startswith(token.raw[:at])
True
>>> packets, tails = go_on(child.raw[at:], token.tail, known=1, known_bytes=at)
>>> packets == [b'["act","r"]'], tails == [token.tail, child.tail]
(True, True)
"""

from __future__ import annotations

from hmac import compare_digest

from tkdb.errors import BadSignature, MalformedToken, OverLimit
from tkdb.macaroon.chain import walk
from tkdb.macaroon.limits import DEFAULT, Limits
from tkdb.macaroon.wire import SIGNATURE_BYTES, TRAILER_BYTES, TRAILER_HEAD, Packet, read_caveats


def go_on(
    rest: bytes, tail: bytes, *, known: int, known_bytes: int, limits: Limits = DEFAULT
) -> tuple[list[Packet], list[bytes]]:
    """Return the caveats in a token's ``rest``, and every tail from ``tail`` to its signature.

    Args:
        rest: the token's bytes from the beginning of a caveat or the trailer on. The caller must have compared the
            bytes before it, byte for byte, with a chain that is known to be valid.
        tail: the end of that chain.
        known: the number of caveats in that chain.
        known_bytes: the number of bytes of that chain, without a trailer.
        limits: the maximum sizes that are read.

    Raises:
        MalformedToken, OverLimit: ``rest`` can't be read.
        BadSignature: the token doesn't end in the signature that follows from ``tail``.
    """
    end = len(rest) - TRAILER_BYTES
    size = known_bytes + len(rest)
    if size > limits.token_bytes:
        raise OverLimit(f"this token has {size} bytes; at most {limits.token_bytes} are read")
    if end < 0 or rest[end : end + 3] != TRAILER_HEAD:
        raise MalformedToken("the signature is not the token's last 32 bytes")
    try:
        packets = read_caveats(rest, 0, end, limits.caveats) if end else []
    except IndexError:
        raise MalformedToken("a field is longer than the token") from None
    if known + len(packets) > limits.caveats:
        raise OverLimit(f"this token has {known + len(packets)} caveats; at most {limits.caveats} are read")
    tails = walk(tail, packets)
    if not compare_digest(tails[-1], rest[-SIGNATURE_BYTES:]):
        raise BadSignature("the token's signature doesn't match its chain", hint="it was altered or forged")
    return packets, tails
