"""An open loop: calls begin at fixed times, however long those before take. So a call that hangs hides no other.

A closed loop sends its next request when it has the last answer: while it waits, it sees nothing of the outage.
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
    """What became of all calls: how many there were, how many of them failed, and how long the longest took."""

    calls: int = 0
    failed: int = 0
    longest_ms: float = 0.0
    last: errors.TkdbError | None = field(default=None, repr=False)


class OpenLoop:
    """Begins a call every ``every_s`` within the ``async with``, and then waits for those under way.

    Args:
        call: makes one, and raises where it fails.
        every_s: seconds between two beginnings.
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
        """Begin no more calls."""
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
