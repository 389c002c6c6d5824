"""Carries out the steps of a call: one driver blocks its thread, the other awaits."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

from tkdb_client.exchange import Sleep, Steps
from tkdb_client.transport import AsyncTransport, Transport

T = TypeVar("T")


def run(steps: Steps[T], transport: Transport) -> T:
    """Take ``steps`` to their end and return their result."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Sleep):
                time.sleep(step.wait_ms / 1000)
                step = next(steps)
            else:
                step = steps.send(transport.post(step))
    except StopIteration as end:
        result: T = end.value
        return result


async def run_async(steps: Steps[T], transport: AsyncTransport) -> T:
    """Take ``steps`` to their end and return their result, awaiting."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Sleep):
                await asyncio.sleep(step.wait_ms / 1000)
                step = next(steps)
            else:
                step = steps.send(await transport.post(step))
    except StopIteration as end:
        result: T = end.value
        return result
