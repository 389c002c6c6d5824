"""Verification: the chain is valid, nothing is revoked, and each caveat is in a position where it is allowed.

The result is the trusted content of a token. It is not a permission: the app still clears the caveats against the
access (``tkdb.macaroon.clearing``), because only the app can see the access.

>>> from tkdb.macaroon.chain import RootKeyState
>>> from tkdb.macaroon.mint import mint
>>> from tkdb.macaroon.caveats import Exp, Sub
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[Sub("kim")])
>>> keys = {b"k" * 16: Key("acme", RootKeyState(b"r" * 32))}
>>> verifier = Verifier("tkdb.example", find_key=keys.get, find_revocation=lambda lineage: None)
>>> verified = verifier.verify(token.text, now_ms=2_000)
>>> verified.organization, verified.subject
('acme', 'kim')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Literal, Self

import msgspec
from msgspec.structs import replace

from tkdb.errors import (
    BadSignature,
    CaveatUnmet,
    DischargeInvalid,
    DischargeMissing,
    ExpiredToken,
    MalformedToken,
    NotYetValid,
    RevokedToken,
    UnknownKey,
)
from tkdb.macaroon.bundle import read_bundle
from tkdb.macaroon.caveats import AnyCaveat, Bind, Org, Sub, Usr, decode_all
from tkdb.macaroon.chain import RootKeyState, branch, walk
from tkdb.macaroon.identifier import ISSUED, KID, LINEAGE
from tkdb.macaroon.limits import DEFAULT, Limits
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import SIGNATURE_BYTES, Packet, ThirdParty

MAX_AHEAD_MS: Final = 60_000
"""How far in the future a nonce's time may be. Beyond that the token is denied: a minting machine's clock was wrong, or
the nonce was made up."""

_NEVER: Final = bytes(6)


class Key(msgspec.Struct, frozen=True, gc=False):
    """The facts about one root key that a verifier needs.

    Attributes:
        organization: the organization that owns the key.
        state: the prepared key.
        outlived_ms: how long after its nonce's time a token can be valid at most, for any ``exp``.
        issued_from: the 48-bit milliseconds of the earliest nonce that is not revoked, big-endian.
        subjects: the same time in milliseconds for single subjects, by 16 bytes of SHA-256 of the subject; or None.
    """

    organization: str
    state: RootKeyState
    outlived_ms: int = 2**63
    issued_from: bytes = _NEVER
    subjects: Mapping[bytes, int] | None = None


Revoked = Literal[True] | AbstractSet[bytes] | None
"""The revoked part of one lineage: all of it (True), a set of branches, or nothing (None)."""


def subject_digest(subject: str) -> bytes:
    """Return the 16 bytes by which revocations name a subject. The subject can't be read from them."""
    return sha256(subject.encode()).digest()[:16]


class Verified(msgspec.Struct, frozen=True):
    """A token that passed the checks of its chain, discharges and revocations. Its content is now trusted.

    Attributes:
        organization: the organization that owns the token's root key.
        macaroon: the token itself. It is a secret.
        caveats: all its caveats, in order. The app must still clear them.
    """

    organization: str
    macaroon: Macaroon
    caveats: tuple[AnyCaveat, ...]

    @classmethod
    def from_macaroon(cls, macaroon: Macaroon, organization: str) -> Self:
        """Type the caveats of a token with a chain that is known to be valid.

        Raises:
            UnknownCaveat: a caveat can't be read.
            CaveatUnmet: a caveat is in a position where it isn't allowed: a fact after the authority's own caveats, or
                a ``bind`` in a root macaroon, for example.
            DischargeMissing: a third-party caveat isn't discharged.
        """
        caveats = decode_all(macaroon.packets)
        if not _PLACED.isdisjoint(map(type, caveats)):
            _check_places(caveats, macaroon.m)
        return cls(organization, macaroon, caveats)  # type: ignore[arg-type]  # no ThirdParty is left among them

    def attenuated(self, macaroon: Macaroon, packets: Sequence[Packet]) -> Self:
        """Type the caveats ``packets`` that a descendant has after this token's caveats. The descendant's chain must be
        known to be valid.

        Raises:
            UnknownCaveat, CaveatUnmet, DischargeMissing: as ``from_macaroon``.
        """
        caveats = decode_all(packets)
        if not _PLACED.isdisjoint(map(type, caveats)):
            _check_places(caveats, macaroon.m, first=len(self.caveats) + 1)
        return replace(self, macaroon=macaroon, caveats=self.caveats + caveats)

    @property
    def subject(self) -> str | None:
        """The fact ``sub``: the subject that the authority minted the token for, or None."""
        return next((caveat.subject for caveat in self.caveats if isinstance(caveat, Sub)), None)

    @property
    def lineage(self) -> bytes:
        """The kid and the nonce: 32 bytes."""
        return self.macaroon.lineage

    @property
    def issued_ms(self) -> int:
        """The time when the token's lineage was minted: milliseconds since 1970."""
        return self.macaroon.issued_ms


class Verifier:
    """The verifier for the tokens of one authority.

    Args:
        name: the authority's name, which is the location of its root macaroons.
        find_key: returns the key for a kid, or None.
        find_revocation: returns the revoked part of a lineage (32 bytes).
        limits: the maximum sizes that are read.
    """

    __slots__ = ("_find_key", "_find_revocation", "_limits", "_location")

    def __init__(
        self,
        name: str,
        *,
        find_key: Callable[[bytes], Key | None],
        find_revocation: Callable[[bytes], Revoked],
        limits: Limits = DEFAULT,
    ) -> None:
        self._location = name.encode()
        self._find_key = find_key
        self._find_revocation = find_revocation
        self._limits = limits

    def verify(self, text: str | bytes, now_ms: int) -> Verified:
        """Return the trusted content of a bundle's root macaroon.

        Raises:
            Denied: a check fails. The error is of one of the subclasses; the message says what was seen and expected.
        """
        token, discharges = read_bundle(text, self._limits)
        key = self.check(token, now_ms)
        verified = Verified.from_macaroon(token, key.organization)
        if key.subjects is not None:
            _check_subject(key.subjects, verified.subject, token.issued_ms)
        if discharges:
            raise DischargeInvalid("the bundle contains a discharge that matches no caveat of its token")
        return verified

    def check(self, token: Macaroon, now_ms: int) -> Key:
        """Check a token's chain, and that its lineage, branch or organization isn't revoked. Return the token's key.

        This is half of ``verify``: it doesn't read the token's caveats.

        Raises:
            MalformedToken, UnknownKey, BadSignature, RevokedToken, NotYetValid, ExpiredToken: as ``verify``.
        """
        identifier = token.identifier
        if token.location != self._location:
            raise MalformedToken(
                f"this token belongs to the authority {token.authority[:200]!a}, not to {self._location.decode()}"
            )
        key = self._find_key(identifier[KID])
        if key is None:
            raise UnknownKey(
                f"this authority doesn't hold the root key {token.kid.hex()}",
                hint="check the token's authority and whether its key is retired",
            )
        tails = walk(key.state.sign(identifier), token.packets)
        if not compare_digest(tails[-1], token.raw[-SIGNATURE_BYTES:]):
            raise BadSignature("the token's signature doesn't match its chain", hint="it was altered or forged")
        issued = identifier[ISSUED]
        if issued < key.issued_from:
            raise RevokedToken("all tokens that were issued to the organization before a later time are revoked")
        revoked = self._find_revocation(identifier[LINEAGE])
        if revoked is not None:
            _check_revoked(revoked, tails)
        if not now_ms - key.outlived_ms <= int.from_bytes(issued) <= now_ms + MAX_AHEAD_MS:
            raise _untimely(token, now_ms)
        return key


def _check_revoked(revoked: AbstractSet[bytes] | Literal[True], tails: list[bytes]) -> None:
    if revoked is True:
        raise RevokedToken("the token's whole lineage is revoked")
    # Tails are hashed only here, because few lineages have a revoked branch.
    if not revoked.isdisjoint(map(branch, tails)):
        raise RevokedToken("the token, or one that it was attenuated from, is revoked")


def _untimely(token: Macaroon, now_ms: int) -> ExpiredToken | NotYetValid:
    if token.issued_ms > now_ms:
        return NotYetValid("the token's minting time is in the future", hint="check the authority's clocks")
    return ExpiredToken(
        f"the token was minted {(now_ms - token.issued_ms) // 1000} s ago; "
        "no token of its organization lives that long",
        hint="ask for a new token",
    )


def _check_subject(subjects: Mapping[bytes, int], subject: str | None, issued_ms: int) -> None:
    if subject is not None and issued_ms < subjects.get(subject_digest(subject), 0):
        raise RevokedToken("all tokens that were issued to the subject before a later time are revoked")


# The positions of caveats: a fact is allowed only among the authority's own caveats. A root macaroon may contain
# neither a caveat that belongs in a discharge, nor a third-party caveat without a discharge.
_NOT_IN_ROOTS: Final = frozenset({ThirdParty, Usr, Org, Bind})
_PLACED: Final = _NOT_IN_ROOTS | {Sub}


def _check_places(caveats: tuple[AnyCaveat | ThirdParty, ...], m: int, first: int = 1) -> None:
    for index, caveat in enumerate(caveats, first):
        if type(caveat) in _NOT_IN_ROOTS or (type(caveat) is Sub and index > m):
            raise _misplaced(caveat, index, m)


def _misplaced(caveat: AnyCaveat | ThirdParty, index: int, m: int) -> CaveatUnmet | DischargeMissing:
    if isinstance(caveat, ThirdParty):
        where = caveat.location[:200].decode("ascii", "backslashreplace")
        return DischargeMissing(
            f"caveat {index} needs a discharge from {where!a}, and the bundle contains none",
            caveat=index,
            hint="ask the third party for one, and send it after the token",
        )
    if isinstance(caveat, Sub):
        why = f"states a fact, but the authority wrote only the first {m} caveats"
    else:
        why = "is allowed only in a discharge"
    return CaveatUnmet(f"caveat {index} {why}", caveat=index)
