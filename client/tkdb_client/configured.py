"""The common base of both clients: their configuration, and the methods that need no network.

>>> Configured.narrow.__doc__.splitlines()[0]
'Return ``token`` restricted to the needs of one call. This works offline, at once.'
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Generic, Literal, TypeVar

import msgspec

from tkdb import defaults, errors
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.macaroon.access import Policy
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import Cache, CacheInfo
from tkdb_client.calls.call import ATTEMPT_TIMEOUT_MS, TIMEOUT_MS, Calls, Timing
from tkdb_client.calls.runners import AsyncRunner, Runner
from tkdb_client.clock import Clock
from tkdb_client.forks import renewed_after_fork
from tkdb_client.narrowing import Narrowing, Resources
from tkdb_client.operations import Operations
from tkdb_client.settings import Settings
from tkdb_client.verification.feed_follower import FeedFollower
from tkdb_client.verification.verification import Verification
from tkdb_client.verified import Verified

X = TypeVar("X", Runner, AsyncRunner)


class Configured(ABC, Generic[X]):
    """The common base of both clients."""

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
        """Create a client. Nothing is sent yet.

        Args:
            url: the authority's URL. Default: ``TKDB_URL``. With several URLs, one for each region, calls go to the
                nearest healthy region, and to the first one until there are measurements. If the regions share one
                address, a URL may name the region: ``http://tkdb.flycast?region=syd``.
            authority: its name and public key, ``NAME=tkdbpub_…``. Default: ``TKDB_AUTHORITY``.
            signer: a signer's secret, to mint and to administer. Default: ``TKDB_SIGNER``, or the content of the file
                ``TKDB_SIGNER_FILE``. Without one, a client can verify, and revoke tokens that it holds.
            policy: the app's own facts: the organization whose data it holds, its name (audience), its clock, and the
                checkers of its own caveats.
            timeout_ms: the timeout of a call, with its retries. A long poll's wait is added.
            attempt_timeout_ms: the timeout of one attempt. A long poll's wait is added.
            cache_bytes: the largest size of all cached tokens. With 0 there is no cache, and the feed isn't followed.
            bound_ms: the longest time after its acknowledgement for which a revocation may be unknown here: the
                authority's published bound. Data that can't be proved to be as fresh isn't accepted.
            when_stale: for a cached token whose data is older than that: ask the authority, or refuse the token at
                once, with ``StaleAuthority``.
            clock: the clocks for deadlines and requests.
            random: the source of request ids, ephemeral keys and jitter.

        Raises:
            ConfigurationError: a setting is missing or can't be used.
        """
        settings = Settings.read(url, authority, signer, os.environ)
        if cache_bytes < 0 or bound_ms <= 0 or when_stale not in {"ask", "refuse"}:
            raise errors.ConfigurationError("cache_bytes, bound_ms or when_stale can't be used")
        clock = clock or Clock()
        timing = Timing(timeout_ms, attempt_timeout_ms)
        self._urls = settings.urls
        policy = policy or Policy()
        self._now_s = policy.clock or (lambda: clock.now_ms() / 1000)
        self.policy = msgspec.structs.replace(policy, clock=self._now_s)
        """The app's own facts."""

        def parts() -> tuple[X, Cache, Operations]:
            driver = self._new_driver()
            exchange = Calls(
                settings.urls, settings.authority, signer=settings.signer, timing=timing, clock=clock, random=random
            )
            cache = Cache(
                settings.authority.name,
                self.policy,
                max_bytes=cache_bytes,
                bound_ms=bound_ms,
                monotonic_ms=clock.elapsed_ms,
            )
            feed = FeedFollower(
                exchange,
                cache,
                bound_ms=bound_ms,
                timeout_ms=timeout_ms,
                monotonic_ms=clock.elapsed_ms,
                random=random,
            )
            verification = Verification(
                exchange,
                cache,
                feed,
                bound_ms=bound_ms,
                asks_when_stale=when_stale == "ask",
                timeout_ms=timeout_ms,
                monotonic_ms=clock.elapsed_ms,
                place=driver.place,
            )
            return driver, cache, Operations(exchange, verification, cache)

        self._parts: Callable[[], tuple[X, Cache, Operations]] = parts
        self._driver: X
        self._driver, self._cache, self._operations = parts()
        self._narrowing = Narrowing()
        renewed_after_fork(self)

    @abstractmethod
    def _new_driver(self) -> X: ...

    def _renew(self) -> None:
        """Make all parts that have locks, threads or connections again. It is called in the child of a fork.

        The cache is empty then: the fork may have interrupted another thread that changed it.
        """
        former = self._driver
        was_open = former.is_open
        former.abandon()
        self._driver, self._cache, self._operations = self._parts()
        if not was_open:
            self._driver.abandon()

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
        """Return ``token`` restricted to the needs of one call. This works offline, at once.

        Args:
            token: the token to narrow. It doesn't change.
            act: actions, out of ``rwcdC``.
            res: kind to id to actions.
            aud: the service that is called.
            method: the HTTP method.
            path: a path glob, such as ``/v1/apps/*``.
            for_s: the lifetime of the result, in seconds, rounded up so that verifiers' caches hit.

        Raises:
            InvalidCaveat: an argument isn't a valid caveat.
            TruncatedToken, MalformedToken, OverLimit: the token can't be read, or becomes too large.
        """
        return self._narrowing.narrow(
            token, now_s=self._now_s(), act=act, res=res, aud=aud, method=method, path=path, for_s=for_s
        )

    def known(self, token: str) -> Verified | None:
        """Return the verified token, as ``verify`` does, if the cache can answer at once. None: call ``verify``.

        It sends no request, and neither blocks nor awaits.

        Args:
            token: a token, or the value of an Authorization header.

        Raises:
            Denied: the subclass is the reason.
        """
        return self._cache.get(token)

    def cache_info(self) -> CacheInfo:
        """Return the state of the cache: hits, misses, size, and the age of its data."""
        return self._cache.info()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(str, self._urls))}>"
