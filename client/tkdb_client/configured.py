"""The common base of both clients: their configuration, and the methods that need no network.

>>> Configured.narrow.__doc__.splitlines()[0]
'Return ``token`` restricted to the needs of one call. This works offline, at once.'
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Generic, Literal, TypeVar, Unpack

import msgspec

from tkdb import defaults
from tkdb.arguments import Duration, milliseconds, reject, whole
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.macaroon.access import Policy
from tkdb.macaroon.caveats import AnyCaveat
from tkdb.macaroon.restrictions import Restrictions
from tkdb.macaroon.token import Macaroon
from tkdb_client.arguments import Token, token_text
from tkdb_client.cache.cache import Cache, CacheInfo
from tkdb_client.calls.call import ATTEMPT_TIMEOUT_MS, TIMEOUT_MS, Calls, Timing
from tkdb_client.calls.runners import AsyncRunner, Runner
from tkdb_client.clock import Clock
from tkdb_client.forks import renewed_after_fork
from tkdb_client.narrowing import Narrowing
from tkdb_client.operations import Operations
from tkdb_client.settings import NoSigner, Settings
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
        signer: SignerSecret | str | NoSigner | None = None,
        policy: Policy | None = None,
        timeout_ms: int | timedelta = TIMEOUT_MS,
        attempt_timeout_ms: int | timedelta = ATTEMPT_TIMEOUT_MS,
        cache_bytes: int = 32 << 20,
        bound_ms: int | timedelta = defaults.BOUND_MS,
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
                ``TKDB_SIGNER_FILE``. Without one, a client can verify, and revoke tokens that it holds. ``NO_SIGNER``
                means none, whatever the environment contains.
            policy: the app's own facts: the organization whose data it holds, its name (audience), its clock, and the
                checkers of its own caveats.
            timeout_ms: the timeout of a call, with its retries, in milliseconds or as a ``timedelta``, as each
                duration here. A long poll's wait is added.
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
        timing = Timing(milliseconds("timeout_ms", timeout_ms), milliseconds("attempt_timeout_ms", attempt_timeout_ms))
        bound_ms = milliseconds("bound_ms", bound_ms)
        whole("cache_bytes", cache_bytes, least=0, hint="pass a number of bytes, or 0 for no cache")
        if when_stale not in ("ask", "refuse"):
            reject("when_stale", when_stale, "is not a rule", 'pass "ask" or "refuse"')
        if policy is not None and not isinstance(policy, Policy):
            reject("policy", policy, "is not a Policy", 'pass Policy(organization="acme")')
        if clock is not None and not isinstance(clock, Clock):
            reject("clock", clock, "is not a Clock", "pass tkdb_client.clock.Clock(…), or leave it out")
        if not callable(random):
            reject("random", random, "is not a function", "pass os.urandom, or leave it out")
        clock = clock or Clock()
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
                timeout_ms=timing.timeout_ms,
                monotonic_ms=clock.elapsed_ms,
                random=random,
            )
            verification = Verification(
                exchange,
                cache,
                feed,
                bound_ms=bound_ms,
                asks_when_stale=when_stale == "ask",
                timeout_ms=timing.timeout_ms,
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
        *caveats: AnyCaveat,
        expires_in_s: Duration | None = None,
        **restrictions: Unpack[Restrictions],
    ) -> Macaroon:
        """Return ``token`` restricted to the needs of one call. This works offline, at once.

        Args:
            token: the token to narrow. It doesn't change.
            caveats: more caveats, after those of ``restrictions``, such as an app's own:
                ``caveats.App("plan", "pro")``.
            expires_in_s: the lifetime of the result, in seconds or as a ``timedelta``. It is rounded up by a quarter at
                most, so that verifiers' caches hit.
            restrictions: any of these, each None by default:
                ``action``, the actions, out of ``rwcdC``;
                ``resource``, kind to id to actions, as in ``{"app": {"shop": "rw"}}``;
                ``prefix``, the same with prefixes of ids;
                ``otherwise``, the actions for requests that name none of those kinds;
                ``audience``, the service that is called;
                ``ip``, the client's network, or several;
                ``method``, the HTTP method;
                ``path``, a path glob, such as ``/v1/apps/*``.

        Raises:
            InvalidCaveat: an argument isn't a valid caveat. The message names it.
            TruncatedToken, MalformedToken, OverLimit: the token can't be read, or becomes too large.
        """
        return self._narrowing.narrow(token, *caveats, now_s=self._now_s(), expires_in_s=expires_in_s, **restrictions)

    def known(self, token: Token) -> Verified | None:
        """Return the verified token, as ``verify`` does, if the cache can answer at once. None: call ``verify``.

        It sends no request, and neither blocks nor awaits.

        Args:
            token: a token, or the value of an Authorization header.

        Raises:
            Denied: the subclass is the reason.
        """
        return self._cache.get(token if isinstance(token, str) else token_text(token))

    def cache_info(self) -> CacheInfo:
        """Return the state of the cache: hits, misses, size, and the age of its data."""
        return self._cache.info()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(str, self._urls))}>"
