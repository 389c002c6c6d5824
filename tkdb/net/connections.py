"""Network streams that end in time, and connections that don't grow old.

httpcore's timeouts bound each single read, so an answer that drips holds a thread for as long as it likes; and
its pool renews connections only when they were idle. These wrappers add what is missing: one deadline for a whole
attempt (synchronous; asyncio has its own), and an age after which a connection carries no new request.
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
"""Proxies cut connections older than 10 minutes when they restart: renewed before that."""

deadline_s: ContextVar[float] = ContextVar("deadline_s")
"""When the attempt that runs in this thread must have ended, by ``time.monotonic``."""


class _Age:
    """Since when a connection is open, and how its pool is told that it is too old."""

    __slots__ = ("_born_s",)

    def __init__(self) -> None:
        self._born_s = time.monotonic()

    def extra_info(self, inner: httpcore.NetworkStream | httpcore.AsyncNetworkStream, info: str) -> Any:
        # The pool closes an idle connection on which something can be read: that is how it sees one that the
        # other side has closed. A connection past its age is said to be such a one.
        if info == "is_readable" and time.monotonic() - self._born_s > MAX_AGE_S:
            return True
        return inner.get_extra_info(info)


class Stream(httpcore.NetworkStream):
    """A connection whose every read and write ends by ``deadline_s``."""

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
        """Close the connection; a thread that waits for something on it wakes."""
        with suppress(OSError):  # the other side has closed it
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """As httpcore's; the connection keeps its age."""
        return Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._age)

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's; "is_readable" is also true of a connection that is too old."""
        return self._age.extra_info(self._inner, info)


class Backend(httpcore.SyncBackend):
    """Opens ``Stream`` connections, until it is closed. A pool that is closed forgets one that is just being made."""

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
        """As httpcore's, but ``timeout`` is for all the host's addresses: each may take its share of what is left.
        (An asynchronous pool tries several at once.)"""
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
    """A connection with an age; its deadline is the caller's ``asyncio.timeout``."""

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
        """As httpcore's; the connection keeps its age."""
        return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._age)

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's; "is_readable" is also true of a connection that is too old."""
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
            # Of a connection that was reset at once uvloop has no socket to show, and anyio counts on one. Once it
            # was shown, it stays.
            inner.get_extra_info("socket")
        except AttributeError:
            await inner.aclose()
            raise httpcore.ConnectError("the connection was reset as soon as it was made") from None
        return AsyncStream(inner, _Age())
