"""Matching: whether a revocation of the feed covers a token.

A token shows only its own tail. So in general it is unknown whether a token is in a revoked branch of its lineage: the
branch may belong to a token that it was attenuated from. For a minted token it is known, because the tails before its
own never left the authority.

>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[])
>>> covers(api.IssuedBefore(kids=[token.kid], before_ms=1_001), token, None)
True
>>> covers(api.Branch(kid=token.kid, nonce=token.nonce, branch=bytes(16)), token, None)
False
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias, TypeGuard

from tkdb import api
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import subject_digest

_ALWAYS_MS: Final = 2**63
"""A time before which every token was issued."""


def covers(revocation: api.Revocation, token: Macaroon, subject: str | None) -> bool | None:
    """Return True if ``revocation`` covers ``token``, minted for ``subject``; None if that is unknown."""
    if token.kid not in kids_of(revocation):
        return False
    match revocation:
        case api.Lineage(nonce=nonce):
            return nonce == token.nonce
        case api.Branch(nonce=nonce, branch=branch):
            if nonce != token.nonce:
                return False
            if branch == token.branch:
                return True
            return False if token.minted else None
        case _:
            return KeyRevocations([revocation]).covers(token, subject)


def kids_of(revocation: api.Revocation) -> list[bytes]:
    """Return the root keys that ``revocation`` affects."""
    return revocation.kids if isinstance(revocation, api.IssuedBefore) else [revocation.kid]


WideRevocation: TypeAlias = api.KeyRetired | api.IssuedBefore


class KeyRevocations:
    """All revocations of one root key that don't concern a single lineage. One check of a token covers all of them.

    >>> from tkdb.macaroon.mint import mint
    >>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[])
    >>> kim = api.IssuedBefore([token.kid], subjects=[(subject_digest("kim"), 2_000)])
    >>> wide = KeyRevocations([kim, api.IssuedBefore([token.kid], 500)])
    >>> wide.covers(token, "kim"), wide.covers(token, "lee"), wide.covers(token, None)
    (True, False, False)
    """

    def __init__(self, revocations: Iterable[WideRevocation]) -> None:
        self._before_ms = 0
        self._subjects: dict[bytes, int] = {}
        for revocation in revocations:
            match revocation:
                case api.KeyRetired():
                    self._before_ms = _ALWAYS_MS
                case api.IssuedBefore(before_ms=before_ms, subjects=subjects):
                    self._before_ms = max(self._before_ms, before_ms)
                    for digest, subject_ms in subjects:
                        self._subjects[digest] = max(self._subjects.get(digest, 0), subject_ms)

    def covers(self, token: Macaroon, subject: str | None) -> bool:
        """Return True if one of them covers a token of this key, minted for ``subject``."""
        issued_ms = token.issued_ms
        if issued_ms < self._before_ms:
            return True
        return (
            bool(self._subjects) and subject is not None and issued_ms < self._subjects.get(subject_digest(subject), 0)
        )


def is_branch_of(revocation: api.Revocation, token: Macaroon) -> TypeGuard[api.Branch]:
    """Return True if ``revocation`` is of a branch of the token's lineage."""
    return isinstance(revocation, api.Branch) and revocation.kid + revocation.nonce == token.lineage
