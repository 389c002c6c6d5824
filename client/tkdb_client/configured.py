"""What both clients are made of, and what they do without a network.

>>> Configured.narrow.__doc__.splitlines()[0]
'Return ``token`` restricted to what one call needs. Offline, at once: it asks nobody.'
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Generic, Literal, TypeVar

from tkdb import defaults, errors
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.macaroon.access import Policy
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import Cache, CacheInfo
from tkdb_client.calls.call import ATTEMPT_TIMEOUT_MS, TIMEOUT_MS, Exchange, Timing
from tkdb_client.calls.runners import AsyncDriver, Driver
from tkdb_client.clock import Clock
from tkdb_client.narrowing import Narrowing, Resources
from tkdb_client.operations import Operations
from tkdb_client.settings import Settings
from tkdb_client.verification.feed_follower import Feed
from tkdb_client.verification.verification import Verification
from tkdb_client.verified import Verified

X = TypeVar("X", Driver, AsyncDriver)


class Configured(ABC, Generic[X]):
    """What both clients are made of, and what needs no network."""

    def __init__(
        self,
        url: str | Iterable[str] | None = None,
        authority: AuthorityIdentity | str | None = None,
        *,
        signer: SignerSecret | str | None = None,
        policy: Policy | None = None,
        timeout_ms: int = TIMEOUT_MS,
        attempt_timeout_ms: int = ATTEMPT_TIMEOUT_MS,
        cache_bytes: int = 32 << 20,
        bound_ms: int = defaults.BOUND_MS,
        when_stale: Literal["ask", "refuse"] = "ask",
        clock: Clock | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            url: where the authority answers; by default ``TKDB_URL``. With several URLs, one for each region, calls go
                to the nearest that is well; to the first, until more is known. Where one address is shared, a URL may
                name the region: ``http://tkdb.flycast?region=syd``.
            authority: its name and public key, ``NAME=tkdbpub_…``; by default ``TKDB_AUTHORITY``.
            signer: a signer's secret, to mint and to administer; by default ``TKDB_SIGNER``, or what is in the
                file ``TKDB_SIGNER_FILE``. Without one, a client verifies, and revokes what it holds.
            policy: what the app knows before any request: its name (audience), its clock, its own caveats' checkers.
            timeout_ms: how long a call may take, its retries included; a long poll's wait comes on top.
            attempt_timeout_ms: how long one attempt may take at most.
            cache_bytes: how much memory what is known of verified tokens may take; 0 keeps nothing and follows no feed.
            bound_ms: how long after it was acknowledged a revocation may still not be known here, at most: the
                authority's published bound. What can't be shown to be as fresh isn't accepted.
            when_stale: what becomes of a token that was verified before, when what is known of it is older than that:
                ask the authority, or refuse it at once, as ``StaleAuthority``.
            clock: the clocks that deadlines and requests go by.
            random: where request ids, ephemeral keys and jitter come from.

        Raises:
            ConfigurationError: a setting is missing or can't be used.
        """
        settings = Settings.read(url, authority, signer, os.environ)
        if cache_bytes < 0 or bound_ms <= 0 or when_stale not in {"ask", "refuse"}:
            raise errors.ConfigurationError("cache_bytes, bound_ms or when_stale can't be used")
        clock = clock or Clock()
        exchange = Exchange(
            settings.urls,
            settings.authority,
            signer=settings.signer,
            timing=Timing(timeout_ms, attempt_timeout_ms),
            clock=clock,
            random=random,
        )
        self._urls = settings.urls
        self._policy = policy or Policy(clock=time.time)
        self._cache = Cache(
            settings.authority.name,
            self._policy,
            max_bytes=cache_bytes,
            bound_ms=bound_ms,
            monotonic_ms=clock.monotonic_ms,
        )
        feed = Feed(
            exchange,
            self._cache,
            bound_ms=bound_ms,
            timeout_ms=timeout_ms,
            monotonic_ms=clock.monotonic_ms,
            random=random,
        )
        verification = Verification(
            exchange,
            self._cache,
            feed,
            bound_ms=bound_ms,
            asks_when_stale=when_stale == "ask",
            timeout_ms=timeout_ms,
            monotonic_ms=clock.monotonic_ms,
        )
        self._operations = Operations(exchange, verification, self._cache)
        self._narrowing = Narrowing()
        self._driver: X = self._new_driver()

    @staticmethod
    @abstractmethod
    def _new_driver() -> X: ...

    def narrow(
        self,
        token: Macaroon | str,
        *,
        act: str | None = None,
        res: Resources | None = None,
        aud: str | None = None,
        method: str | None = None,
        path: str | None = None,
        for_s: float | None = None,
    ) -> Macaroon:
        """Return ``token`` restricted to what one call needs. Offline, at once: it asks nobody.

        Args:
            token: what to narrow; it stays as it is.
            act: actions, out of ``rwcdC``.
            res: kind to id to actions.
            aud: the service that is called.
            method: the HTTP method.
            path: a path glob, such as ``/v1/apps/*``.
            for_s: how long the result lives, in seconds; rounded up, so that verifiers' caches hit.

        Raises:
            InvalidCaveat: an argument can't be a caveat.
            TruncatedToken, MalformedToken, OverLimit: the token can't be read, or gets too large.
        """
        return self._narrowing.narrow(
            token, now_s=self._policy.clock(), act=act, res=res, aud=aud, method=method, path=path, for_s=for_s
        )

    def known(self, token: str) -> Verified | None:
        """Return what is trusted of a token, as ``verify`` does, where the cache can tell at once. None: verify it.

        It asks nobody, and neither blocks nor awaits.

        Args:
            token: a token, or the value of an Authorization header.

        Raises:
            Denied: of the subclass that says why.
        """
        return self._cache.look(token)

    def cache_info(self) -> CacheInfo:
        """Return how the cache of verified tokens does: hits, misses, size, and how old what it knows is."""
        return self._cache.info()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(str, self._urls))}>"
