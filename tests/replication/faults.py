"""A TCP proxy that makes faults: put it before an object store, and say what shall happen to what passes.

    with FaultyProxy("127.0.0.1", port) as proxy:
        proxy.fault = Fault.STALL

It runs in a thread of its own, so that whatever is tested can be asyncio, threads or other processes. A fault takes
effect at once, on open connections as well.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import Self

from tests.background import Background

_ERROR = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Length: 37\r\nConnection: close\r\n\r\n<Error><Code>SlowDown</Code></Error>\n"
)
_CHUNK_BYTES = 65_536


class Fault(Enum):
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


class FaultyProxy:
    """Passes connections on to ``host:port``, as ``fault`` says. ``chunks`` counts what clients sent."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._fault = Fault.NONE
        self._background = Background("faults")
        self._writers: set[asyncio.StreamWriter] = set()
        self._forsaken: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.chunks = 0

    def __enter__(self) -> Self:
        self._background.start()
        self._changed = asyncio.Event()
        self._server = self._background.do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.do(self._close())
        self._background.stop()

    @property
    def fault(self) -> Fault:
        """What happens now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._background.do(self._set(fault))

    async def _set(self, fault: Fault) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault is Fault.CUT:
            for writer in list(self._writers):
                _reset(writer)
        if fault is Fault.FORSAKE:
            self._forsaken |= self._writers

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()

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
            if self._fault is Fault.CUT:
                _reset(writer)
                return
            up_reader, up_writer = await asyncio.open_connection(*self._target)
            ends.add(up_writer)
            self._writers.add(up_writer)
            pumps = [
                asyncio.ensure_future(self._requests(reader, writer, up_writer)),
                asyncio.ensure_future(self._answers(up_reader, writer)),
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

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up_writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            self.chunks += 1
            await self._unstalled(writer)
            if self._fault is Fault.ERROR:
                writer.write(_ERROR)
                writer.write_eof()
                while await reader.read(_CHUNK_BYTES):  # closing with unread bytes would reset, and lose the answer
                    pass
                return
            up_writer.write(chunk)
            await up_writer.drain()

    async def _answers(self, up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await up_reader.read(_CHUNK_BYTES):
            await self._unstalled(writer)
            if self._fault is Fault.LOSE_ANSWER:
                _reset(writer)
                return
            writer.write(chunk)
            await writer.drain()

    async def _unstalled(self, writer: asyncio.StreamWriter) -> None:
        while self._fault is Fault.STALL or writer in self._forsaken:
            await self._changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
