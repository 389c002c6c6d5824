"""Descent: check a token from an ancestor that is known to be good, reading and walking only what is new.

Who knows that some bytes are a whole chain, and which tail it ends in, needs no key to check what was attenuated from
it: each link's key is the tail before it. (The last tail of a token is its signature; those before can't be had back.)

>>> from tkdb.macaroon.caveats import Act
>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[Act("rw")])
>>> child = token.attenuate(Act("r"))
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
        rest: a token's bytes from where a caveat or the trailer begins. What stands before must have been compared,
            byte for byte, with what is known to be a whole chain.
        tail: the end of that chain.
        known: how many caveats it has.
        known_bytes: how many bytes it has, without a trailer.
        limits: what is read at most.

    Raises:
        MalformedToken, OverLimit: the rest can't be read.
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
