"""The way to an object store, and what may happen on it: nothing passes, answers are lost, all takes longer.

::

    gate = StoreProxy("127.0.0.1", port)
    await gate.open()                          # it listens at gate.port
    gate.change(fault=Fault.STALL)

A change takes effect at once, on open connections as well.
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
    """What happens to what passes."""

    NONE = auto()
    STALL = auto()
    """Connections are accepted, and nothing passes until the fault is another."""
    CUT = auto()
    """Open connections are reset, and so are new ones."""
    ERROR = auto()
    """Each request is answered 503 and not passed on."""
    LOSE_ANSWER = auto()
    """Requests pass; the connection is reset in place of the answer."""
    FORSAKE = auto()
    """Connections that are open now never pass anything again, and aren't closed; new ones are well."""


class StoreProxy:
    """Passes connections on to ``host:port``, as it is told to.

    Args:
        host: where the store is.
        port: its port there.
        delay_ms: how long what passes is under way, in each direction.

    Attributes:
        fault: what happens now.
        clock_ms: how far the dates of answers are set apart from the truth: what a machine sees whose own clock is off.
        chunks: how often clients have sent something.
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
        """Take connections at ``port`` of 127.0.0.1."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no more, and cut those that there are."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()

    def change(self, *, fault: StoreFault = StoreFault.NONE, slower_ms: float = 0, clock_ms: int = 0) -> None:
        """Set all that may happen; without arguments, nothing does any more."""
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
                while await reader.read(_CHUNK_BYTES):  # closing with unread bytes would reset, and lose the answer
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
        """Have pieces arrive in order, each after the delay of when it was sent."""
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
    """Return the head of an answer with its date set apart. It is as long as before.

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
