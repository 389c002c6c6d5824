"""Mint: a new root macaroon, its chain begun by pymacaroons, the format's reference library.

>>> from tkdb.macaroon.caveats import Act
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[Act("rw")])
>>> token.m, token.caveats
(1, (Act(actions='rw'),))
"""

from __future__ import annotations

from collections.abc import Sequence

from pymacaroons import MACAROON_V2
from pymacaroons import Macaroon as ReferenceMacaroon

from tkdb.errors import InvalidCaveat, OverLimit
from tkdb.macaroon.caveats import AnyCaveat, Bind, Org, Sub, Usr
from tkdb.macaroon.identifier import MAX_M, build
from tkdb.macaroon.limits import DEFAULT, Limits
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import write


def mint(
    name: str,
    root_key: bytes,
    *,
    kid: bytes,
    time_ms: int,
    random: bytes,
    caveats: Sequence[AnyCaveat],
    limits: Limits = DEFAULT,
) -> Macaroon:
    """Return the first token of a new lineage. All its caveats count as written by the authority, including facts.

    Args:
        name: the authority's name.
        root_key: 32 bytes.
        kid: the root key's name, 16 bytes.
        time_ms: the nonce's time, milliseconds since 1970.
        random: the nonce's 10 random bytes.
        caveats: the token's caveats.
        limits: the maximum sizes that readers accept.

    Raises:
        InvalidCaveat: a caveat can't be written, belongs in a discharge, or states a second subject.
        OverLimit: the token would be larger than readers accept.
    """
    if any(isinstance(caveat, Bind | Usr | Org) for caveat in caveats):
        raise InvalidCaveat("bind, usr and org are allowed only in a discharge")
    if sum(isinstance(caveat, Sub) for caveat in caveats) > 1:
        raise InvalidCaveat("a token has one subject at most")
    most = min(limits.caveats, MAX_M)
    if len(caveats) > most:
        raise OverLimit(f"the token would have {len(caveats)} caveats; {most} are read at most")
    identifier = build(kid=kid, time_ms=time_ms, random=random, m=len(caveats))
    root = ReferenceMacaroon(location=name, identifier=identifier, key=root_key, version=MACAROON_V2)
    location = name.encode()
    raw = write(location, identifier, [], bytes.fromhex(root.signature))
    return Macaroon(raw, location, identifier, ()).extend(caveats, limits)
