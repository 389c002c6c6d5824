"""Runners carry out the effects of calls: one blocks its thread, and the other awaits.

Both do four things: send, sleep, begin work in the background, and wait for another call. Background work runs in
daemon threads, or in tasks of the call's event loop. It ends when it is done, because an attempt has a timeout, or when
the client is closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from tkdb.errors import TkdbError, Unavailable
from tkdb_client.calls.effects import Background, Join, Sleep, Steps
from tkdb_client.calls.per_loop import PerLoop, running_loop
from tkdb_client.calls.transport import AsyncTransport, Transport

T = TypeVar("T")

CLOSE_S: Final = 2
"""The longest time that closing waits for background work. Its connections are cut, so it usually ends sooner."""


class Runner:
    """Carries out effects in the calling thread. Any number of threads may share it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._closed = threading.Event()
        self._beside: set[Future[Any]] = set()

    @property
    def is_open(self) -> bool:
        """Whether it isn't closed."""
        return self._transport.is_open

    @staticmethod
    def place() -> None:
        """Return the place in which the caller runs. All threads are one place."""

    def run(self, steps: Steps[T]) -> T:
        """Carry out ``steps`` to their end. Return their result."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self._closed.wait(step.wait_ms / 1000)  # after closing, the next send ends the call
                    step = next(steps)
                elif isinstance(step, Background):
                    self._begin(step.steps)
                    step = next(steps)
                elif isinstance(step, Join):
                    step = steps.send(bool(wait([step.other], step.timeout_ms / 1000).done))
                else:
                    step = steps.send(self._transport.post(step))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()  # other calls may wait for work that it has begun

    def run_all(self, many: Sequence[Steps[T]]) -> list[T]:
        """Carry out all of them concurrently. Return their results, in order."""
        return [future.result() for future in [self._begin(steps) for steps in many]]

    def close(self) -> None:
        """Close the connections, and end background work. Calls in progress fail."""
        self._closed.set()
        self._transport.close()
        wait(list(self._beside), CLOSE_S)

    def abandon(self) -> None:
        """Close it, and leave every connection to the parent process. For the child of a fork."""
        self._transport.abandon()  # Nothing else: locks may be held by threads of the parent.

    def _begin(self, steps: Steps[T]) -> Future[T]:
        future: Future[T] = Future()
        self._beside.add(future)
        future.add_done_callback(self._beside.discard)

        def work() -> None:
            try:
                future.set_result(self.run(steps))
            except TkdbError as error:
                future.set_exception(error)
            except BaseException as error:
                future.set_exception(error)
                raise

        try:
            threading.Thread(target=work, name="tkdb-client", daemon=True).start()
        except RuntimeError:  # there are too many threads, or the interpreter is ending
            future.set_exception(Unavailable("no thread could be started", hint="try again"))
        return future


@dataclass(slots=True)
class _Work:
    """The work of one event loop: its background tasks, and all calls in progress."""

    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    calls: set[Steps[Any]] = field(default_factory=set)


class AsyncRunner:
    """Carries out effects in event loops. Each call, with its background work, belongs to one loop."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._work = PerLoop[_Work](_Work, _end_work)

    @property
    def is_open(self) -> bool:
        """Whether it isn't closed."""
        return self._work.is_open

    @staticmethod
    def place() -> asyncio.AbstractEventLoop:
        """Return the place in which the caller runs: its event loop."""
        return running_loop()

    async def run(self, steps: Steps[T]) -> T:
        """Carry out ``steps`` to their end, awaiting. Return their result.

        Raises:
            ConfigurationError: the client is closed, or no event loop of asyncio is running.
        """
        calls = self._work.here().calls
        calls.add(steps)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.wait_ms / 1000)
                    step = next(steps)
                elif isinstance(step, Background):
                    self._begin(step.steps)
                    step = next(steps)
                elif isinstance(step, Join):
                    step = steps.send(await _done(step))
                else:
                    step = steps.send(await self._transport.post(step))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            calls.discard(steps)
            steps.close()  # other calls may wait for work that it has begun

    async def run_all(self, many: Sequence[Steps[T]]) -> list[T]:
        """Carry out all of them concurrently. Return their results, in order."""
        running_loop()
        return list(await asyncio.gather(*map(self.run, many)))

    async def close(self) -> None:
        """Close the connections, and end background work. Calls in progress fail."""
        tasks = self._work.here().tasks if self._work.is_open else set()
        await self._work.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._transport.close()

    def abandon(self) -> None:
        """Close it, and leave every connection to the parent process. For the child of a fork."""
        self._work.abandon()
        self._transport.abandon()

    def _begin(self, steps: Steps[T]) -> None:
        tasks = self._work.here().tasks

        def ended(task: asyncio.Task[Any]) -> None:
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, TkdbError):
                raise error  # The loop's handler gets it, because no caller may wait for it.

        task = asyncio.get_running_loop().create_task(self.run(steps))
        tasks.add(task)  # the loop itself keeps no reference
        task.add_done_callback(ended)


def _end_work(work: _Work, works: bool) -> None:
    """End the work of a loop. If the loop doesn't work any more, its calls end here: other loops share what they
    hold."""
    if works:
        for task in list(work.tasks):
            task.cancel()
        return
    for steps in list(work.calls):
        with suppress(TkdbError):
            steps.close()


async def _done(join: Join) -> bool:
    """Return True if the awaited future is done in time. It completes in this event loop."""
    if join.other.done():
        return True
    here: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # this event loop was closed
            if not here.done():
                here.set_result(None)

    join.other.add_done_callback(note)
    ended, _ = await asyncio.wait([here], timeout=join.timeout_ms / 1000)
    return bool(ended)
