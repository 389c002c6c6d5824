"""The open connections: HTTP/1.1 by Hypercorn, in a number that the process has files for.

If a new connection comes and all are in use, the one that has had no request for longest is closed. So strangers who
open connections, send half a head, or don't read answers keep out neither callers nor health checks. Requests in
progress have separate limits, and the sum of these is below the limit of connections: there is always one to close.

Hypercorn's own loop (``hypercorn.asyncio.serve``) has no such limit, and upgrades any connection to HTTP/2, where one
connection has any number of requests. This module takes its place, and uses Hypercorn for the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from tkdb import logs
from tkdb.server.limits import Limits
from tkdb.server.listen import BACKLOG

READ_BYTES: Final = 65_536
"""The most that is read from a connection at a time."""
UNSENT_BYTES: Final = 65_536
"""The bytes of answers that wait until their caller reads. Beyond that, its next answer waits."""
SWEEPS: Final = 5
"""How often unread answers are looked for during ``unsent_ms``."""
BUFFER_BYTES: Final = 32_768
"""The received bytes of one connection that may wait to be read. Beyond twice that, TCP slows the caller down."""
KEEP_ALIVE_REQUESTS: Final = 1_000_000
"""The requests after which a connection is closed. Hypercorn's default of 1,000 costs a proxy's pool connections."""
LOG_EVERY_S: Final = 10.0
"""How often the log reports that all connections are in use."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Http11(H11Protocol):
    """HTTP/1.1 without its upgrade to HTTP/2."""

    async def _check_protocol(self, event: object) -> None:
        """Ignore ``Upgrade: h2c``, as RFC 9110, section 7.8 allows. HTTP/2's own preface becomes a request that
        the app refuses for its version."""


class Connections:
    """The server's connections, at most ``limits.connections_max``.

    Args:
        app: the ASGI app that answers requests.
        limits: the limits of connections.
    """

    def __init__(self, app: ASGIFramework, limits: Limits) -> None:
        self.app: AppWrapper = ASGIWrapper(app)
        self.limits = limits
        self.config = _config(limits)
        self.context = WorkerContext(None)
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # the one that has been idle for longest is first
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged_s = -LOG_EVERY_S

    async def serve(self, listener: socket.socket, until: Callable[[], Awaitable[None]]) -> None:
        """Accept connections until ``until()`` returns. Then requests in progress have ``answer_ms`` to end."""
        server = await asyncio.start_server(self._accept, sock=listener, backlog=BACKLOG, limit=BUFFER_BYTES)
        sweeping = asyncio.create_task(self._sweep())
        try:
            await until()
        finally:
            await self.context.terminated.set()  # from now on, each response closes its connection
            server.close()
            for connection in list(self._idle):
                connection.close()
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=self.limits.answer_ms / 1000)
                for connection in list(self._open):
                    connection.abort()
                if late:
                    await asyncio.wait(late)
            sweeping.cancel()

    def rest(self, connection: Connection) -> None:
        """Record that a connection has no request from now on."""
        if connection in self._open:  # not if it was given up
            self._idle[connection] = None

    def work(self, connection: Connection) -> None:
        """Record that a connection has a request from now on."""
        self._idle.pop(connection, None)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._has_room():
            writer.transport.abort()
            return
        connection = Connection(self, reader, writer)
        self._open.add(connection)
        self._tasks.add(connection.task)
        connection.task.add_done_callback(self._tasks.discard)
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass  # it was given up, and this task ends here anyway
        finally:
            self._forget(connection)

    def _has_room(self) -> bool:
        """Return True if one more connection may be open. If necessary, close the one that is idle for longest."""
        if len(self._open) < self.limits.connections_max:
            return True
        now_s = asyncio.get_running_loop().time()
        if now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            logs.event(logging.WARNING, "connections full", open=len(self._open), idle=len(self._idle))
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self._give_up(oldest)
        return True

    def _give_up(self, connection: Connection) -> None:
        self._forget(connection)
        connection.abort()

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    async def _sweep(self) -> None:
        """Close connections whose caller doesn't read an answer: after a time, or before they hold too much memory."""
        every_s = self.limits.unsent_ms / 1000 / SWEEPS
        waiting: dict[Connection, int] = {}
        while True:
            await asyncio.sleep(every_s)
            # The sweeps in which each connection had unsent bytes; the one that has had them for longest is first.
            unsent = {connection: size for connection in self._open if (size := connection.unsent_bytes)}
            known = {connection: sweeps + 1 for connection, sweeps in waiting.items() if connection in unsent}
            waiting = known | {connection: 1 for connection in unsent if connection not in known}
            total = sum(unsent.values())
            for connection, sweeps in list(waiting.items()):
                if sweeps <= SWEEPS and total <= self.limits.unsent_bytes:
                    break
                total -= unsent[connection]
                self._give_up(connection)


class Connection:
    """One connection. It is idle unless it has a request whose head is complete, and whose response isn't.

    Args:
        connections: all connections.
        reader: the received bytes.
        writer: the bytes to send.
    """

    def __init__(self, connections: Connections, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._all = connections
        self._reader = reader
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._socket = writer.get_extra_info("socket")
        self._sending = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None
        self._protocol: H11Protocol
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  asyncio.start_server calls in a task
        self.task = task

    @property
    def unsent_bytes(self) -> int:
        """The bytes of answers that the caller hasn't taken."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Close it when everything is sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close it now, and end the work for it. The kernel forgets an answer that the caller didn't read."""
        if self.unsent_bytes:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()
        self.task.cancel()

    async def run(self) -> None:
        """Answer its requests until it is closed."""
        loop = asyncio.get_running_loop()
        try:
            client = parse_socket_addr(self._socket.family, self._socket.getpeername())
            server = parse_socket_addr(self._socket.family, self._socket.getsockname())
            async with TaskGroup(loop) as tasks:
                self._protocol = Http11(
                    self._all.app,
                    self._all.config,
                    self._all.context,
                    tasks,
                    ConnectionState(LifespanState({})),
                    False,
                    client,
                    server,
                    self._handle,
                )
                self._rest()
                await self._read()
        except OSError:
            pass
        finally:
            await self._close()

    async def _read(self) -> None:
        while not self._reader.at_eof():
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:
                break
            await self._protocol.handle(RawData(data))
        await self._protocol.handle(Closed())

    async def _handle(self, event: Event) -> None:
        """Handle what the protocol wants."""
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Closed):
            await self._close()
        elif isinstance(event, Updated):
            if event.idle:
                self._rest()
            else:
                self._work()

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            try:
                self._writer.write(data)
                if self.unsent_bytes > UNSENT_BYTES:
                    self._all.rest(self)  # its caller doesn't read, so it may be closed for a new one
                    await self._writer.drain()
                    self._all.work(self)
            except (ConnectionError, RuntimeError):
                await self._protocol.handle(Closed())

    async def _close(self) -> None:
        self._work()
        self._all.rest(self)  # its caller may not read what is left, so it may be closed for a new one
        with suppress(OSError, RuntimeError):  # it may be closed already
            self._writer.write_eof()
        self._writer.close()
        with suppress(OSError, RuntimeError):
            await self._writer.wait_closed()

    def _rest(self) -> None:
        self._all.rest(self)
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(self._all.limits.keep_alive_ms / 1000, self.close)

    def _work(self) -> None:
        self._all.work(self)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None


def _config(limits: Limits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logs.HYPERCORN
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.header_bytes
    config.keep_alive_max_requests = KEEP_ALIVE_REQUESTS
    # No limit. With one, Hypercorn's reader waits forever on the queue of an app that has responded early, and the
    # connection is never closed. The response to an unread body closes the connection, so the queue can't grow.
    config.max_app_queue_size = 0
    return config
