"""One HTTP request within limits, for requests whose outcome is examined: by ``tkdb doctor`` and by drills.

It repeats nothing, follows no redirect, uses no proxy from the environment, and raises no error for anything that the
other side does, because its callers examine the outcome.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Final

import httpcore

from tkdb.net.url import Url

BODY_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Response:
    """A response.

    Attributes:
        status: the HTTP status.
        headers: with names in lower case. Of a repeated header, the last one.
        body: the whole body.
        rtt_ms: the time from before the connection is opened until the body is complete.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    rtt_ms: float = 0.0

    @property
    def date_ms(self) -> int | None:
        """The Date header, in ms since 1970 (a whole second); None if there is none."""
        try:
            return int(parsedate_to_datetime(self.headers["date"]).timestamp() * 1000)
        except (KeyError, ValueError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class NoResponse:
    """The reason why there is no response. ``refused``: no process listens at that address."""

    why: str
    refused: bool = False


async def ask(
    method: str,
    url: Url,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout_ms: int,
    body_max_bytes: int = BODY_MAX_BYTES,
) -> Response | NoResponse:
    """Send one request, on a new connection.

    Args:
        method: in capitals.
        url: the server's URL.
        target: the path after the URL's own path, and the query; percent-encoded.
        headers: in addition to Host and Content-Length.
        body: the whole body.
        timeout_ms: the timeout of the whole request.
        body_max_bytes: the longest body that is read. A longer one counts as no response.
    """
    sent = {"host": url.host_header, "content-length": str(len(body)), **(headers or {})}
    where = httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.prefix + target)
    began_s = time.perf_counter()
    try:
        async with (
            asyncio.timeout(timeout_ms / 1000),
            httpcore.AsyncConnectionPool(ssl_context=_tls() if url.scheme == "https" else None) as pool,
            pool.stream(method, where, headers=[*sent.items()], content=body) as response,
        ):
            read = bytearray()
            async for chunk in response.aiter_stream():
                read += chunk
                if len(read) > body_max_bytes:
                    return NoResponse(f"{url} answered more than {body_max_bytes:,} bytes")
        found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Response(response.status, found, bytes(read), (time.perf_counter() - began_s) * 1000)
    except (TimeoutError, httpcore.TimeoutException):
        return NoResponse(f"{url} didn't answer within {timeout_ms} ms")
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        refused = isinstance(_cause(error), ConnectionRefusedError)
        return NoResponse(f"{url} {'refuses connections' if refused else _why(error)}", refused=refused)


@cache
def _tls() -> ssl.SSLContext:
    """Return the TLS settings. They are created once, because reading the certificates takes longer than a request."""
    return httpcore.default_ssl_context()


def _why(error: BaseException) -> str:
    cause = _cause(error)
    return f"can't be reached ({type(cause).__name__})" if isinstance(error, httpcore.ConnectError) else "broke off"


def _cause(error: BaseException) -> BaseException:
    """Return the innermost error: httpcore and anyio wrap the system's errors."""
    seen: BaseException = error
    while (below := seen.__cause__ or seen.__context__) is not None:
        seen = below
    if isinstance(seen, BaseExceptionGroup):
        return _cause(seen.exceptions[0])
    return seen
