"""The methods that neither write nor wait, answered from the state in memory.

The service and the testing authority of `tkdb_client.testing` both answer with this class, so an app's tests get the
results that production gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import msgspec

from tkdb import __version__, api, defaults
from tkdb.authority.clock import Clock
from tkdb.authority.decisions import describe, permit
from tkdb.authority.keyring import Keyring
from tkdb.authority.minting import Minter
from tkdb.authority.verification import Judge
from tkdb.errors import InvalidRequest, NotPermitted, RevokedToken
from tkdb.journal.seal import SealKeys
from tkdb.journal.state import State
from tkdb.macaroon.token import Macaroon
from tkdb.ports import Caller
from tkdb.signers import ALL, Signer


@dataclass(frozen=True, slots=True)
class Profile:
    """The identity of an authority, and of the machine that it runs on.

    Attributes:
        name: the authority's name, which is the location of its macaroons.
        seal_keys: the sealing secrets.
        max_lifetime_s: the longest lifetime that an organization may set for its tokens.
        max_revocations: the quota of revocations of each organization (`tkdb.authority.quota`).
        region: the machine's region, as ``status`` reports it.
        machine: the machine's name, as ``status`` reports it.
        attested: whether only attested callers reach the machine, as ``status`` reports it.
    """

    name: str
    seal_keys: SealKeys
    max_lifetime_s: int = defaults.MAX_LIFETIME_S
    max_revocations: int = defaults.MAX_REVOCATIONS
    region: str = ""
    machine: str = ""
    attested: bool = False


class Methods:
    """Answers calls from ``state``, which other code keeps up to date.

    Args:
        profile: the authority's identity.
        state: the journal's fold.
        keyring: the root keys of ``state``.
        clock: the machine's clocks.
        random: returns ``n`` random bytes.
    """

    def __init__(
        self, profile: Profile, state: State, keyring: Keyring, clock: Clock, random: Callable[[int], bytes]
    ) -> None:
        self._profile = profile
        self._state = state
        self._clock = clock
        self._minter = Minter(state, keyring, clock, random)
        self._judge = Judge(profile.name, keyring, state)
        self._started_ms = clock.monotonic_ms()

    def answer(self, call: api.Call[Any], caller: Caller) -> msgspec.Struct | None:
        """Return the result of ``call``, or None if the call writes or may wait.

        Raises:
            TkdbError: the call fails. The class is the reason.
        """
        match call:
            case api.Verify():
                now_ms = self._clock.reckoned_ms()
                return api.Verified([self._judge.verdict(bundle, now_ms) for bundle in call.bundles])
            case api.Status():
                return self.status()
            case api.Mint():
                permit(signer_of(caller), "mint", call.organization)
                return self._minter.mint(call)
            case api.ListOrganizations():
                return self._list(call, signer_of(caller))
            case api.HandOver() | api.TakeOver():
                permit(signer_of(caller), "promote", ALL)
                raise InvalidRequest("this authority stands alone: there is no other machine", hint="see `tkdb init`")
        return None

    def status(self) -> api.StatusReport:
        """Return the status of a machine that stands alone."""
        return api.StatusReport(
            name=self._profile.name,
            version=__version__,
            role="primary",
            region=self._profile.region,
            machine=self._profile.machine,
            uptime_ms=self._clock.monotonic_ms() - self._started_ms,
            position=self._state.head.seq,
            age_ms=0,
            time_ms=self._clock.wall_ms(),
            attested=self._profile.attested,
        )

    def branch_to_revoke(self, text: str) -> api.Branch | None:
        """Return the branch that the holder of a token asks to revoke, or None if the token is already revoked.

        Raises:
            Denied: the token is not valid.
        """
        token = Macaroon.parse(text)
        try:
            self._judge.check(token, self._clock.reckoned_ms())
        except RevokedToken:
            return None
        return api.Branch(token.kid, token.nonce, token.branch)

    def _list(self, call: api.ListOrganizations, signer: Signer) -> api.Organizations:
        rows = (
            row
            for name, row in self._state.organizations.items()
            if name > call.after and not row.deleted and signer.acts_for(name)
        )
        page = nsmallest(call.limit + 1, rows, key=lambda row: row.name)
        shown: list[api.Organization] = []
        room = api.MAX_PAGE_BYTES
        for row in page[: call.limit]:
            organization = describe(self._state, row)
            room -= len(api.encode(organization))
            if room < 0:
                break
            shown.append(organization)
        return api.Organizations(shown, more=len(page) > len(shown))


def signer_of(caller: Caller) -> Signer:
    """Return the signer of a request.

    Raises:
        NotPermitted: the request has no signer.
    """
    if caller.signer is None:
        raise NotPermitted("this takes a signer", hint="sign the request with a signer's key")
    return caller.signer
