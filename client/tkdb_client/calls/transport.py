"""HTTP/Noise, and the client's only socket: one POST carries message 1 there and message 2 back.

Anything between the client and the authority may answer in its place, and isn't trusted. So every response that isn't
message 2 is ``Lost``. No redirect is followed, no proxy from the environment is used, no plain status is ever a denial,
and no response is read beyond its largest size. Whether a 200 really is message 2 is decided where it is opened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpcore

from tkdb import errors
from tkdb.net.names import Names
from tkdb.net.pool import AsyncPool, Pool
from tkdb.net.url import Url
from tkdb_client.calls.per_loop import PerLoop

MAX_ANSWER_BYTES = 65_535
MAX_IDLE_S = 55
"""Proxies cut idle connections after 60 s, so a connection that is idle for this long isn't used any more."""
MAX_CONNECTIONS = 100
"""The largest number of connections to one URL."""


@dataclass(frozen=True, slots=True)
class Send:
    """One attempt: POST ``message`` to ``url`` + ``path``, within ``timeout_ms``."""

    url: Url
    path: str
    message: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt without a message 2.

    Args:
        why: the event, as one clause.
        sent: whether the authority may have received the request.
        silent: whether the other side was contacted, and sent no whole response in time.
        unopened: whether the response reports that message 1 couldn't be opened (HTTP 400).
        retry_after_ms: the shortest wait that the response asked for.
    """

    why: str
    sent: bool = True
    silent: bool = False
    unopened: bool = False
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """An attempt with a response that may be message 2.

    Args:
        message: the response.
        rtt_ms: the time from the start of sending until the head of the response arrived, without connecting.
    """

    message: bytes = field(repr=False)
    rtt_ms: float


Outcome = Answered | Lost


class Transport:
    """Sends attempts over kept connections, with one pool for each URL, so that a URL that hangs takes no other
    one's connections.

    Any number of threads may share it.
    """

    def __init__(self) -> None:
        self._pools: dict[Url, Pool] | None = {}
        self._names = Names()

    @property
    def is_open(self) -> bool:
        """Whether it isn't closed."""
        return self._pools is not None

    def post(self, send: Send) -> Outcome:
        """Make one attempt. The timeout includes the lookup of the host's name.

        Raises:
            ConfigurationError: the transport is closed.
        """
        if self._pools is None:
            raise errors.ConfigurationError("this client is closed", hint="create a new one, or close it later")
        pool = self._pools.get(send.url) or self._pools.setdefault(send.url, Pool(self._names, **_POOL))
        progress = _Progress()
        timeout_s = send.timeout_ms / 1000
        try:
            with pool.stream(_request(send, progress.note), timeout_s) as response:
                reading = _Reading(response)
                if reading.lost is None:
                    for chunk in response.iter_stream():
                        if not reading.take(chunk):
                            break
                return reading.outcome(progress.rtt_ms)
        except _FAILURES as error:
            return progress.lost(error, send)

    def close(self) -> None:
        """Close every connection. A second time does nothing."""
        pools, self._pools = self._pools, None
        for pool in (pools or {}).values():
            pool.close()

    def abandon(self) -> None:
        """Leave every connection to the parent process, and make no more. For the child of a fork."""
        pools, self._pools = self._pools, None
        for pool in (pools or {}).values():
            pool.abandon()


class AsyncTransport:
    """The same, awaited. Each event loop in which it is used has its own connections. They end with the loop."""

    def __init__(self) -> None:
        self._names = Names()
        self._pools = PerLoop[dict[Url, AsyncPool]](dict, _end_pools)

    async def post(self, send: Send) -> Outcome:
        """Make one attempt.

        Raises:
            ConfigurationError: the transport is closed, or no event loop of asyncio is running.
        """
        pools = self._pools.here()
        pool = pools.get(send.url) or pools.setdefault(send.url, AsyncPool(self._names, **_POOL))
        progress = _Progress()
        request = _request(send, progress.note_awaited)
        try:
            async with asyncio.timeout(send.timeout_ms / 1000), pool.stream(request) as response:
                reading = _Reading(response)
                if reading.lost is None:
                    async for chunk in response.aiter_stream():
                        if not reading.take(chunk):
                            break
                return reading.outcome(progress.rtt_ms)
        except _FAILURES as error:
            return progress.lost(error, send)

    async def close(self) -> None:
        """Close every connection. A second time does nothing."""
        await self._pools.close()

    def abandon(self) -> None:
        """Leave every connection to the parent process, and make no more. For the child of a fork."""
        for pools in self._pools.abandon():
            _end_pools(pools, works=False)


_POOL: dict[str, Any] = {"max_connections": MAX_CONNECTIONS, "keepalive_expiry": MAX_IDLE_S}


def _end_pools(pools: Mapping[Url, AsyncPool], works: bool) -> None:
    for pool in pools.values():
        if works:
            pool.close()
        else:
            pool.abandon()


_TIMEOUTS = (TimeoutError, httpcore.TimeoutException)
_FAILURES = (*_TIMEOUTS, httpcore.NetworkError, httpcore.ProtocolError, OSError)


def _request(send: Send, trace: Callable[[str, Mapping[str, Any]], object]) -> httpcore.Request:
    url = httpcore.URL(
        scheme=send.url.scheme, host=send.url.host, port=send.url.port, target=send.url.prefix + send.path
    )
    headers = {
        "host": send.url.host_header,
        "content-type": "application/octet-stream",
        "content-length": str(len(send.message)),
        **({"fly-force-region": send.url.region} if send.url.region else {}),
        **send.headers,
    }
    extensions = {"trace": trace, "timeout": {"connect": send.timeout_ms / 1000}}
    return httpcore.Request("POST", url, headers=[*headers.items()], content=send.message, extensions=extensions)


class _Progress:
    """The progress of one attempt: whether the other side was contacted, whether any part of the request was sent,
    and the time of its response."""

    __slots__ = ("_began_s", "_sent", "_turned_to", "rtt_ms")

    def __init__(self) -> None:
        self._turned_to = False
        self._sent = False
        self._began_s = 0.0
        self.rtt_ms = 0.0

    def note(self, event: str, _info: Mapping[str, Any]) -> None:
        """Record an event of httpcore's trace."""
        if event == "connection.connect_tcp.started":
            self._turned_to = True
        elif event == "http11.send_request_headers.started":
            self._turned_to = self._sent = True
            self._began_s = time.perf_counter()
        elif event == "http11.receive_response_headers.complete":
            self.rtt_ms = (time.perf_counter() - self._began_s) * 1000

    async def note_awaited(self, event: str, info: Mapping[str, Any]) -> None:
        """Record an event, for asynchronous connections."""
        self.note(event, info)

    def lost(self, error: Exception, send: Send) -> Lost:
        """Return the outcome of an attempt that ended in ``error``, without the error's own text."""
        if isinstance(error, _TIMEOUTS):
            what = "didn't answer" if self._sent else "couldn't be connected to"
            # An attempt that only waited for a free connection proves nothing about the other side.
            return Lost(f"{send.url} {what} within {send.timeout_ms} ms", sent=self._sent, silent=self._turned_to)
        what = "broke off without a whole answer" if self._sent else "couldn't be connected to"
        return Lost(f"{send.url} {what}", sent=self._sent)


class _Reading:
    """Reads one response, and stops as soon as it can't be message 2."""

    __slots__ = ("_body", "lost")

    def __init__(self, response: httpcore.Response) -> None:
        self._body = bytearray()
        self.lost = _refusal(response)

    def take(self, chunk: bytes) -> bool:
        """Add a chunk. Return True if more may follow."""
        if len(self._body) + len(chunk) > MAX_ANSWER_BYTES:
            self.lost = Lost(f"the answer is larger than {MAX_ANSWER_BYTES:,} bytes")
            return False
        self._body += chunk
        return True

    def outcome(self, rtt_ms: float) -> Outcome:
        """Return the outcome of the response, after ``rtt_ms``."""
        return Answered(bytes(self._body), rtt_ms) if self.lost is None else self.lost


def _refusal(response: httpcore.Response) -> Lost | None:
    status = response.status
    if status == 200:
        return None
    return Lost(
        f"the answer is a plain HTTP {status}, not the authority's",
        unopened=status == 400,
        retry_after_ms=_retry_after_ms(response.headers),
    )


def _retry_after_ms(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return Retry-After in ms (RFC 9110, 10.2.3), if it is in seconds: a date would compare another clock with
    this one."""
    for name, value in headers:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) <= 9:
            return int(value) * 1000
    return None
