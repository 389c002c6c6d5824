"""What a revocation of the feed says of a token.

A token shows its own tail and no other, so of a revoked branch of its lineage it can't be told, in general, whether the
token is in it: the branch may be that of a token that it was attenuated from. Of a minted token it can: tails before
its own never left the authority.

>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[])
>>> covers(api.IssuedBefore(kid=token.kid, before_ms=1_001), token, None)
True
>>> covers(api.Branch(kid=token.kid, nonce=token.nonce, branch=bytes(16)), token, None)
False
"""

from __future__ import annotations

from typing import TypeGuard

from tkdb import api
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import subject_digest


def covers(revocation: api.Revocation, token: Macaroon, subject: str | None) -> bool | None:
    """Return whether ``token``, minted for ``subject``, is revoked by ``revocation``; None where it can't be told."""
    if revocation.kid != token.kid:
        return False
    match revocation:
        case api.KeyRetired():
            return True
        case api.Lineage(nonce=nonce):
            return nonce == token.nonce
        case api.IssuedBefore(before_ms=before_ms):
            return token.issued_ms < before_ms
        case api.SubjectIssuedBefore(subject=digest, before_ms=before_ms):
            return token.issued_ms < before_ms and subject is not None and subject_digest(subject) == digest
        case api.Branch(nonce=nonce, branch=branch):
            if nonce != token.nonce:
                return False
            if branch == token.branch:
                return True
            return False if token.minted else None


def is_branch_of(revocation: api.Revocation, token: Macaroon) -> TypeGuard[api.Branch]:
    """Return whether ``revocation`` is of a branch of the token's lineage."""
    return isinstance(revocation, api.Branch) and revocation.kid + revocation.nonce == token.lineage
