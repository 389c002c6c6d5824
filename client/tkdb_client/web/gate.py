"""One gate for an app, one visit for a request: header, verification, facts and clearing, in this order.

The token is verified before the app is asked what the request attempts: strangers cause no work of the app's. Nothing
is remembered between two questions, also of one visit: what was revoked meanwhile is denied. (The client caches.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tkdb.attestation import Verifier
from tkdb.errors import ConfigurationError, Denied, Unavailable
from tkdb.macaroon.access import Access
from tkdb_client.client import AsyncClient, Client
from tkdb_client.verified import Verified
from tkdb_client.web.facts import Arrived, Attestation, Facts, facts
from tkdb_client.web.header import bundle_text
from tkdb_client.web.rejection import Answer, Rejection, Render, render

KEY = "tkdb.visit"
"""Where a framework's request carries its visit."""


class Gate:
    """What lets requests into one app.

    Args:
        client: verifies tokens.
        attestation: verifies Fly's attestation of the app's callers; without it no ``src`` caveat clears.
        realm: the app's name in challenges.
        render: makes the answers to rejections, in place of ours.
    """

    def __init__(
        self,
        client: Client | AsyncClient,
        *,
        attestation: Verifier | None = None,
        realm: str = "tkdb",
        render: Render | None = None,
    ) -> None:
        self.client = client
        self._attestation = None if attestation is None else Attestation(attestation)
        self._realm = realm
        self._render = render

    def visit(self, arrived: Arrived, outer: Visit | None = None) -> Visit:
        """Return the visit of one request. What attests it is used up, whether the app asks for a token or not: or who
        overhears it could use it once, elsewhere.

        Args:
            arrived: the request.
            outer: its visit at a gate that it has passed on its way here. What was attested there isn't asked again:
                an attestation counts once.
        """
        if outer is not None and outer.gate._verifier is self._verifier:
            return Visit(self, arrived, outer.facts)
        return Visit(self, arrived, facts(arrived, self._attestation))

    def answer(self, rejection: Rejection) -> Answer:
        """Return the answer to a rejection."""
        return render(rejection, self._realm) if self._render is None else self._render(rejection)

    @property
    def _verifier(self) -> Verifier | None:
        return None if self._attestation is None else self._attestation.verifier


class Visit:
    """One request at the gate.

    Attributes:
        gate: which.
        facts: what is known of the request.
    """

    __slots__ = ("_arrived", "facts", "gate")

    def __init__(self, gate: Gate, arrived: Arrived, known: Facts) -> None:
        self.gate = gate
        self.facts = known
        self._arrived = arrived

    async def verified(self) -> Verified:
        """Return what is trusted of the token presented, without blocking the event loop.

        Raises:
            Rejection: there is none, it is denied, or nobody can say.
        """
        text = self._text()
        client = self.gate.client
        with _judging():
            if isinstance(client, AsyncClient):
                return await client.verify(text)
            known = client.known(text)  # as most are: that costs less than a change of threads
            return await asyncio.to_thread(client.verify, text) if known is None else known

    def verified_blocking(self) -> Verified:
        """The same, blocking.

        Raises:
            ConfigurationError: the app's client can only be awaited.
        """
        text = self._text()
        client = self.gate.client
        if isinstance(client, AsyncClient):
            raise ConfigurationError(
                "an AsyncClient can't be asked from blocking code", hint="give a tkdb_client.Client"
            )
        with _judging():
            return client.verify(text)

    def clear(self, verified: Verified, access: Access) -> Verified:
        """Return ``verified`` where its caveats allow ``access``, completed by what is known of the request.

        Raises:
            Rejection: one doesn't.
        """
        try:
            verified.clear(self.facts.complete(access))
        except Denied as denied:
            raise Rejection.unmet(denied) from None
        return verified

    def _text(self) -> str:
        text = bundle_text(self._arrived.values(b"authorization"))
        if text is None:
            raise Rejection.missing()
        return text


def not_guarded() -> ConfigurationError:
    """Return the error for a token that is required where no middleware is: it must never mean "let in"."""
    return ConfigurationError("a token is required here, and no middleware of tkdb's is around the app", hint="add it")


@contextmanager
def _judging() -> Iterator[None]:
    """What the client says of a token, as a rejection. All else is the app's own trouble, and stays an error."""
    try:
        yield
    except Denied as denied:
        raise Rejection.denied(denied) from None
    except Unavailable as unavailable:
        raise Rejection.unavailable(unavailable) from None
