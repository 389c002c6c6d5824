"""Runs a client's calls on the testing network, without sockets and without waiting.

If a call would wait, the clock moves. Background work (a feed follower, a probe) can't move it, because then the clock
would move while the test does something else: background work waits until a call or the test has moved it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from tkdb.errors import ConfigurationError
from tkdb_client.calls.effects import Background, Sleep, Steps
from tkdb_client.calls.runners import AsyncRunner, Runner
from tkdb_client.calls.transport import AsyncTransport, Outcome, Send, Transport
from tkdb_client.testing.clock import Clock
from tkdb_client.testing.network import Network, Passing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Beside:
    """An effect of background work."""

    step: Send | Sleep


Condition = Callable[[], Outcome | bool | None]
"""Returns the outcome of an effect, or None while something else must happen first."""


class _Way:
    """The common parts of both wires."""

    def __init__(self, network: Network, *, faulty: bool = True) -> None:
        self._network = network
        self._faulty = faulty
        self._closed = False

    def condition(self, step: Send | Beside) -> Condition:
        """Return a function that checks whether an effect is over."""
        self._check_open()
        match step:
            case Beside(Sleep(wait_ms)):
                return self._if_open(self._slept(wait_ms))
            case Beside(Send() as send):
                return self._if_open(Passing(self._network, send, faulty=self._faulty, moves=False).outcome)
            case Send():
                return self._if_open(Passing(self._network, step, faulty=self._faulty).outcome)
        raise AssertionError(f"no step of a call: {step}")

    def close(self) -> None:
        """End all waits."""
        self._closed = True
        self._network.notify()

    def _slept(self, wait_ms: int) -> Condition:
        clock = self._network.clock
        until_ms = clock.monotonic_ms() + wait_ms
        return lambda: clock.monotonic_ms() >= until_ms or None

    def _if_open(self, condition: Condition) -> Condition:
        def if_open() -> Outcome | bool | None:
            self._check_open()
            return condition()

        return if_open

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("this client is closed", hint="create a new one, or close it later")
        if self._network.is_closed:
            raise ConfigurationError("this test's authority is closed", hint="create a new one, or close it later")


class Wire(Transport):
    """A transport without sockets.

    Args:
        network: the network that it sends to.
        faulty: whether faults affect it, and the test sees its calls.
    """

    def __init__(self, network: Network, *, faulty: bool = True) -> None:
        super().__init__()
        self._network = network
        self._way = _Way(network, faulty=faulty)

    def post(self, send: Send | Beside) -> Any:
        """Carry out an effect to its end."""
        condition = self._way.condition(send)
        while True:
            seen = self._network.changes
            outcome = condition()
            if outcome is not None:
                return outcome
            wait([self._network.change(seen)])

    def close(self) -> None:
        """End all waits."""
        super().close()
        self._way.close()


class AsyncWire(AsyncTransport):
    """The same, for an event loop."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self._way = _Way(network)

    async def post(self, send: Send | Beside) -> Any:
        """Carry out an effect to its end."""
        condition = self._way.condition(send)
        while True:
            seen = self._network.changes
            outcome = condition()
            if outcome is not None:
                return outcome
            await asyncio.wrap_future(self._network.change(seen))

    async def close(self) -> None:
        """End all waits."""
        await super().close()
        self._way.close()


class Timeless(Runner):
    """A blocking runner whose sleeps take no time."""

    def __init__(self, wire: Wire, clock: Clock) -> None:
        super().__init__(wire)
        self._clock = clock

    def run(self, steps: Steps[T]) -> T:
        """As ``Runner.run``."""
        with closing(_timeless(steps, self._clock)) as changed:
            return super().run(changed)


class AsyncTimeless(AsyncRunner):
    """The same, for an event loop."""

    def __init__(self, wire: AsyncWire, clock: Clock) -> None:
        super().__init__(wire)
        self._clock = clock

    async def run(self, steps: Steps[T]) -> T:
        """As ``AsyncRunner.run``."""
        with closing(_timeless(steps, self._clock)) as changed:
            return await super().run(changed)


Changed = Generator[Any, Any, T]


def _timeless(steps: Steps[T], clock: Clock) -> Changed[T]:
    """Yield a call's effects. A sleep moves the clock instead."""

    def change(step: Any) -> Any:
        if isinstance(step, Sleep):
            clock.advance(step.wait_ms / 1000)
            return None
        return Background(_beside(step.steps)) if isinstance(step, Background) else step

    return _changing(steps, change)


def _beside(steps: Steps[T]) -> Changed[T]:
    """Yield the effects of background work: it waits for other calls to move the clock."""

    def change(step: Any) -> Any:
        if isinstance(step, Background):
            return Background(_beside(step.steps))
        return Beside(step) if isinstance(step, Send | Sleep) else step

    return _changing(steps, change)


def _changing(steps: Steps[T], change: Callable[[Any], Any]) -> Changed[T]:
    """Yield each effect as ``change`` returns it. None means that the effect is already over."""
    answer, error = None, None
    try:
        while True:
            step = change(steps.send(answer) if error is None else steps.throw(error))
            answer, error = None, None
            if step is not None:
                try:
                    answer = yield step
                except Exception as raised:  # noqa: BLE001 -- the call must get any error
                    error = raised
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
