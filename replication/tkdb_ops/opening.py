"""What is opened in several steps and closed by undoing them in reverse order, also where opening ends half-way.

>>> import asyncio
>>> class Door(AsyncResource):
...     async def _open(self):
...         for part in ("lock", "leaf"):
...             print("open", part)
...             self._stack.callback(print, "close", part)
>>> async def pass_through():
...     async with Door():
...         print("through")
>>> asyncio.run(pass_through())
open lock
open leaf
through
close leaf
close lock
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self


class AsyncResource(ABC):
    """Open while an ``async with`` lasts. A subclass takes the steps in ``_open``, and puts what undoes each on
    ``_stack``; so it may with whatever it opens later."""

    _stack: AsyncExitStack

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _open(self) -> None:
        """Take the steps."""
