"""A proxy on the path to an object store, with faults: nothing passes, answers are lost, or everything is slow.

::

    gate = StoreProxy("127.0.0.1", port)
    await gate.open()                          # it listens at gate.port
    gate.change(fault=Fault.STALL)

A change takes effect immediately, also on open connections.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from enum import Enum, auto
from typing import Final

_ERROR: Final = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Length: 37\r\nConnection: close\r\n\r\n<Error><Code>SlowDown</Code></Error>\n"
)
_CHUNK_BYTES: Final = 65_536
_UNDER_WAY_MAX: Final = 256
_DATE: Final = re.compile(rb"(?<=\r\n)(date: )(\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT)(?=\r\n)", re.IGNORECASE)


class StoreFault(Enum):
    """The effect on connections and their data."""

    NONE = auto()
    STALL = auto()
    """Connections are accepted, but nothing passes until the fault changes."""
    CUT = auto()
    """Open and new connections are reset."""
    ERROR = auto()
    """Each request is answered with 503, and not passed on."""
    LOSE_ANSWER = auto()
    """Requests pass, but the connection is reset instead of the answer."""
    FORSAKE = auto()
    """Present connections stay open but never pass anything again. New connections work."""


class StoreProxy:
    """A gate that passes connections on to ``host:port``, subject to its fault.

    Args:
        host: the store's host.
        port: the store's port.
        delay_ms: the delay of all data, in each direction.

    Attributes:
        fault: the present fault.
        clock_ms: the offset that is added to the dates of answers. To a machine, its own clock then seems wrong.
        chunks: the number of chunks that clients have sent.
    """

    def __init__(self, host: str, port: int, *, delay_ms: float = 0) -> None:
        self.fault = StoreFault.NONE
        self.delay_ms = delay_ms
        self.clock_ms = 0
        self.chunks = 0
        self.port = 0
        self._target = (host, port)
        self._own_delay_ms = delay_ms
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._forsaken: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start to take connections at ``port`` of 127.0.0.1."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no more connections, and cut the open ones."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()

    def change(self, *, fault: StoreFault = StoreFault.NONE, slower_ms: float = 0, clock_ms: int = 0) -> None:
        """Set the fault, the additional delay and the clock offset. Without arguments, everything works normally."""
        self.fault, self.delay_ms, self.clock_ms = fault, self._own_delay_ms + slower_ms, clock_ms
        self._changed.set()
        self._changed = asyncio.Event()
        if fault is StoreFault.CUT:
            for writer in list(self._writers):
                _reset(writer)
        if fault is StoreFault.FORSAKE:
            self._forsaken |= self._writers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(asyncio.CancelledError):
            await task

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._writers.add(writer)
        try:
            if self.fault is StoreFault.CUT:
                _reset(writer)
                return
            up_reader, up_writer = await asyncio.open_connection(*self._target)
            ends.add(up_writer)
            self._writers.add(up_writer)
            pumps = [
                asyncio.ensure_future(self._carry(self._requests(reader, writer), up_writer)),
                asyncio.ensure_future(self._carry(self._answers(up_reader, writer), writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._writers -= ends
            self._forsaken -= ends
            for end in ends:
                end.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        while chunk := await reader.read(_CHUNK_BYTES):
            self.chunks += 1
            await self._unstalled(writer)
            if self.fault is StoreFault.ERROR:
                writer.write(_ERROR)
                writer.write_eof()
                # Closing with unread bytes resets the connection, and loses the answer.
                while await reader.read(_CHUNK_BYTES):
                    pass
                return
            yield chunk

    async def _answers(self, up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        while chunk := await up_reader.read(_CHUNK_BYTES):
            await self._unstalled(writer)
            if self.fault is StoreFault.LOSE_ANSWER:
                _reset(writer)
                return
            yield dated(chunk, self.clock_ms) if self.clock_ms else chunk

    async def _carry(self, pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
        """Write the pieces in order, each after the delay that was set when it was sent."""
        now_s = asyncio.get_running_loop().time
        under_way: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(_UNDER_WAY_MAX)

        async def arrive() -> None:
            while (piece := await under_way.get()) is not None:
                due_s, chunk = piece
                if (left_s := due_s - now_s()) > 0:
                    await asyncio.sleep(left_s)
                writer.write(chunk)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(arrive())
            async for piece in pieces:
                await under_way.put((now_s() + self.delay_ms / 1000, piece))
            await under_way.put(None)

    async def _unstalled(self, writer: asyncio.StreamWriter) -> None:
        while self.fault is StoreFault.STALL or writer in self._forsaken:
            await self._changed.wait()


def dated(answer: bytes, apart_ms: int) -> bytes:
    """Return the head of an answer with ``apart_ms`` added to its date. Its length doesn't change.

    >>> dated(b"HTTP/1.1 200 OK\\r\\nDate: Thu, 26 Nov 2026 17:00:00 GMT\\r\\n\\r\\n", 3_600_000)
    b'HTTP/1.1 200 OK\\r\\nDate: Thu, 26 Nov 2026 18:00:00 GMT\\r\\n\\r\\n'
    """

    def apart(found: re.Match[bytes]) -> bytes:
        truly = parsedate_to_datetime(found[2].decode("ascii"))
        shown = truly.astimezone(UTC) + timedelta(milliseconds=apart_ms)
        return found[1] + format_datetime(shown, usegmt=True).encode("ascii")

    return _DATE.sub(apart, answer, count=1)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
