"""One value for each event loop in which a client is used, ended together with the loop.

A connection, a task and a future belong to the event loop that made them, and work in no other. But an app has one
client, and may have many loops: ``asyncio.run`` in each call of a function, a loop for each request (asynchronous views
of Django under WSGI), or a loop in each of several threads. So everything that belongs to a loop is kept for that loop.

A loop ends in one of two ways. Usually its owner calls ``shutdown_asyncgens`` first, as ``asyncio.run`` does. That
closes a generator which waits for it here, and the value ends while the loop still runs. If the owner only closes the
loop, the value ends when the client is next used in another loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from tkdb.errors import ConfigurationError

T = TypeVar("T")

_abandoned: list[object] = []
"""Values of the parent process. They stay: if they were collected, they would wake the parent's event loops, and wait
for locks of its threads."""


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
        ConfigurationError: none of asyncio's runs.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "an AsyncClient needs an event loop of asyncio, and none is running here",
            hint="run it with asyncio, or use a Client",
        ) from None


class PerLoop(Generic[T]):
    """One value for each event loop. Any number of threads may share it.

    Args:
        new: makes the value for the running loop.
        end: ends a value. The second argument is True if its loop still works, and then it is the running loop.
    """

    def __init__(self, new: Callable[[], T], end: Callable[[T, bool], None]) -> None:
        self._new = new
        self._end = end
        self._lock = threading.Lock()
        self._values: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] | None = {}

    def here(self) -> T:
        """Return the value of the running loop.

        Raises:
            ConfigurationError: this is closed, or no event loop of asyncio is running.
        """
        loop, values = running_loop(), self._values
        if values is None:
            raise ConfigurationError("this client is closed", hint="create a new one, or close it later")
        found = values.get(loop)
        return self._begin(loop) if found is None else found[0]

    @property
    def is_open(self) -> bool:
        """Whether it makes values."""
        return self._values is not None

    def abandon(self) -> list[T]:
        """Make no more values, and end none. Return them. For the child of a fork, in which the loops are copies."""
        values, self._values = self._values, None
        _abandoned.append(values)
        return [value for value, _ in (values or {}).values()]

    async def close(self) -> None:
        """End all values, and make no more. A second time does nothing."""
        with self._lock:
            values, self._values = self._values, None
        here = running_loop()
        for loop, (value, guard) in (values or {}).items():
            if loop is here:
                self._end(value, True)
                await guard.aclose()
            elif loop.is_closed():
                self._end(value, False)
            else:
                with suppress(RuntimeError):  # it was closed just now
                    loop.call_soon_threadsafe(self._end, value, True)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> T:
        value = self._new()
        guard = self._until_ended(loop)
        with self._lock:
            values = self._values
            if values is None:
                return self.here()
            ended = [each for each in values if each.is_closed()]
            gone = [values.pop(each) for each in ended]
            values[loop] = value, guard
        for former, _ in gone:
            self._end(former, False)
        with suppress(StopIteration):  # it runs to its first yield, and the loop notes that it must be closed
            guard.__anext__().send(None)
        return value

    async def _until_ended(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with self._lock:
                found = (self._values or {}).pop(loop, None)
            if found is not None:
                self._end(found[0], True)
            await asyncio.sleep(0)  # connections that were cut are closed in the loop's next step
