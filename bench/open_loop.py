"""An open loop: calls begin at fixed times, independent of how long earlier calls take. So a hanging call hides no
other.

A closed loop sends its next request only after the last answer. While it waits, it measures nothing of the outage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tkdb import errors


@dataclass
class Counted:
    """The outcome of all calls: the number of calls, the number of failed calls, and the time of the longest call."""

    calls: int = 0
    failed: int = 0
    longest_ms: float = 0.0
    last: errors.TkdbError | None = field(default=None, repr=False)


class OpenLoop:
    """The loop. It starts a call every ``every_s`` during the ``async with`` block, and then waits for calls in flight.

    Args:
        call: makes one call, and raises an error if it fails.
        every_s: the seconds between the starts of two calls.
    """

    def __init__(self, call: Callable[[], Awaitable[object]], every_s: float) -> None:
        self.counted = Counted()
        self._call = call
        self._every_s = every_s
        self._under_way: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._beginning = asyncio.create_task(self._begin())
        return self

    def stop(self) -> None:
        """Start no more calls."""
        self._beginning.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await asyncio.gather(*self._under_way)

    async def _begin(self) -> None:
        due_s = time.perf_counter()
        while True:
            task = asyncio.create_task(self._count(due_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            due_s += self._every_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))

    async def _count(self, due_s: float) -> None:
        counted = self.counted
        counted.calls += 1
        try:
            await self._call()
        except errors.TkdbError as error:
            counted.failed += 1
            counted.last = error
        counted.longest_ms = max(counted.longest_ms, 1_000 * (time.perf_counter() - due_s))
