"""Drives a client's calls through the testing network: where it would sleep, the clock moves; where it would open a
socket, the authority is at hand. Only a long poll without news waits, for the test to do something."""

from __future__ import annotations

import asyncio
from concurrent.futures import wait
from typing import TypeVar

from tkdb.errors import ConfigurationError
from tkdb_client.driving import AsyncDriver, Driver
from tkdb_client.steps import Sleep, Steps
from tkdb_client.testing.clock import Clock
from tkdb_client.testing.network import Network, Passing
from tkdb_client.transport import AsyncTransport, Outcome, Send, Transport

T = TypeVar("T")


class Wire(Transport):
    """A transport without sockets.

    Args:
        network: where it leads.
        faulty: as for ``Passing``.
    """

    def __init__(self, network: Network, *, faulty: bool = True) -> None:
        super().__init__()
        self._network = network
        self._faulty = faulty
        self._closed = False

    def post(self, send: Send) -> Outcome:
        """Make one attempt."""
        passing = Passing(self._network, send, faulty=self._faulty)
        while True:
            seen = self._network.changes
            _check_open(closed=self._closed)
            outcome = passing.outcome()
            if outcome is not None:
                return outcome
            wait([self._network.change(seen)])

    def close(self) -> None:
        """End what waits."""
        super().close()
        self._closed = True
        self._network.tell()


class AsyncWire(AsyncTransport):
    """The same, for an event loop."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self._closed = False

    async def post(self, send: Send) -> Outcome:
        """Make one attempt."""
        passing = Passing(self._network, send, faulty=True)
        while True:
            seen = self._network.changes
            _check_open(closed=self._closed)
            outcome = passing.outcome()
            if outcome is not None:
                return outcome
            await asyncio.wrap_future(self._network.change(seen))

    async def close(self) -> None:
        """End what waits."""
        await super().close()
        self._closed = True
        self._network.tell()


class Timeless(Driver):
    """A blocking driver whose sleeps take no time."""

    def __init__(self, wire: Wire, clock: Clock) -> None:
        super().__init__(wire)
        self._clock = clock

    def run(self, steps: Steps[T]) -> T:
        """As ``Driver.run``."""
        return super().run(_timeless(steps, self._clock))


class AsyncTimeless(AsyncDriver):
    """The same, for an event loop."""

    def __init__(self, wire: AsyncWire, clock: Clock) -> None:
        super().__init__(wire)
        self._clock = clock

    async def run(self, steps: Steps[T]) -> T:
        """As ``AsyncDriver.run``."""
        return await super().run(_timeless(steps, self._clock))


def _timeless(steps: Steps[T], clock: Clock) -> Steps[T]:
    """Take the steps as they are, but for sleeping: the clock moves instead."""
    answer, error = None, None
    while True:
        try:
            step = steps.throw(error) if error is not None else steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        answer, error = None, None
        if isinstance(step, Sleep):
            clock.advance(step.wait_ms / 1000)
            continue
        try:
            answer = yield step
        except Exception as raised:  # noqa: BLE001 -- whatever it is, it is for the steps
            error = raised


def _check_open(*, closed: bool) -> None:
    if closed:
        raise ConfigurationError("this client is closed", hint="make a new one, or close it later")
