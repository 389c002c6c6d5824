"""Verify: is the chain whole, is nothing revoked, does each caveat stand where it may?

What comes back is what is now trusted. It is not a permission: the app still clears the caveats against the access
(``tkdb.macaroon.clearing``), which only it can see.

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
"""A nonce further in the future than this is refused: its machine's clock is wrong, or it was made up."""

_NEVER: Final = bytes(6)


class Key(msgspec.Struct, frozen=True, gc=False):
    """What a verifier knows of one root key.

    Attributes:
        organization: whose it is.
        state: the key, prepared.
        outlived_ms: how long after its nonce's time no token is valid any more, whatever it says.
        issued_from: the 48-bit milliseconds of the earliest nonce that is not revoked, big-endian.
        subjects: the same in milliseconds for single subjects, by 16 bytes of SHA-256 of the subject; or None.
    """

    organization: str
    state: RootKeyState
    outlived_ms: int = 2**63
    issued_from: bytes = _NEVER
    subjects: Mapping[bytes, int] | None = None


Revoked = Literal[True] | AbstractSet[bytes] | None
"""What is revoked of one lineage: all (True), the branches of a set, or nothing (None)."""


def subject_digest(subject: str) -> bytes:
    """Return the 16 bytes by which revocations name a subject: it can't be read from them."""
    return sha256(subject.encode()).digest()[:16]


class Verified(msgspec.Struct, frozen=True):
    """A token whose chain, discharges and revocations are in order: these words are now trusted.

    Attributes:
        organization: whose root key it hangs from.
        macaroon: the token itself. A secret.
        caveats: all its caveats, in order, to be cleared.
    """

    organization: str
    macaroon: Macaroon
    caveats: tuple[AnyCaveat, ...]

    @classmethod
    def of(cls, macaroon: Macaroon, organization: str) -> Self:
        """Type the caveats of a token whose chain is known to be whole.

        Raises:
            UnknownCaveat: one can't be read.
            CaveatUnmet: one stands where it may not: a fact behind the authority's own caveats, a ``bind`` in a root.
            DischargeMissing: a third-party caveat isn't discharged.
        """
        caveats = decode_all(macaroon.packets, len(macaroon.raw))
        if not _PLACED.isdisjoint(map(type, caveats)):
            _check_places(caveats, macaroon.m)
        return cls(organization, macaroon, caveats)  # type: ignore[arg-type]  # no ThirdParty is left among them

    def further(self, macaroon: Macaroon, packets: Sequence[Packet]) -> Self:
        """Type what a descendant, whose chain is known to be whole, has behind this token's caveats: ``packets``.

        Raises:
            UnknownCaveat, CaveatUnmet, DischargeMissing: as ``of``.
        """
        caveats = decode_all(packets, len(macaroon.raw))
        if not _PLACED.isdisjoint(map(type, caveats)):
            _check_places(caveats, macaroon.m, first=len(self.caveats) + 1)
        return replace(self, macaroon=macaroon, caveats=self.caveats + caveats)

    @property
    def subject(self) -> str | None:
        """The fact ``sub``: whom the authority minted it for, or None."""
        return next((caveat.subject for caveat in self.caveats if isinstance(caveat, Sub)), None)

    @property
    def lineage(self) -> bytes:
        """Kid and nonce: 32 bytes."""
        return self.macaroon.lineage

    @property
    def issued_ms(self) -> int:
        """When it was minted: milliseconds since 1970."""
        return self.macaroon.issued_ms


class Verifier:
    """Verifies the tokens of one authority.

    Args:
        name: the authority's name: the location of its roots.
        find_key: kid to key, or None.
        find_revocation: lineage (32 bytes) to what is revoked of it.
        limits: what is read at most.
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
        """Return what is trusted of a bundle's root.

        Raises:
            Denied: one of its classes; the message says what was seen and expected.
        """
        token, discharges = read_bundle(text, self._limits)
        key = self.check(token, now_ms)
        verified = Verified.of(token, key.organization)
        if key.subjects is not None:
            _check_subject(key.subjects, verified.subject, token.issued_ms)
        if discharges:
            raise DischargeInvalid("the bundle brings a discharge that answers no caveat of its token")
        return verified

    def check(self, token: Macaroon, now_ms: int) -> Key:
        """Check a token's chain and whether its lineage, branch or organization is revoked; return its key.

        Half of ``verify``: what the token says stays unread.

        Raises:
            MalformedToken, UnknownKey, BadSignature, RevokedToken, NotYetValid, ExpiredToken: as ``verify``.
        """
        identifier = token.identifier
        if token.location != self._location:
            raise MalformedToken(
                f"this token is of the authority {token.authority[:200]!a}, not of {self._location.decode()}"
            )
        key = self._find_key(identifier[KID])
        if key is None:
            raise UnknownKey(
                f"the root key {token.kid.hex()} is not held here", hint="was it retired, or is this another authority?"
            )
        tails = walk(key.state.sign(identifier), token.packets)
        if not compare_digest(tails[-1], token.raw[-SIGNATURE_BYTES:]):
            raise BadSignature("the token's signature doesn't match its chain", hint="it was altered or forged")
        issued = identifier[ISSUED]
        if issued < key.issued_from:
            raise RevokedToken("everything that the organization was issued before a later time is revoked")
        revoked = self._find_revocation(identifier[LINEAGE])
        if revoked is not None:
            _check_revoked(revoked, tails)
        if not now_ms - key.outlived_ms <= int.from_bytes(issued) <= now_ms + MAX_AHEAD_MS:
            raise _untimely(token, now_ms)
        return key


def _check_revoked(revoked: AbstractSet[bytes] | Literal[True], tails: list[bytes]) -> None:
    if revoked is True:
        raise RevokedToken("the token's whole lineage is revoked")
    # Tails are hashed only here, where the lineage has a revoked branch.
    if not revoked.isdisjoint(map(branch, tails)):
        raise RevokedToken("the token, or one that it was attenuated from, is revoked")


def _untimely(token: Macaroon, now_ms: int) -> ExpiredToken | NotYetValid:
    if token.issued_ms > now_ms:
        return NotYetValid("the token says it was minted in the future", hint="check the authority's clocks")
    return ExpiredToken(
        f"the token was minted {(now_ms - token.issued_ms) // 1000} s ago; none of its organization lives that long",
        hint="ask for a new token",
    )


def _check_subject(subjects: Mapping[bytes, int], subject: str | None, issued_ms: int) -> None:
    if subject is not None and issued_ms < subjects.get(subject_digest(subject), 0):
        raise RevokedToken("everything that the subject was issued before a later time is revoked")


# Where a caveat may stand: a fact among the authority's own words only; in a root neither what belongs in a
# discharge nor a third-party caveat that none came along for.
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
            f"caveat {index} is for {where!a} to discharge, and no discharge came along",
            caveat=index,
            hint="ask it for one, and send it behind the token",
        )
    if isinstance(caveat, Sub):
        why = f"states a fact, but only the first {m} are the authority's own words"
    else:
        why = "may stand in a discharge only"
    return CaveatUnmet(f"caveat {index} {why}", caveat=index)
