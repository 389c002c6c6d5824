"""Network streams with a deadline, and connections with a maximum age.

httpcore's timeouts limit each single read, so a response that arrives byte by byte could hold a thread without a limit.
These streams add one deadline for a whole attempt (in synchronous code; asyncio has its own), and an age after which a
connection carries no new request.

Each connection has its own ``Dialer``. It knows every stream that was opened for the connection, so it can end the
connection at any moment, without waiting: also in the middle of a TLS handshake, and also for a caller that was
cancelled. ``cut`` ends the connection. ``abandon`` only closes this process's copy of its socket: after a fork, the
connection is the parent's, and in an event loop that was closed, nothing else works.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import httpcore

from tkdb.net.names import Address, Names

T = TypeVar("T")

MAX_AGE_S = 9 * 60
"""Proxies cut connections older than 10 minutes when they restart. Connections are renewed before that."""
READ_AHEAD_BYTES = 1 << 18
"""If more than this waits to be read, an asynchronous stream stops receiving."""


class _Age:
    """The age of a connection."""

    __slots__ = ("_born_s",)

    def __init__(self) -> None:
        self._born_s = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the connection is too old for a new request."""
        return time.monotonic() - self._born_s > MAX_AGE_S


class Dialer(httpcore.SyncBackend):
    """Opens the stream of one connection.

    Args:
        names: looks up hosts.

    Attributes:
        deadline_s: the time by which connecting, every read and every write end, by ``time.monotonic``.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._stream: Stream | None = None
        self._is_cut = False
        self.deadline_s = 0.0

    def cut(self) -> None:
        """End the connection. A thread that waits on it wakes up."""
        self._is_cut = True
        if self._stream is not None:
            self._stream.close()

    def abandon(self) -> None:
        """Close this process's copy of the socket. The connection stays open for another process."""
        if self._stream is not None:
            self._stream.abandon()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """As httpcore's, but the lookup and all addresses of the host share the time until the deadline."""
        try:
            addresses = self._names.addresses(host, port, timeout_s=self.left_s())
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        for address, share_s in _shares(addresses, self.deadline_s):
            where = str(address[4][0])
            try:
                inner = super().connect_tcp(where, port, share_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address is addresses[-1]:
                    raise
            else:
                break
        self._stream = Stream(inner, _Age(), self)
        if self._is_cut:
            self._stream.close()
            raise httpcore.ConnectError("the client was closed")
        return self._stream

    def left_s(self) -> float:
        """Return the time until the deadline."""
        return self.deadline_s - time.monotonic()

    def replaced(self, stream: Stream) -> Stream:
        """Return ``stream``, which replaces the last one: TLS begins on it."""
        self._stream = stream
        return stream


class Stream(httpcore.NetworkStream):
    """A connection on which every read and write ends by its dialer's deadline."""

    def __init__(self, inner: httpcore.NetworkStream, age: _Age, dialer: Dialer) -> None:
        self._inner = inner
        self._age = age
        self._dialer = dialer

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As httpcore's; raises ``ReadTimeout`` at the deadline."""
        left_s = self._dialer.left_s()
        if left_s <= 0:
            raise httpcore.ReadTimeout
        return self._inner.read(max_bytes, left_s)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As httpcore's; raises ``WriteTimeout`` at the deadline."""
        left_s = self._dialer.left_s()
        if left_s <= 0:
            raise httpcore.WriteTimeout
        self._inner.write(buffer, left_s)

    def close(self) -> None:
        """Close the connection. A thread that waits on it wakes up."""
        with suppress(OSError):  # the other side has closed it
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._inner.close()

    def abandon(self) -> None:
        """Close this process's copy of the socket."""
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """As httpcore's, within the deadline. The connection keeps its age."""
        left_s = self._dialer.left_s()
        if left_s <= 0:
            raise httpcore.ConnectTimeout
        inner = self._inner.start_tls(ssl_context, server_hostname, left_s)
        return self._dialer.replaced(Stream(inner, self._age, self._dialer))

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's. "is_readable" is also True for a connection that is too old."""
        # A pool closes an idle connection that has something to read, because the other side has closed it.
        if info == "is_readable" and self._age.is_over:
            return True
        return self._inner.get_extra_info(info)


class AsyncDialer(httpcore.AsyncNetworkBackend):
    """Opens the stream of one connection, in one event loop of asyncio.

    Args:
        names: looks up hosts.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._socket: socket.socket | None = None
        self._stream: AsyncStream | None = None
        self._is_cut = False

    def cut(self) -> None:
        """End the connection at once, or as soon as it is made. Call it in the connection's own event loop."""
        self._is_cut = True
        if self._stream is not None:
            self._stream.abort()

    def abandon(self) -> None:
        """Close this process's copy of the socket. The connection stays open for another process."""
        if self._socket is not None:
            self._socket.close()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's, but ``timeout`` is for the lookup and all addresses of the host together: each gets its share
        of the remaining time."""
        ends_s = None if timeout is None else time.monotonic() + timeout
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
            addresses = await _within(timeout, self._names.addresses_awaited(host, port))
        for address, share_s in _shares(addresses, ends_s):
            try:
                with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
                    return await _within(share_s, self._connect(address, socket_options or ()))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address is addresses[-1]:
                    raise
        raise AssertionError("a host has at least one address")

    async def sleep(self, seconds: float) -> None:
        """As httpcore's."""
        await asyncio.sleep(seconds)

    async def _connect(self, address: Address, options: Iterable[httpcore.SOCKET_OPTION]) -> AsyncStream:
        family, kind, protocol, _, where = address
        loop = asyncio.get_running_loop()
        self._socket = opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            for option in options:
                opened.setsockopt(*option)
            await loop.sock_connect(opened, where)
            _, stream = await loop.create_connection(lambda: AsyncStream(_Age(), loop), sock=opened)
        except BaseException:
            opened.close()
            raise
        self._stream = stream
        if self._is_cut:
            stream.abort()
            raise ConnectionAbortedError("the client was closed")
        return stream


class AsyncStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """A connection with an age. Its deadline is the caller's ``asyncio.timeout``."""

    def __init__(self, age: _Age, loop: asyncio.AbstractEventLoop) -> None:
        self._age = age
        self._loop = loop
        self._received = bytearray()
        self._is_paused = False
        self._is_over = False
        self._error: Exception | None = None
        self._may_write = True
        self._changed: asyncio.Future[None] | None = None

    # --- asyncio's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio's."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """As asyncio's."""
        self._received += data
        if len(self._received) > READ_AHEAD_BYTES:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """As asyncio's. The connection is then closed."""
        self._is_over = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio's."""
        self._is_over = True
        self._error = error
        self._wake()

    def pause_writing(self) -> None:
        """As asyncio's."""
        self._may_write = False

    def resume_writing(self) -> None:
        """As asyncio's."""
        self._may_write = True
        self._wake()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _change(self) -> None:
        self._changed = self._loop.create_future()
        await self._changed

    # --- httpcore's side -------------------------------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (httpcore's signature)
        """As httpcore's."""
        with _mapped(httpcore.ReadTimeout, httpcore.ReadError):
            return await _within(timeout, self._read(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 (httpcore's signature)
        """As httpcore's."""
        with _mapped(httpcore.WriteTimeout, httpcore.WriteError):
            await _within(timeout, self._write(buffer))

    async def aclose(self) -> None:
        """Close the connection, without waiting for the other side."""
        self.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's. The connection keeps its age."""
        starting = self._loop.start_tls(self._transport, self, ssl_context, server_hostname=server_hostname)
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
            transport = await _within(timeout, starting)
            if transport is None:
                raise ConnectionResetError("the connection was reset as soon as it was made")
        self._transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's. "is_readable" is also True for a connection that is too old."""
        if info == "is_readable":
            return self._age.is_over or self._is_over or bool(self._received)
        return self._transport.get_extra_info(info)

    async def _read(self, max_bytes: int) -> bytes:
        while not self._received and not self._is_over:
            await self._change()
        if self._error is not None and not self._received:
            raise self._error
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        if self._is_paused and len(self._received) <= READ_AHEAD_BYTES:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    async def _write(self, buffer: bytes) -> None:
        if buffer and not self._is_over:
            self._transport.write(buffer)
        while not self._may_write and not self._is_over:
            await self._change()
        if self._is_over:
            raise self._error or ConnectionResetError("the connection was closed")


def _shares(addresses: list[Address], ends_s: float | None) -> Iterator[tuple[Address, float | None]]:
    """Yield each address with the time for it: the rest is shared by all that remain."""
    for number, address in enumerate(addresses):
        if ends_s is None:
            yield address, None
        else:
            yield address, max(0.001, ends_s - time.monotonic()) / (len(addresses) - number)


async def _within(timeout_s: float | None, awaited: Awaitable[T]) -> T:
    if timeout_s is None:
        return await awaited
    async with asyncio.timeout(timeout_s):
        return await awaited


@contextmanager
def _mapped(late: type[httpcore.TimeoutException], failed: type[httpcore.NetworkError]) -> Iterator[None]:
    """Raise httpcore's errors in place of the system's."""
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise failed(str(error)) from error
