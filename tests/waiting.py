"""Waiting for what comes about by and by, for as long as a loaded machine may need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60
EVERY_S = 0.02


def until(reached: Callable[[], T | None], told: Callable[[], object] = lambda: "it didn't come to be in time") -> T:
    """Ask again and again, and return what ``reached`` returns, once that is something. Where it never is, ``told``
    says how things stand."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := reached()):
        assert time.monotonic() < give_up_s, told()
        time.sleep(EVERY_S)
    return found


async def until_awaited(reached: Callable[[], object]) -> None:
    """The same, and the event loop goes on meanwhile."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < give_up_s, "it didn't come to be in time"
        await asyncio.sleep(EVERY_S)
