"""The authority that a test holds: makes clients, mints, revokes, and misbehaves on command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from tkdb import api
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.errors import ConfigurationError
from tkdb.macaroon.access import Policy
from tkdb.macaroon.caveats import AnyCaveat
from tkdb.macaroon.token import Macaroon
from tkdb_client.calls.call import ATTEMPT_TIMEOUT_MS, TIMEOUT_MS
from tkdb_client.calls.runners import AsyncDriver, Driver
from tkdb_client.client import AsyncClient, Client
from tkdb_client.clock import Clock as ClientClock
from tkdb_client.narrowing import Resources
from tkdb_client.operations import Token
from tkdb_client.testing.clock import Clock
from tkdb_client.testing.driving import AsyncTimeless, AsyncWire, Timeless, Wire
from tkdb_client.testing.faults import Fault
from tkdb_client.testing.network import Network

BOUND_S: Final = 5.001
"""The published bound, and a moment: so long after it was acknowledged, every client refuses what was revoked."""


class Authority:
    """An authority in this process, for tests. Any number of threads and event loops may ask it.

    Close it at the test's end, or use it in a ``with``: what its clients do beside calls ends then, too.

    Args:
        organizations: made at the start; each with a root key, as always.
        regions: the names of its regions: a client gets a URL for each.
        clock: the time, of the authority and of all its clients.
        random: returns so many random bytes.
        environ: what is looked at for the marks of production.

    Attributes:
        clock: move it: ``authority.clock.advance(3600)``.

    Raises:
        ConfigurationError: this is a Fly Machine, where nothing may be tested.
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
        self.clock = clock or Clock()
        self._random = random
        self._network = Network(regions, self.clock, random)
        self._operator = self._make(Wire(self._network, faulty=False), signer=self.signer)
        for organization in organizations:
            self.create_organization(organization)

    @property
    def identity(self) -> AuthorityIdentity:
        """Its name and public key."""
        return self._network.identity

    @property
    def signer(self) -> SignerSecret:
        """A signer's secret that may do everything, for apps that mint: ``client(signer=authority.signer)``."""
        return self._network.signer

    @property
    def calls(self) -> list[api.Call[Any]]:
        """What has come to it, in order, clients' retries among it; the test's own calls are left out."""
        return self._network.calls

    def client(
        self,
        *,
        signer: SignerSecret | None = None,
        policy: Policy | None = None,
        timeout_ms: int = TIMEOUT_MS,
        attempt_timeout_ms: int = ATTEMPT_TIMEOUT_MS,
    ) -> Client:
        """Return a client of this authority, to give to the app.

        Args:
            signer: a signer's secret; without one it verifies, and revokes what it holds.
            policy: what the app knows beforehand, as its audience; the clock in it is replaced by the test's.
            timeout_ms: how long a call may take, by the test's clock.
            attempt_timeout_ms: how long one attempt may take at most.
        """
        return self._make(Wire(self._network), signer, policy, timeout_ms, attempt_timeout_ms)

    def async_client(
        self,
        *,
        signer: SignerSecret | None = None,
        policy: Policy | None = None,
        timeout_ms: int = TIMEOUT_MS,
        attempt_timeout_ms: int = ATTEMPT_TIMEOUT_MS,
    ) -> AsyncClient:
        """As ``client``, awaited."""
        network, clock = self._network, self.clock

        class InProcess(AsyncClient):
            @staticmethod
            def _new_driver() -> AsyncDriver:
                return AsyncTimeless(AsyncWire(network), clock)

        return InProcess(**self._settings(signer, policy, timeout_ms, attempt_timeout_ms))

    def mint(
        self,
        organization: str,
        *caveats: AnyCaveat,
        act: str | None = None,
        res: Resources | None = None,
        sub: str | None = None,
        aud: str | None = None,
        expires_in_s: int | None = None,
    ) -> Macaroon:
        """Mint a token, as ``Client.mint``. No fault stands in the test's own way."""
        return self._operator.mint(
            organization, *caveats, act=act, res=res, sub=sub, aud=aud, expires_in_s=expires_in_s
        )

    def revoke(self, token: Token) -> bool:
        """Revoke a token, as a signer; return whether that had been done before.

        The clock moves on by the published bound, ``BOUND_S``: from then on no client accepts the token. (A client's
        own ``revoke`` moves no clock: what others know may then be as old as it may be in production.)
        """
        already = self._operator.revoke(token)
        self.clock.advance(BOUND_S)
        return already

    def create_organization(self, name: str, *, max_lifetime_s: int | None = None) -> api.Organization:
        """Make an organization, as ``Client.create_organization``."""
        return self._operator.create_organization(name, max_lifetime_s=max_lifetime_s)

    @contextmanager
    def faulty(self, fault: Fault, *regions: str) -> Iterator[None]:
        """Put a fault in the way to these regions, or to all where none is named, while the ``with`` lasts.

        Raises:
            ConfigurationError: there is no such region.
        """
        faults = self._network.faults
        unknown = set(regions) - faults.keys()
        if unknown:
            raise ConfigurationError(f"there is no region {min(unknown)}", hint=f"there are: {', '.join(faults)}")
        named = regions or tuple(faults)
        for region in named:
            faults[region].append(fault)
        self._network.tell()
        try:
            yield
        finally:
            for region in named:
                faults[region].remove(fault)
            self._network.tell()

    def close(self) -> None:
        """End it, and what its clients do beside calls: the threads that follow the feed."""
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
        timeout_ms: int = TIMEOUT_MS,
        attempt_timeout_ms: int = ATTEMPT_TIMEOUT_MS,
    ) -> Client:
        clock = self.clock

        class InProcess(Client):
            @staticmethod
            def _new_driver() -> Driver:
                return Timeless(wire, clock)

        return InProcess(**self._settings(signer, policy, timeout_ms, attempt_timeout_ms))

    def _settings(
        self, signer: SignerSecret | None, policy: Policy | None, timeout_ms: int, attempt_timeout_ms: int
    ) -> dict[str, Any]:
        ours = policy or Policy(clock=self.clock.now_s)
        return {
            "url": [str(url) for url in self._network.urls.values()],
            "authority": self.identity,
            "signer": signer or "",  # none: what a developer has exported is another authority's
            "policy": msgspec.structs.replace(ours, clock=self.clock.now_s),
            "timeout_ms": timeout_ms,
            "attempt_timeout_ms": attempt_timeout_ms,
            "clock": ClientClock(monotonic_ms=self.clock.monotonic_ms, now_ms=self.clock.now_ms),
            "random": self._random,
        }
