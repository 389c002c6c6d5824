"""The authority in a test: it creates clients, mints, revokes, and fails on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, Unpack

import msgspec

from tkdb import api
from tkdb.arguments import Duration, members, reject, text
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.errors import ConfigurationError
from tkdb.macaroon.access import Policy
from tkdb.macaroon.caveats import AnyCaveat
from tkdb.macaroon.restrictions import Restrictions
from tkdb.macaroon.token import Macaroon
from tkdb_client.arguments import Token
from tkdb_client.calls.call import ATTEMPT_TIMEOUT_MS, TIMEOUT_MS
from tkdb_client.calls.runners import AsyncRunner, Runner
from tkdb_client.client import AsyncClient, Client
from tkdb_client.clock import Clock as ClientClock
from tkdb_client.settings import NO_SIGNER
from tkdb_client.testing.clock import Clock
from tkdb_client.testing.driving import AsyncTimeless, AsyncWire, Timeless, Wire
from tkdb_client.testing.faults import Fault
from tkdb_client.testing.network import Network

BOUND_S: Final = 5.001
"""The published bound, and a moment more: after this time, every client refuses a revoked token."""

_REGIONS: Final = 'pass names, such as ("syd", "ams")'

DEFAULT_ORGANIZATIONS: Final = ("acme", "other")
"""The organizations of an authority whose test names none."""


class Authority:
    """An authority in this process, for tests. Any number of threads and event loops may use it.

    Close it at the end of the test, or use it in a ``with``: its clients' background work then ends too.

    Args:
        organizations: created at the start, each with a root key, as always. Default: "acme" and "other", because an
            app's tests should show that a token of the other one is denied.
        regions: the names of its regions. A client gets a URL for each.
        clock: the clock of the authority and of all its clients.
        random: returns ``n`` random bytes.
        environ: checked for the signs of production.

    Attributes:
        clock: move it with ``authority.clock.advance(3600)``.

    Raises:
        ConfigurationError: this is a Fly Machine, where no tests may run.
    """

    def __init__(
        self,
        *organizations: str,
        regions: Sequence[str] = ("here",),
        clock: Clock | None = None,
        random: Callable[[int], bytes] = os.urandom,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        if "FLY_MACHINE_ID" in environ:
            raise ConfigurationError(
                "tkdb_client.testing doesn't run on a Fly Machine: its tokens prove nothing",
                hint="give the app a tkdb_client.Client",
            )
        names = [text("regions", each, hint=_REGIONS) for each in members("regions", regions, hint=_REGIONS)]
        if clock is not None and not isinstance(clock, Clock):
            reject("clock", clock, "is not a Clock", "pass tkdb_client.testing.Clock()")
        if not callable(random):
            reject("random", random, "is not a function", "pass os.urandom, or leave it out")
        self.clock = clock or Clock()
        self._random = random
        self._network = Network(names, self.clock, random)
        self._operator = self._make(Wire(self._network, faulty=False), signer=self.signer)
        for organization in organizations or DEFAULT_ORGANIZATIONS:
            self.create_organization(organization)

    @property
    def identity(self) -> AuthorityIdentity:
        """Its name and public key."""
        return self._network.identity

    @property
    def signer(self) -> SignerSecret:
        """A signer's secret with every permission, for apps that mint: ``client(signer=authority.signer)``."""
        return self._network.signer

    @property
    def calls(self) -> list[api.Call[Any]]:
        """The calls that it has received, in order, including clients' retries. The test's own calls are left out."""
        return self._network.calls

    def client(
        self,
        *,
        signer: SignerSecret | None = None,
        policy: Policy | None = None,
        timeout_ms: int | timedelta = TIMEOUT_MS,
        attempt_timeout_ms: int | timedelta = ATTEMPT_TIMEOUT_MS,
    ) -> Client:
        """Return a client of this authority, for the app.

        Args:
            signer: a signer's secret. Without one, the client can verify, and revoke tokens that it holds.
            policy: the app's own facts, such as its audience. The test's clock replaces the policy's.
            timeout_ms: the timeout of a call, by the test's clock.
            attempt_timeout_ms: the timeout of one attempt.
        """
        return self._make(Wire(self._network), signer, policy, timeout_ms, attempt_timeout_ms)

    def async_client(
        self,
        *,
        signer: SignerSecret | None = None,
        policy: Policy | None = None,
        timeout_ms: int | timedelta = TIMEOUT_MS,
        attempt_timeout_ms: int | timedelta = ATTEMPT_TIMEOUT_MS,
    ) -> AsyncClient:
        """As ``client``, awaited."""
        network, clock = self._network, self.clock

        class InProcess(AsyncClient):
            def _new_driver(self) -> AsyncRunner:
                return AsyncTimeless(AsyncWire(network), clock)

        return InProcess(**self._settings(signer, policy, timeout_ms, attempt_timeout_ms))

    def mint(
        self,
        organization: str,
        *caveats: AnyCaveat,
        subject: str | None = None,
        expires_in_s: Duration | None = None,
        **restrictions: Unpack[Restrictions],
    ) -> Macaroon:
        """Mint a token, as ``Client.mint``. Faults don't affect the test's own calls."""
        return self._operator.mint(organization, *caveats, subject=subject, expires_in_s=expires_in_s, **restrictions)

    def revoke(self, token: Token) -> bool:
        """Revoke a token, as a signer. Return True if that had been done before.

        The clock moves forward by the published bound, ``BOUND_S``: after that, no client accepts the token. (A
        client's own ``revoke`` moves no clock, so other clients' data may be as old as in production.)
        """
        already = self._operator.revoke(token)
        self.clock.advance(BOUND_S)
        return already

    def create_organization(self, name: str, *, max_lifetime_s: Duration | None = None) -> api.Organization:
        """Create an organization, as ``Client.create_organization``."""
        return self._operator.create_organization(name, max_lifetime_s=max_lifetime_s)

    @contextmanager
    def faulty(self, fault: Fault, *regions: str) -> Iterator[None]:
        """Put a fault in front of these regions, or of all if none is named, during the ``with``.

        Raises:
            ConfigurationError: there is no such region.
        """
        if isinstance(fault, type) or not callable(getattr(fault, "meet", None)):
            reject("fault", fault, "is not a fault", "pass Down(), or another fault of tkdb_client.testing")
        faults = self._network.faults
        for region in regions:
            if not isinstance(region, str) or region not in faults:
                reject("regions", region, "is not a region of this authority", f"there are: {', '.join(faults)}")
        named = regions or tuple(faults)
        for region in named:
            faults[region].append(fault)
        self._network.notify()
        try:
            yield
        finally:
            for region in named:
                faults[region].remove(fault)
            self._network.notify()

    def close(self) -> None:
        """Close it, and end its clients' background work: the threads that follow the feed."""
        self._network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make(
        self,
        wire: Wire,
        signer: SignerSecret | None,
        policy: Policy | None = None,
        timeout_ms: int | timedelta = TIMEOUT_MS,
        attempt_timeout_ms: int | timedelta = ATTEMPT_TIMEOUT_MS,
    ) -> Client:
        clock = self.clock

        class InProcess(Client):
            def _new_driver(self) -> Runner:
                return Timeless(wire, clock)

        return InProcess(**self._settings(signer, policy, timeout_ms, attempt_timeout_ms))

    def _settings(
        self,
        signer: SignerSecret | None,
        policy: Policy | None,
        timeout_ms: int | timedelta,
        attempt_timeout_ms: int | timedelta,
    ) -> dict[str, Any]:
        if policy is not None and not isinstance(policy, Policy):
            reject("policy", policy, "is not a Policy", 'pass Policy(organization="acme")')
        return {
            "url": [str(url) for url in self._network.urls.values()],
            "authority": self.identity,
            "signer": NO_SIGNER
            if signer is None
            else signer,  # not None, because a developer's exported signer belongs to another authority
            "policy": msgspec.structs.replace(policy or Policy(), clock=self.clock.now_s),
            "timeout_ms": timeout_ms,
            "attempt_timeout_ms": attempt_timeout_ms,
            "clock": ClientClock(monotonic_ms=self.clock.monotonic_ms, now_ms=self.clock.now_ms),
            "random": self._random,
        }
