"""Minting: the decision on a new token's caveats, key and nonce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tkdb import api
from tkdb.authority.clock import Clock
from tkdb.authority.keyring import Keyring, no_organization
from tkdb.errors import InvalidCaveat, InvalidRequest, OverLimit, UnknownCaveat
from tkdb.journal.state import State
from tkdb.macaroon.caveats import AnyCaveat, Exp, Sub, decode
from tkdb.macaroon.identifier import RANDOM_BYTES
from tkdb.macaroon.mint import mint
from tkdb.macaroon.verify import subject_digest

DEFAULT_LIFETIME_S: Final = 3600


class Minter:
    """Mints tokens of one authority. It writes nothing, so any region can mint."""

    def __init__(self, state: State, keyring: Keyring, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._state = state
        self._keyring = keyring
        self._clock = clock
        self._random = random

    def mint(self, call: api.Mint) -> api.Minted:
        """Return a new token. The caller's permission was already checked.

        Raises:
            NotFound: there is no such organization.
            InvalidRequest: a caveat can't be read or isn't allowed in a root, or the lifetime is too long.
            Unavailable: this machine's clock can't be trusted.
        """
        organization = self._state.organization(call.organization)
        if organization is None or organization.deleted:
            raise no_organization(call.organization)
        caveats = [_read(index, cid) for index, cid in enumerate(call.caveats, 1)]
        now_ms = self._clock.steady_ms(not_before_ms=self._state.head.time_ms)
        issued_ms = max(now_ms, organization.issued_from_ms, self._subject_issued_from_ms(call.organization, caveats))
        expires_s = self._expiry(call, caveats, issued_ms // 1000, organization.max_lifetime_s)
        row, root_key = self._keyring.signing(call.organization)
        try:
            token = mint(
                self._state.name,
                root_key.raw,
                kid=row.kid,
                time_ms=issued_ms,
                random=self._random(RANDOM_BYTES),
                caveats=caveats,
            )
        except (InvalidCaveat, OverLimit) as error:
            raise InvalidRequest(error.message, hint=error.hint) from None
        return api.Minted(token=token.text, expires_s=expires_s)

    def _subject_issued_from_ms(self, organization: str, caveats: list[AnyCaveat]) -> int:
        # A revocation of everything "issued before now" reaches a little into the future, because clocks may run ahead.
        # New tokens are dated after it, or they would be revoked from the start.
        subjects = [caveat.subject for caveat in caveats if isinstance(caveat, Sub)]
        return max((self._state.issued_from(organization, subject_digest(subject)) for subject in subjects), default=0)

    @staticmethod
    def _expiry(call: api.Mint, caveats: list[AnyCaveat], issued_s: int, max_lifetime_s: int) -> int:
        """Return when the token expires. If no caveat gives the expiry, add one, as the first caveat."""
        given = [caveat.at_s for caveat in caveats if isinstance(caveat, Exp)]
        if given and call.expires_in_s is not None:
            raise InvalidRequest("both an exp caveat and expires_in_s are given", hint="give one of them")
        if given:
            expires_s = min(given)
        else:
            lifetime_s = min(DEFAULT_LIFETIME_S, max_lifetime_s) if call.expires_in_s is None else call.expires_in_s
            expires_s = issued_s + lifetime_s
            caveats.insert(0, Exp(expires_s))
        if expires_s > issued_s + max_lifetime_s:
            raise InvalidRequest(
                f"the token would live {expires_s - issued_s} s; {call.organization} allows {max_lifetime_s} s",
                hint="use a shorter lifetime, or configure the organization",
            )
        if expires_s < issued_s:
            raise InvalidRequest("the token would already have expired", hint="give an exp caveat in the future")
        return expires_s


def _read(index: int, cid: bytes) -> AnyCaveat:
    try:
        return decode(cid)
    except UnknownCaveat as error:
        raise InvalidRequest(f"caveat {index} of the request: {error.message}", hint=error.hint) from None
