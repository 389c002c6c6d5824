"""Waiting for a condition, with a timeout that is long enough for a busy machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 60
EVERY_S = 0.02


def until(
    condition: Callable[[], T | None], describe: Callable[[], object] = lambda: "the condition wasn't met in time"
) -> T:
    """Call ``condition`` until it returns a true value, and return that value.

    If there is none in time, fail with the text that ``describe`` returns.
    """
    give_up_s = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, describe()
        time.sleep(EVERY_S)
    return found


async def until_awaited(condition: Callable[[], object]) -> None:
    """Call ``condition`` until it returns a true value, while the event loop runs on."""
    give_up_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < give_up_s, "the condition wasn't met in time"
        await asyncio.sleep(EVERY_S)
