"""One HTTP request, within limits: for what is asked once and then judged, by ``tkdb doctor`` and by drills.

Nothing is repeated, no redirect followed, no proxy of the environment used, and nothing raised for what the other side
does: whoever asks wants to know what came of it.
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
    """What came back.

    Attributes:
        status: the HTTP status.
        headers: names in lower case; of a repeated one, the last.
        body: the body, whole.
        rtt_ms: from before the connection was made until the body was there.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    rtt_ms: float = 0.0

    @property
    def date_ms(self) -> int | None:
        """The Date header, ms since 1970: a whole second. None where there is none."""
        try:
            return int(parsedate_to_datetime(self.headers["date"]).timestamp() * 1000)
        except (KeyError, ValueError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class NoResponse:
    """That none came, and why. ``refused``: nobody listens there."""

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
    """Send one request, on a connection of its own.

    Args:
        method: in capitals.
        url: where to.
        target: the path after the URL's own, and the query; percent-encoded.
        headers: beside Host and Content-Length.
        body: the whole body.
        timeout_ms: for all of it.
        body_max_bytes: how long a body is read; a longer one is no response.
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
    """Made once: reading the authorities' certificates takes longer than a request does."""
    return httpcore.default_ssl_context()


def _why(error: BaseException) -> str:
    cause = _cause(error)
    return f"can't be reached ({type(cause).__name__})" if isinstance(error, httpcore.ConnectError) else "broke off"


def _cause(error: BaseException) -> BaseException:
    """The error at the bottom: httpcore and anyio wrap what the system says."""
    seen: BaseException = error
    while (below := seen.__cause__ or seen.__context__) is not None:
        seen = below
    if isinstance(seen, BaseExceptionGroup):
        return _cause(seen.exceptions[0])
    return seen
