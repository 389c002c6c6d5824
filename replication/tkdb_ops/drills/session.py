"""A session of ``tkdb drill run``: several drills, one after another, on one target.

The next drill uses the same lab if every machine of it recovers. If not, the session opens a new lab.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import msgspec

from tkdb import errors
from tkdb_ops.drills.drill import Drill
from tkdb_ops.drills.objectives import Limits
from tkdb_ops.drills.report import Result
from tkdb_ops.drills.run import Pace, Running, Tell
from tkdb_ops.drills.target import Target
from tkdb_ops.drills.verdict import judge

Open = Callable[[], AbstractAsyncContextManager[Target]]


class FailedRun(msgspec.Struct, frozen=True):
    """A drill that could not be run, and the reason."""

    drill: Drill
    code: str
    message: str
    hint: str = ""


class Session:
    """A runner for drills.

    Args:
        open_target: makes a target, which is open inside its context.
        limits: the limits of the file.
        seed: the seed of each drill's load.
        tell: is called with each event when it happens.
        again: returns the command that runs a drill again, by the drill's name.
        pace: the durations and rates of each drill.

    Attributes:
        running: the drill that runs now; None if there is none.
    """

    def __init__(
        self,
        open_target: Open,
        limits: Limits,
        *,
        seed: int,
        tell: Tell,
        again: Callable[[str], str] = lambda name: "",
        pace: Pace | None = None,
    ) -> None:
        self.running: Running | None = None
        self._open_target = open_target
        self._limits = limits
        self._seed = seed
        self._tell = tell
        self._again = again
        self._pace = pace

    async def run(self, drills: Sequence[Drill]) -> AsyncGenerator[Result | FailedRun, None]:
        """Run the drills in order, and yield each result as soon as it is known."""
        stack, target = AsyncExitStack(), None
        async with AsyncExitStack() as outer:
            outer.push_async_callback(lambda: stack.aclose())
            for drill in drills:
                try:
                    if target is None:
                        target = await stack.enter_async_context(self._open_target())
                    yield await self._one(drill, target)
                except errors.ConfigurationError as error:
                    yield FailedRun(drill, error.code, error.message, error.hint)
                    if target is None:
                        return  # There is no target, and another attempt would fail in the same way.
                except errors.TkdbError as error:
                    yield FailedRun(drill, error.code, error.message, error.hint)
                    await stack.aclose()
                    stack, target = AsyncExitStack(), None
                finally:
                    self.running = None

    async def _one(self, drill: Drill, target: Target) -> Result:
        again = self._again(drill.name)
        self.running = Running(drill, target, seed=self._seed, tell=self._tell, pace=self._pace, again=again)
        record = await self.running.run()
        return Result(drill, record, judge(record, self._limits.objectives(drill.name, drill.limits)))
