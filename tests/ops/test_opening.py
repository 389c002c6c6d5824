"""What was opened is undone in reverse, however it ends, and also where opening ends half-way."""

from __future__ import annotations

import asyncio

import pytest

from tkdb import errors
from tkdb_ops.opening import AsyncResource


class House(AsyncResource):
    """Opened in steps, which may not end well."""

    def __init__(self, ends: BaseException | None = None) -> None:
        self.did: list[str] = []
        self._ends = ends

    async def _open(self) -> None:
        for step in ("gate", "door"):
            self.did.append(f"open {step}")
            self._stack.callback(self.did.append, f"close {step}")
        if self._ends is not None:
            raise self._ends


@pytest.mark.parametrize("ends", [errors.Unavailable("the lock is stuck"), asyncio.CancelledError(), KeyError("key")])
def test_what_opens_half_way_is_undone_and_the_reason_is_told(ends: BaseException) -> None:
    house = House(ends)

    async def enter() -> None:
        async with house:
            raise AssertionError

    with pytest.raises(type(ends)) as caught:
        asyncio.run(enter())
    assert caught.value is ends or isinstance(ends, asyncio.CancelledError)
    assert house.did == ["open gate", "open door", "close door", "close gate"]


def test_what_is_put_on_later_is_undone_first_and_an_error_inside_hinders_nothing() -> None:
    house = House()

    async def enter() -> None:
        async with house:
            house._stack.callback(house.did.append, "close window")
            raise errors.Unavailable("the roof leaks")

    with pytest.raises(errors.Unavailable, match="the roof leaks"):
        asyncio.run(enter())
    assert house.did[2:] == ["close window", "close door", "close gate"]


def test_it_can_be_opened_again() -> None:
    house = House()

    async def enter() -> None:
        async with house:
            pass

    asyncio.run(enter())
    asyncio.run(enter())
    assert house.did == ["open gate", "open door", "close door", "close gate"] * 2
