"""Network streams with a deadline, and connections with a maximum age.

httpcore's timeouts limit each single read, so a response that arrives byte by byte could hold a thread without a limit.
Its pool renews only idle connections. These wrappers add one deadline for a whole attempt (in synchronous code; asyncio
has its own), and an age after which a connection carries no new request.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import httpcore

MAX_AGE_S = 9 * 60
"""Proxies cut connections older than 10 minutes when they restart. Connections are renewed before that."""

deadline_s: ContextVar[float] = ContextVar("deadline_s")
"""The deadline of the attempt in this thread, by ``time.monotonic``."""


class _Age:
    """The age of a connection, and the signal to its pool that it is too old."""

    __slots__ = ("_born_s",)

    def __init__(self) -> None:
        self._born_s = time.monotonic()

    def extra_info(self, inner: httpcore.NetworkStream | httpcore.AsyncNetworkStream, info: str) -> Any:
        # The pool closes an idle connection that has something to read, because the other side has closed it. A
        # connection over its age reports the same.
        if info == "is_readable" and time.monotonic() - self._born_s > MAX_AGE_S:
            return True
        return inner.get_extra_info(info)


class Stream(httpcore.NetworkStream):
    """A connection on which every read and write ends by ``deadline_s``."""

    def __init__(self, inner: httpcore.NetworkStream, age: _Age) -> None:
        self._inner = inner
        self._age = age

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As httpcore's; raises ``ReadTimeout`` at the deadline."""
        left_s = deadline_s.get() - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout
        return self._inner.read(max_bytes, left_s)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As httpcore's; raises ``WriteTimeout`` at the deadline."""
        left_s = deadline_s.get() - time.monotonic()
        if left_s <= 0:
            raise httpcore.WriteTimeout
        self._inner.write(buffer, left_s)

    def close(self) -> None:
        """Close the connection. A thread that waits on it wakes up."""
        with suppress(OSError):  # the other side has closed it
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """As httpcore's. The connection keeps its age."""
        return Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._age)

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's. "is_readable" is also True for a connection that is too old."""
        return self._age.extra_info(self._inner, info)


class Backend(httpcore.SyncBackend):
    """Opens ``Stream`` connections until it is closed. It keeps track of them, because a closed pool forgets one
    that is being opened."""

    def __init__(self) -> None:
        self._open: WeakSet[Stream] = WeakSet()
        self._closed = False

    def close(self) -> None:
        """Close all connections, and open no more."""
        self._closed = True
        for stream in list(self._open):
            stream.close()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """As httpcore's, but ``timeout`` is for all addresses of the host together: each gets its share of the
        remaining time.

        (An asynchronous pool tries several at once.)
        """
        ends_s = time.monotonic() + (timeout or 0)
        addresses = list(dict.fromkeys(info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        while True:
            address, *addresses = addresses
            share_s = max(0.001, ends_s - time.monotonic()) / (len(addresses) + 1) if timeout else None
            try:
                stream = Stream(super().connect_tcp(str(address), port, share_s, local_address, socket_options), _Age())
                break
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise
        self._open.add(stream)
        if self._closed:
            stream.close()
            raise httpcore.ConnectError("the client was closed")
        return stream


class AsyncStream(httpcore.AsyncNetworkStream):
    """A connection with an age. Its deadline is the caller's ``asyncio.timeout``."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, age: _Age) -> None:
        self._inner = inner
        self._age = age

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (httpcore's signature)
        """As httpcore's."""
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 (httpcore's signature)
        """As httpcore's."""
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's. The connection keeps its age."""
        return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._age)

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's. "is_readable" is also True for a connection that is too old."""
        return self._age.extra_info(self._inner, info)


class AsyncBackend(httpcore.AnyIOBackend):
    """Opens ``AsyncStream`` connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's."""
        inner = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        try:
            # If a connection was reset at once, uvloop has no socket to return, and anyio expects one. After one
            # successful call the socket stays.
            inner.get_extra_info("socket")
        except AttributeError:
            await inner.aclose()
            raise httpcore.ConnectError("the connection was reset as soon as it was made") from None
        return AsyncStream(inner, _Age())
