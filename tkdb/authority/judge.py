"""Verify: what the authority says of each bundle that it is asked about."""

from __future__ import annotations

from typing import Final

from tkdb import api
from tkdb.authority.keyring import Keyring
from tkdb.errors import Denied
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import Verifier
from tkdb.store.state import State

DENIAL_CHARS: Final = 160
DENIAL_HINT_CHARS: Final = 60
"""A denial is cut, so that a batch of the longest still fits one message."""


class Judge:
    """Says whether tokens of one authority are valid, by its keys and what is revoked.

    Args:
        name: the authority's name.
        keyring: its root keys.
        state: what is revoked.
    """

    def __init__(self, name: str, keyring: Keyring, state: State) -> None:
        self._verifier = Verifier(name, find_key=keyring.find, find_revocation=state.revocation)

    def verdict(self, bundle: str, now_ms: int) -> api.Valid | api.Invalid:
        """Return whose a bundle is, or why it is denied."""
        try:
            return api.Valid(self._verifier.verify(bundle, now_ms).organization)
        except Denied as denied:
            message, hint = denied.message[:DENIAL_CHARS], denied.hint[:DENIAL_HINT_CHARS]
            return api.Invalid(denied.reason, message, hint, denied.caveat)

    def check(self, token: Macaroon, now_ms: int) -> None:
        """Return if a token's chain is whole and it isn't revoked; what it says stays unread.

        Raises:
            Denied: as ``Verifier.check``.
        """
        self._verifier.check(token, now_ms)
