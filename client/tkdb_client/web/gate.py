"""One gate for an app, and one visit for each request: header, verification, facts and clearing, in this order.

The token is verified before the app is asked for the access, so strangers cause no work in the app. Nothing is
remembered between two calls, even within one visit, so a token that was revoked in between is denied. (The client
caches.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from tkdb.attestation import Verifier
from tkdb.errors import CaveatUnmet, ConfigurationError, Denied, Unavailable, WrongClock
from tkdb.macaroon import clearing
from tkdb.macaroon.access import Access, AnyOrganization, Policy
from tkdb_client.client import AsyncClient, Client
from tkdb_client.verified import Verified
from tkdb_client.web.facts import Arrived, Attestation, Origin, origin
from tkdb_client.web.header import bundle_text
from tkdb_client.web.rejection import Answer, Rejection, Render, render

LOGGER: Final = logging.getLogger("tkdb.client")
CLOCK_LOG_S: Final = 60
KEY = "tkdb.visit"
"""The key of the visit in a framework's request."""


class Guard:
    """Lets requests into one app.

    Args:
        client: verifies tokens.
        organization: the organization whose data the app holds; see ``Policy.organization``. Default: the client's.
        attestation: verifies Fly's attestation of the app's callers. Without it, no ``src`` caveat clears.
        realm: the app's name in challenges.
        render: makes the responses to rejections, in place of tkdb's.

    Raises:
        ConfigurationError: the client's policy is for another organization.
    """

    def __init__(
        self,
        client: Client | AsyncClient,
        *,
        organization: str | AnyOrganization | None = None,
        attestation: Verifier | None = None,
        realm: str = "tkdb",
        render: Render | None = None,
    ) -> None:
        self.client = client
        self._policy = _bound(client.policy, organization)
        self._attestation = None if attestation is None else Attestation(attestation)
        self._realm = realm
        self._render = render

    def visit(self, arrived: Arrived, outer: Visit | None = None) -> Visit:
        """Return the visit of one request. Its attestation is used up, even if the app needs no token.

        Otherwise an eavesdropper could use the attestation once elsewhere.

        Args:
            arrived: the request.
            outer: its visit at an outer gate. The attestation isn't checked again, because it counts once.
        """
        if outer is None:
            return Visit(self, arrived, arrived, origin(arrived, self._attestation))
        if outer.gate._verifier is self._verifier:
            return Visit(self, arrived, outer.first, outer.origin)
        return Visit(self, arrived, outer.first, origin(arrived, self._attestation))

    def bind(self, verified: Verified) -> Verified:
        """Return ``verified`` under the policy of this app."""
        if verified.policy is self._policy:
            return verified
        return msgspec.structs.replace(verified, policy=self._policy)

    def answer(self, rejection: Rejection) -> Answer:
        """Return the response to a rejection."""
        return render(rejection, self._realm) if self._render is None else self._render(rejection)

    @property
    def _verifier(self) -> Verifier | None:
        return None if self._attestation is None else self._attestation.verifier


class Visit:
    """One request at the gate.

    Attributes:
        gate: the gate.
        first: the request as it arrived at the outermost gate.
        origin: its attested facts.
        rejection: the rejection that ended the last check; None if that check was passed, or there was none.
    """

    __slots__ = ("_arrived", "first", "gate", "origin", "rejection")

    def __init__(self, gate: Guard, arrived: Arrived, first: Arrived, known: Origin) -> None:
        self.gate = gate
        self.first = first
        self.origin = known
        self.rejection: Rejection | None = None
        self._arrived = arrived

    @property
    def has_token(self) -> bool:
        """True if the request presents something as a token, even if it can't be read."""
        return bool(self._arrived.values(b"authorization"))

    async def verified(self) -> Verified:
        """Return the verified token of the request, without blocking the event loop.

        Raises:
            Rejection: there is no token, it is denied, or it can't be verified now.
        """
        with self._rejecting(Rejection.denied):
            text = self._text()
            client = self.gate.client
            if isinstance(client, AsyncClient):
                return await client.verify(text)
            known = client.known(text)  # most tokens are cached, and a lookup costs less than another thread
            return await asyncio.to_thread(client.verify, text) if known is None else known

    def verified_blocking(self) -> Verified:
        """Return the verified token of the request, blocking.

        Raises:
            Rejection: as ``verified``.
            ConfigurationError: the app's client is an AsyncClient.
        """
        with self._rejecting(Rejection.denied):
            text = self._text()
            client = self.gate.client
            if isinstance(client, AsyncClient):
                raise ConfigurationError(
                    "an AsyncClient can't be used in blocking code", hint="give a tkdb_client.Client"
                )
            return client.verify(text)

    def clear(self, verified: Verified, access: Access, live: Arrived) -> Verified:
        """Return ``verified`` if it allows ``access``, completed with the facts about the request.

        Args:
            verified: the token.
            access: the access.
            live: the request as it is now, which is what the app runs.

        Raises:
            Rejection: the request was changed after it arrived, the token is another organization's, or a caveat
                doesn't allow the access.
            ConfigurationError: neither the app nor the access names an organization.
        """
        verified = self.gate.bind(verified)
        with self._rejecting(Rejection.unmet):
            self._require_unchanged(live)
            verified.clear(self.origin.complete(access, live))
        return verified

    def admit(self, verified: Verified, live: Arrived) -> None:
        """Return if a closed app may see the request: the token is one of its organization, and isn't expired.

        The other caveats stay to be cleared by the route, which knows the access.

        Raises:
            Rejection: it may not.
        """
        verified = self.gate.bind(verified)
        with self._rejecting(Rejection.unmet):
            self._require_unchanged(live)
            clearing.admit(verified.organization, verified.caveats, verified.policy)

    def _require_unchanged(self, live: Arrived) -> None:
        if not live.is_same(self.first):
            raise CaveatUnmet(
                f"the request arrived as {self.first.method[:32]!a} {self.first.routed[:200]!a}, and was changed to "
                f"{live.method[:32]!a} {live.routed[:200]!a}",
                hint="put middleware that changes the method or the path outside tkdb's",
            )

    @contextmanager
    def _rejecting(self, rejected: Callable[[Denied], Rejection]) -> Iterator[None]:
        """Turn errors about a token into rejections. Other errors are the app's own problem, and stay errors."""
        self.rejection = None
        try:
            yield
        except Denied as denied:
            self.rejection = rejected(denied)
        except Unavailable as unavailable:
            _clock_log.note(unavailable)
            self.rejection = Rejection.unavailable(unavailable)
        except Rejection as rejection:
            self.rejection = rejection
        if self.rejection is not None:
            raise self.rejection from None

    def _text(self) -> str:
        text = bundle_text(self._arrived.values(b"authorization"))
        if text is None:
            raise Rejection.missing()
        return text


def not_guarded() -> ConfigurationError:
    """Return the error for a required token without a middleware: that must never mean "let in"."""
    return ConfigurationError(
        "a token is required here, but the app has no middleware of tkdb", hint="add the middleware"
    )


def _bound(policy: Policy, organization: str | AnyOrganization | None) -> Policy:
    if organization is None or organization == policy.organization:
        return policy
    if policy.organization is not None:
        raise ConfigurationError(
            "the middleware and the client's policy name different organizations",
            hint="name the organization in one of them",
        )
    return msgspec.structs.replace(policy, organization=organization)


class ClockLog:
    """Logs that the clock of this machine is wrong, at most once a minute. The callers can't correct it.

    Args:
        monotonic_s: a monotonic clock.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._next_s = 0.0

    def note(self, error: Unavailable) -> None:
        """Log the error if it is, or is caused by, a wrong clock."""
        wrong = error if isinstance(error, WrongClock) else error.__cause__
        now_s = self._monotonic_s()
        if isinstance(wrong, WrongClock) and now_s >= self._next_s:
            self._next_s = now_s + CLOCK_LOG_S
            LOGGER.error("no token can be verified: %s", wrong)


_clock_log = ClockLog()
