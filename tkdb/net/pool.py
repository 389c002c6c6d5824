"""Kept connections to one server: each belongs to one request, or is idle.

The connections are httpcore's (``HTTPConnection``), but the pool isn't. If a request in a pool of httpcore is cancelled
or times out at certain moments, its connection stays in the pool without an owner, and takes up a place forever. Here,
a request holds its connection as a local variable. When the request ends, for any reason, the connection is kept if it
is idle, and cut if it isn't. No step of that waits, so nothing can interrupt it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpcore

from tkdb.net.connections import AsyncDialer, Dialer
from tkdb.net.names import Names

C = TypeVar("C", httpcore.HTTPConnection, httpcore.AsyncHTTPConnection)
D = TypeVar("D", Dialer, AsyncDialer)


@dataclass(frozen=True, slots=True, eq=False)
class Lane(Generic[C, D]):
    """One connection, and its dialer."""

    connection: C
    dialer: D

    @property
    def is_reusable(self) -> bool:
        """Whether another request may use the connection."""
        # A connection that was never made counts as idle, too.
        return self.connection.is_idle() and not self.connection.is_closed()


class _Lanes(Generic[C, D]):
    """The connections of one pool. Any number of threads may share it: each step on the containers is atomic."""

    def __init__(self) -> None:
        self._idle: list[Lane[C, D]] = []
        self._taken: set[Lane[C, D]] = set()
        self._is_closed = False

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    @property
    def taken(self) -> int:
        """The number of connections that belong to requests."""
        return len(self._taken)

    def take(self) -> Lane[C, D] | None:
        """Return the connection that was used last, or None if no idle one can be used."""
        self._drop_expired()
        while True:
            try:
                lane = self._idle.pop()
            except IndexError:
                return None
            if not lane.connection.has_expired():
                return self.add(lane)
            lane.dialer.cut()

    def add(self, lane: Lane[C, D]) -> Lane[C, D]:
        """Record that a request owns ``lane``, and return it."""
        self._taken.add(lane)
        if self._is_closed:
            self.give_back(lane)
            raise httpcore.ConnectError("the client was closed")
        return lane

    def give_back(self, lane: Lane[C, D]) -> None:
        """Record that the request has ended. Keep its connection if it is idle."""
        self._taken.discard(lane)
        if not lane.is_reusable or self._is_closed:
            lane.dialer.cut()
            return
        self._idle.append(lane)
        if self._is_closed:  # since the line above
            lane.dialer.cut()

    def close(self) -> None:
        """Cut all connections. Requests in flight fail."""
        self._is_closed = True
        for lane in [*self._idle, *self._taken]:
            lane.dialer.cut()
        self._idle.clear()

    def abandon(self) -> None:
        """Close this process's copies of the sockets."""
        self._is_closed = True
        for lane in [*self._idle, *self._taken]:
            lane.dialer.abandon()

    def _drop_expired(self) -> None:
        """Drop the connections that were idle for the longest time, if that was too long. ``take`` checks the last."""
        while len(self._idle) > 1:
            oldest = self._idle[0]
            if not oldest.connection.has_expired():
                return
            with suppress(ValueError):  # another thread has taken it
                self._idle.remove(oldest)
                oldest.dialer.cut()


class _Pool(Generic[C, D]):
    """The common part of both pools.

    Args:
        names: looks up hosts.
        max_connections: the largest number of connections. Further requests wait.
        keepalive_expiry: how long an idle connection is kept, in seconds.
        settings: more of httpcore's arguments for a connection.
    """

    def __init__(self, names: Names, *, max_connections: int, keepalive_expiry: float, **settings: Any) -> None:
        self._names = names
        self._max_connections = max_connections
        self._settings = {"keepalive_expiry": keepalive_expiry, **settings}
        self.lanes: _Lanes[C, D] = _Lanes()

    def close(self) -> None:
        """Cut all connections. Requests in flight fail."""
        self.lanes.close()

    def abandon(self) -> None:
        """Close this process's copies of the sockets: the connections are another process's, or their event loop
        is closed."""
        self.lanes.abandon()


class Pool(_Pool[httpcore.HTTPConnection, Dialer]):
    """Kept connections to one server. Any number of threads may share it."""

    def __init__(self, names: Names, *, max_connections: int, keepalive_expiry: float, **settings: Any) -> None:
        super().__init__(names, max_connections=max_connections, keepalive_expiry=keepalive_expiry, **settings)
        self._free = threading.Semaphore(max_connections)

    @contextmanager
    def stream(self, request: httpcore.Request, timeout_s: float) -> Iterator[httpcore.Response]:
        """Send a request, and give its response. Everything ends within ``timeout_s``.

        Raises:
            httpcore.PoolTimeout: no connection became free in time.
        """
        deadline_s = time.monotonic() + timeout_s
        if not self._free.acquire(timeout=timeout_s):
            raise httpcore.PoolTimeout
        try:
            lane = self.lanes.take() or self.lanes.add(self._new(request))
            try:
                lane.dialer.deadline_s = deadline_s
                response = lane.connection.handle_request(request)
                yield response
                response.close()
            finally:
                self.lanes.give_back(lane)
        finally:
            self._free.release()

    def _new(self, request: httpcore.Request) -> Lane[httpcore.HTTPConnection, Dialer]:
        dialer = Dialer(self._names)
        origin = request.url.origin
        return Lane(httpcore.HTTPConnection(origin, network_backend=dialer, **self._settings), dialer)


class AsyncPool(_Pool[httpcore.AsyncHTTPConnection, AsyncDialer]):
    """The same, for one event loop."""

    def __init__(self, names: Names, *, max_connections: int, keepalive_expiry: float, **settings: Any) -> None:
        super().__init__(names, max_connections=max_connections, keepalive_expiry=keepalive_expiry, **settings)
        self._free = asyncio.Semaphore(max_connections)

    @asynccontextmanager
    async def stream(self, request: httpcore.Request) -> AsyncIterator[httpcore.Response]:
        """Send a request, and give its response. The caller limits the time."""
        async with self._free:
            lane = self.lanes.take() or self.lanes.add(self._new(request))
            try:
                response = await lane.connection.handle_async_request(request)
                yield response
                await response.aclose()
            finally:
                self.lanes.give_back(lane)

    def _new(self, request: httpcore.Request) -> Lane[httpcore.AsyncHTTPConnection, AsyncDialer]:
        dialer = AsyncDialer(self._names)
        origin = request.url.origin
        return Lane(httpcore.AsyncHTTPConnection(origin, network_backend=dialer, **self._settings), dialer)
