"""Tokens for calls to another service with httpx: each request gets a token that is narrowed to it.

::

    auth = TokenAuth(tkdb, token, audience="billing", origin="https://billing.internal")
    billing = httpx.Client(auth=auth)               # or httpx.AsyncClient
    billing.get("https://billing.internal/invoices/5")

The token of that request allows only ``GET`` on ``/invoices/5`` of the service ``billing``, for a minute. If it leaks,
nothing else is lost. A request to any other origin is refused before it is sent, because httpx gives a client's auth to
every URL.

Instead of a token, pass a function that gets one (``lambda: tkdb.mint("acme")``). It is called for the first request,
and again when the token is about to end: by one request, while all others use the token that they have.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Final, TypeAlias

import httpx

from tkdb.arguments import Duration, reject, seconds, text
from tkdb.errors import ConfigurationError, TkdbError
from tkdb.macaroon.caveats import Exp
from tkdb.macaroon.token import Macaroon
from tkdb_client import arguments
from tkdb_client.arguments import Token
from tkdb_client.client import AsyncClient, Client
from tkdb_client.forks import renewed_after_fork

__all__ = ["TokenAuth"]

Source: TypeAlias = Callable[[], Token | Awaitable[Token]]
"""A function that gets a new token. It may be asynchronous for an ``httpx.AsyncClient``."""

EXPIRES_IN_S: Final = 60
_RETRY_LEAST_S: Final = 1


@dataclass(slots=True)
class _Held:
    """The token to narrow: when a new one should be fetched, and when it ends, in Unix seconds."""

    token: Macaroon = field(repr=False)
    renew_s: float
    ends_s: float


class TokenAuth(httpx.Auth):
    """Sends each request with a token narrowed to it. Any number of threads and event loops may share it.

    Args:
        client: narrows, and remembers narrowed tokens.
        token: the token to narrow, or a function that gets one.
        audience: the name of the service, as its policy has it.
        origin: the service's scheme, host and port. No request to another origin is sent.
        expires_in_s: the lifetime of each narrowed token, rounded up by a quarter at most.
        path: returns the path glob for a request's path, such as ``/invoices/*`` for ``/invoices/5``. Fewer globs mean
            that the service's cache hits more often. Default: the path itself.

    Raises:
        ConfigurationError: an argument can't be used.
    """

    def __init__(
        self,
        client: Client | AsyncClient,
        token: Token | Source,
        *,
        audience: str,
        origin: str,
        expires_in_s: Duration = EXPIRES_IN_S,
        path: Callable[[str], str] | None = None,
    ) -> None:
        if not isinstance(client, Client | AsyncClient):
            reject("client", client, "is not a client", "pass a tkdb_client.Client, or an AsyncClient")
        if path is not None and not callable(path):
            reject("path", path, "is not a function", "pass a function from a path to a glob, or leave it out")
        self._client = client
        self._audience = text("audience", audience, hint="write the name of the service")
        self._origin = _parsed(origin)
        self._expires_in_s = seconds("expires_in_s", expires_in_s)
        if self._expires_in_s < 1:
            reject("expires_in_s", expires_in_s, "is not a duration from 1 s on", "pass 60, or a timedelta")
        self._path = path
        self._lock = threading.Lock()
        self._is_renewing = False
        self._held: _Held | None = None
        self._source: Source | None = None
        if callable(token):
            self._source = token
        else:
            self._hold(token)
        renewed_after_fork(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()  # in the child of a fork: a thread of the parent may have held the lock
        self._is_renewing = False

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the request with its token."""
        source = self._due()
        if source is not None:
            with self._renewal():
                fetched = source()
                if inspect.isawaitable(fetched):
                    if inspect.iscoroutine(fetched):
                        fetched.close()
                    raise ConfigurationError("token is an asynchronous function", hint="use an httpx.AsyncClient")
                self._hold(fetched)
        yield self._narrowed(request)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """As ``sync_auth_flow``."""
        source = self._due()
        if source is not None:
            with self._renewal():
                fetched = source()
                self._hold(await fetched if inspect.isawaitable(fetched) else fetched)
        yield self._narrowed(request)

    def _due(self) -> Source | None:
        """Return the function that this request must call, if it must."""
        if self._source is None:
            return None
        now_s = self._now_s()
        with self._lock:
            held = self._held
            if held is not None and now_s < held.ends_s and (self._is_renewing or now_s < held.renew_s):
                return None
            self._is_renewing = True
        return self._source

    @contextmanager
    def _renewal(self) -> Iterator[None]:
        """Fetch a new token. A failure counts only if no valid token is held, and is tried again later."""
        try:
            yield
        except TkdbError:
            now_s = self._now_s()
            with self._lock:
                held = self._held
                if held is None or now_s >= held.ends_s:
                    raise
                held.renew_s = now_s + max(_RETRY_LEAST_S, (held.ends_s - now_s) / 4)
        finally:
            with self._lock:
                self._is_renewing = False

    def _hold(self, token: Token) -> None:
        given = arguments.token(token)
        macaroon = Macaroon.parse(given) if isinstance(given, str) else given
        now_s = self._now_s()
        ends_s = min((caveat.at_s for caveat in macaroon.caveats if isinstance(caveat, Exp)), default=inf)
        lifetime_s = ends_s - now_s
        # Early enough that a narrowed token isn't cut short, but never at every request.
        renew_s = inf if ends_s == inf else now_s + max(lifetime_s - 2 * self._expires_in_s, lifetime_s * 3 / 4)
        with self._lock:
            self._held = _Held(macaroon, renew_s, ends_s)

    def _narrowed(self, request: httpx.Request) -> httpx.Request:
        origin = _origin(request.url)
        if origin != self._origin:
            raise ConfigurationError(
                f"the token is for {_shown(self._origin)}, and the request is for {_shown(origin)}",
                hint="use another httpx client, with a TokenAuth for that service",
            )
        held = self._held
        assert held is not None  # noqa: S101  a token was held or fetched before
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        if self._path is not None:
            path = self._path(path)
        elif "*" in path:
            reject("path", path, "has a star, which a glob reads as a wildcard", "pass path= to TokenAuth")
        token = self._client.narrow(
            held.token, audience=self._audience, method=request.method, path=path, expires_in_s=self._expires_in_s
        )
        request.headers["Authorization"] = f"Bearer {token.text}"
        return request

    def _now_s(self) -> float:
        clock = self._client.policy.clock
        assert clock is not None  # noqa: S101  every client's policy has one
        return clock()


_Origin: TypeAlias = tuple[str, str, int | None]
_PORTS: Final = {"http": 80, "https": 443}


def _parsed(origin: object) -> _Origin:
    hint = "write https://billing.internal, without a path"
    try:
        url = httpx.URL(text("origin", origin, hint=hint))
    except httpx.InvalidURL:
        reject("origin", origin, "is not a URL", hint)
    if url.scheme not in _PORTS or not url.host or url.raw_path != b"/" or url.userinfo:
        reject("origin", origin, "is not the origin of a service", hint)
    return _origin(url)


def _origin(url: httpx.URL) -> _Origin:
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme)


def _shown(origin: _Origin) -> str:
    scheme, host, port = origin
    return f"{scheme}://{host}" if port == _PORTS.get(scheme) else f"{scheme}://{host}:{port}"
