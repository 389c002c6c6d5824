"""The bodies that are still arriving. They take no place of a request, so slow senders deny nobody.

Each body has its own deadline, and all of them together have limits on their number and their bytes. If a limit is
passed, the oldest body is given up: an honest body is complete within a round trip, so the oldest is a slow one.

A body that arrived together with its head is read without a wait. Nothing is given up for it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class GivenUp(Exception):
    """The body was the oldest of those that are still arriving when one of their limits was passed."""


class Arrivals:
    """The bodies that are still arriving, the oldest first.

    Args:
        count_max: the largest number of bodies.
        bytes_max: the largest sum of their lengths.
    """

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._arriving: dict[Arrival, None] = {}
        self._bytes = 0
        self._shrinking = False

    def __len__(self) -> int:
        return len(self._arriving)

    @property
    def has_room(self) -> bool:
        """Whether one more body can arrive without another one being given up."""
        return len(self._arriving) < self._count_max

    def wait(self, size: int, timeout_ms: float) -> Arrival:
        """Return the context in which a body of ``size`` bytes is awaited.

        The context raises ``TimeoutError`` after ``timeout_ms``, and ``GivenUp`` if the body is given up earlier.
        """
        return Arrival(self, size, timeout_ms / 1000)

    def add(self, arrival: Arrival) -> None:
        """Count a body. If a limit is passed, the oldest is given up soon."""
        self._arriving[arrival] = None
        self._bytes += arrival.size
        if not self._shrinking and self._is_over():
            # Later, because a body that has already arrived is no longer counted then.
            self._shrinking = True
            asyncio.get_running_loop().call_soon(self._shrink)

    def remove(self, arrival: Arrival) -> None:
        """Count a body no longer."""
        if arrival in self._arriving:
            del self._arriving[arrival]
            self._bytes -= arrival.size

    def _is_over(self) -> bool:
        return len(self._arriving) > self._count_max or self._bytes > self._bytes_max

    def _shrink(self) -> None:
        self._shrinking = False
        while self._is_over():
            oldest = next(iter(self._arriving))
            self.remove(oldest)
            oldest.give_up()


class Arrival:
    """The wait for one body, as an asynchronous context manager."""

    __slots__ = ("_all", "_is_given_up", "_timeout", "size")

    def __init__(self, arrivals: Arrivals, size: int, timeout_s: float) -> None:
        self.size = size
        self._all = arrivals
        self._timeout = asyncio.timeout(timeout_s)
        self._is_given_up = False

    def give_up(self) -> None:
        """End the wait now."""
        self._is_given_up = True
        self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._all.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.remove(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._is_given_up:
                raise GivenUp from None
            raise
