"""The result of a verification for an app: a verified token, to be cleared against each access.

>>> from tkdb.macaroon.caveats import Act
>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[Act("r")])
>>> verified = Verified.under(Policy(organization="acme", clock=lambda: 2.0), "acme", token)
>>> verified.clear(Access(action="r"))
>>> verified.allows(Access(action="w"))
False
>>> verified.clear(Access(action="w"))
Traceback (most recent call last):
...
tkdb.errors.CaveatUnmet: caveat 1 of 1 (act r) is not met: it allows r; the request is w
"""

from __future__ import annotations

from typing import Self

from tkdb.arguments import reject
from tkdb.errors import Denied
from tkdb.macaroon import clearing, verify
from tkdb.macaroon.access import Access, Policy
from tkdb.macaroon.caveats import Exp
from tkdb.macaroon.token import Macaroon


class Verified(verify.Verified, frozen=True, kw_only=True):
    """A token whose chain, discharges and revocations are valid. It permits nothing until it is cleared.

    Attributes:
        organization: the organization of its root key.
        macaroon: the token itself. A secret.
        caveats: all its caveats, in order.
        policy: the app's own facts.
    """

    policy: Policy

    @classmethod
    def under(cls, policy: Policy, organization: str, macaroon: Macaroon) -> Self:
        """Return the verified token, for a token whose chain the authority has found valid.

        Raises:
            UnknownCaveat, CaveatUnmet, DischargeMissing: a caveat can't be read, or isn't allowed at its place.
        """
        trusted = verify.Verified.from_macaroon(macaroon, organization)
        return cls(trusted.organization, trusted.macaroon, trusted.caveats, policy=policy)

    def clear(self, access: Access) -> None:
        """Return if the token is one of the access's organization, and every caveat allows the access.

        Raises:
            ForeignOrganization: the access is for the data of another organization. The message names both.
            ExpiredToken, NotYetValid, CaveatUnmet: the first caveat that doesn't allow it. The message has its number
                and the values.
            ConfigurationError: neither the access nor the policy names an organization, or ``access`` isn't an
                ``Access``.
        """
        try:
            clearing.clear(self.organization, self.caveats, access, self.policy)
        except (AttributeError, TypeError):
            if not isinstance(access, Access):  # checked only here, because clearing is the hot path
                reject("access", access, "is not an Access", 'pass Access(action="r", resource={"app": "shop"})')
            raise

    def allows(self, access: Access) -> bool:
        """Return True if ``clear`` would return, False if it would deny. For a page that shows only usable buttons.

        Raises:
            ConfigurationError: as ``clear``.
        """
        try:
            self.clear(access)
        except Denied:
            return False
        return True

    @property
    def expires_s(self) -> int | None:
        """The last Unix second in which the token is valid; None if it doesn't expire."""
        return min((caveat.at_s for caveat in self.caveats if isinstance(caveat, Exp)), default=None)
