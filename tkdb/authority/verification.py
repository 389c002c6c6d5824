"""Verification: the authority's verdict on each bundle."""

from __future__ import annotations

from typing import Final

from tkdb import api
from tkdb.authority.keyring import Keyring
from tkdb.errors import Denied
from tkdb.journal.state import State
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import Verifier

DENIAL_CHARS: Final = 160
DENIAL_HINT_CHARS: Final = 60
"""The longest hint of a denial, so that a batch of the longest denials still fits one message."""


class Judge:
    """Verifies tokens of one authority, with its keys and revocations.

    Args:
        name: the authority's name.
        keyring: its root keys.
        state: its revocations.
    """

    def __init__(self, name: str, keyring: Keyring, state: State) -> None:
        self._verifier = Verifier(name, find_key=keyring.find, find_revocation=state.revocation)
        self._state = state

    def verdict(self, bundle: str, now_ms: int) -> api.Valid | api.Invalid:
        """Return the organization of a bundle, or the reason why it is denied."""
        try:
            verified = self._verifier.verify(bundle, now_ms)
        except Denied as denied:
            message, hint = denied.message[:DENIAL_CHARS], denied.hint[:DENIAL_HINT_CHARS]
            return api.Invalid(denied.reason, message, hint, denied.caveat)
        return api.Valid(verified.organization, self._branches(verified.lineage))

    def _branches(self, lineage: bytes) -> list[bytes] | None:
        """Return the revoked branches of a lineage that isn't revoked itself, or None if there are too many."""
        revoked = self._state.revocation(lineage)
        if revoked is None or revoked is True:
            return []
        return sorted(revoked) if len(revoked) <= api.MAX_TOLD_BRANCHES else None

    def check(self, token: Macaroon, now_ms: int) -> None:
        """Return if a token's chain is valid and the token isn't revoked. Its caveats aren't read.

        Raises:
            Denied: as ``Verifier.check``.
        """
        self._verifier.check(token, now_ms)
