"""A relay of TCP connections, byte for byte: into a stand-in's network, or out of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from tkdb import errors
from tkdb_ops.flycast.environment import Stream

Connect = Callable[[], Awaitable[Stream]]

_PIECE: Final = 65_536


class Relay:
    """A relay from a listening socket to the connections that ``connect`` makes.

    Args:
        listener: a socket that listens, or is bound.
        connect: opens the onward connection for an incoming one.
    """

    def __init__(self, listener: socket.socket, connect: Connect) -> None:
        self._listener = listener
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start to take connections."""
        self._server = await asyncio.start_server(self._take, sock=self._listener)

    async def close(self) -> None:
        """Take no more connections, and cut the open ones."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in a task
        self._tasks.add(task)
        try:
            with suppress(OSError, errors.Unavailable, asyncio.CancelledError):
                far_reader, far_writer = await self._connect()
                try:
                    await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
                finally:
                    far_writer.close()
        finally:
            writer.close()
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
