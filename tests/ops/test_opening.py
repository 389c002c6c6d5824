"""An `AsyncResource` closes in reverse order, even if the body fails or opening stops half-way."""

from __future__ import annotations

import asyncio

import pytest

from tkdb import errors
from tkdb_ops.opening import AsyncResource


class House(AsyncResource):
    """A resource that opens in two steps and can then fail."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.events: list[str] = []
        self._failure = failure

    async def _open(self) -> None:
        for step in ("gate", "door"):
            self.events.append(f"open {step}")
            self._stack.callback(self.events.append, f"close {step}")
        if self._failure is not None:
            raise self._failure


@pytest.mark.parametrize(
    "failure", [errors.Unavailable("the lock is stuck"), asyncio.CancelledError(), KeyError("key")]
)
def test_a_failed_opening_is_undone_and_raises_its_reason(failure: BaseException) -> None:
    house = House(failure)

    async def enter() -> None:
        async with house:
            raise AssertionError

    with pytest.raises(type(failure)) as caught:
        asyncio.run(enter())
    assert caught.value is failure or isinstance(failure, asyncio.CancelledError)
    assert house.events == ["open gate", "open door", "close door", "close gate"]


def test_an_error_inside_closes_the_latest_resource_first() -> None:
    house = House()

    async def enter() -> None:
        async with house:
            house._stack.callback(house.events.append, "close window")
            raise errors.Unavailable("the roof leaks")

    with pytest.raises(errors.Unavailable, match="the roof leaks"):
        asyncio.run(enter())
    assert house.events[2:] == ["close window", "close door", "close gate"]


def test_a_closed_resource_can_be_opened_again() -> None:
    house = House()

    async def enter() -> None:
        async with house:
            pass

    asyncio.run(enter())
    asyncio.run(enter())
    assert house.events == ["open gate", "open door", "close door", "close gate"] * 2
