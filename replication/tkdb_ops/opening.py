"""Objects that open in several steps and close by undoing them in reverse order, even if opening fails halfway.

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
    """An object that is open while its ``async with`` block runs.

    A subclass opens everything in ``_open``, and registers on ``_stack`` how to undo each step. It may also register
    anything that it opens later.
    """

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
        """Take all steps, and register on ``_stack`` how to undo each."""
