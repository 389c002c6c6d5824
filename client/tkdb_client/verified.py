"""What a verification gives an app: a token that is now trusted, to be cleared against each access.

>>> from tkdb.macaroon.caveats import Act
>>> from tkdb.macaroon.mint import mint
>>> token = mint("tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=bytes(10), caveats=[Act("r")])
>>> verified = Verified.under(Policy(clock=lambda: 2.0), "acme", token)
>>> verified.clear(Access(action="r"))
>>> verified.clear(Access(action="w"))
Traceback (most recent call last):
...
tkdb.errors.CaveatUnmet: caveat 1 of 1 (act r) is not met: it allows r; the request is w
"""

from __future__ import annotations

from typing import Self

from tkdb.macaroon import clearing, verify
from tkdb.macaroon.access import Access, Policy
from tkdb.macaroon.token import Macaroon


class Verified(verify.Verified, frozen=True, kw_only=True):
    """A token whose chain, discharges and revocations are in order. It permits nothing until it is cleared.

    Attributes:
        organization: whose root key it hangs from.
        macaroon: the token itself. A secret.
        caveats: all its caveats, in order.
        policy: what the app knows beforehand.
    """

    policy: Policy

    @classmethod
    def under(cls, policy: Policy, organization: str, macaroon: Macaroon) -> Self:
        """Return what is trusted of a token whose chain the authority has found whole.

        Raises:
            UnknownCaveat, CaveatUnmet, DischargeMissing: a caveat can't be read, or stands where it may not.
        """
        trusted = verify.Verified.of(macaroon, organization)
        return cls(trusted.organization, trusted.macaroon, trusted.caveats, policy=policy)

    def clear(self, access: Access) -> None:
        """Return when every caveat allows what the request attempts.

        Raises:
            ExpiredToken, NotYetValid, CaveatUnmet: the first caveat that doesn't, with what was seen.
        """
        clearing.clear(self.caveats, access, self.policy)
