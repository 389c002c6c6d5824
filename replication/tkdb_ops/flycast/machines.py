"""Machines: an app's programs, which can be started, stopped, killed and paused.

``start`` and ``stop`` do the same as Fly's planned starts and stops. ``kill`` emulates a machine that is lost, and
``pause`` a machine that hangs. Traffic starts neither of these again.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tkdb import errors
from tkdb_ops.flycast import health_check
from tkdb_ops.flycast.addresses import Endpoint
from tkdb_ops.flycast.environment import WORKER, Environment, Process, Program
from tkdb_ops.flycast.layout import App, Slot

START_S: Final = 60
KILL_S: Final = 30
"""How long a stopped machine may drain, like ``kill_timeout`` in fly.toml."""

_PROBES_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Command:
    """The command that a machine runs.

    Args:
        arguments: the program and its arguments.
        environment: variables in addition to those that Fly sets (FLY_REGION, FLY_MACHINE_ID …) and PATH.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)  # it has the authority's secrets


Run = Callable[["VirtualMachine"], Command]
"""A function that returns a machine's command. It is called at each start."""


class VirtualMachine:
    """One machine.

    Args:
        slot: the machine's name, app and region.
        app: the configuration of its app.
        ground: the ground on which it runs.
        run: returns its command.
        folder: its working folder. Files there survive the machine, like those of a volume.
        log: the file for its stdout and stderr.
        environment: the variables that Fly sets.
        mounts: pairs of a file, and the path at which the machine sees it.
    """

    def __init__(
        self,
        slot: Slot,
        app: App,
        ground: Environment,
        run: Run,
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        mounts: Sequence[tuple[Path, Path]] = (),
    ) -> None:
        self.slot = slot
        self.folder = folder
        self.log = log
        self.bind: Endpoint = ground.addresses.bind(slot)
        self.starts = 0
        self._app = app
        self._ground = ground
        self._run = run
        self._environment = environment
        self._mounts = mounts
        self._process: Process | None = None
        self._lost = False
        self._moving = asyncio.Lock()

    @property
    def id(self) -> str:
        """The machine's name, as in ``fly-replay: instance=…``."""
        return self.slot.id

    @property
    def running(self) -> bool:
        """True if its program runs. A paused program counts as running."""
        return self._process is not None and self._process.running

    @property
    def exit_code(self) -> int | None:
        """The exit code of its last program; for a signal, the negative number. None while it runs or has never run."""
        return None if self._process is None else self._process.exit_code

    @property
    def startable(self) -> bool:
        """True if traffic may start it: it was stopped, or never started, or its program ended without a kill."""
        return not self.running and not self._lost

    async def start(self) -> None:
        """Start the machine if it doesn't run, and return once its health check passes.

        Raises:
            Unavailable: its program ended, or its check doesn't pass in time.
        """
        async with self._moving:
            if not self.running:
                await self._start()
            await self._until_well()

    async def stop(self) -> None:
        """Stop the machine as Fly does: SIGTERM, then SIGKILL if it doesn't end within KILL_S."""
        async with self._moving:
            await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill all of its processes with SIGKILL, as if its host were lost. Only ``start`` starts it again."""
        self._lost = True
        await self._end(signal.SIGKILL)

    async def pause(self) -> None:
        """Make the machine hang (SIGSTOP): it accepts connections, but answers nothing."""
        await self._running.send(signal.SIGSTOP)

    async def resume(self) -> None:
        """Resume the machine (SIGCONT)."""
        await self._running.send(signal.SIGCONT)

    async def healthy(self) -> bool:
        """Return True if its health check passes now."""
        status = await self.status(self._app.check)
        return status is not None and 200 <= status < 300

    async def status(self, path: str) -> int | None:
        """Return the HTTP status of a GET, sent directly to the machine like a proxy's check; None if none comes."""
        place, where = WORKER + self.slot.region, self._ground.addresses.local(self.slot)
        return await health_check.status(self._ground, place, where, path)

    async def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self._run(self)
        environment = {**self._environment, **command.environment}
        program = Program(command.arguments, environment, self.folder, self.log, self._mounts)
        self._lost = False
        self._process = await self._ground.spawn(self.id, program)
        self.starts += 1

    async def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None or not process.running:
            return
        await process.send(number)
        try:
            await asyncio.wait_for(process.wait(), KILL_S)
        except TimeoutError:
            await process.send(signal.SIGKILL)
            await process.wait()

    async def _until_well(self) -> None:
        try:
            async with asyncio.timeout(START_S):
                while not await self.healthy():
                    if not self.running:
                        raise errors.Unavailable(f"{self.id} ended as it started", hint=f"its output: {self._said()}")
                    await asyncio.sleep(_PROBES_S)
        except TimeoutError:
            raise errors.Unavailable(
                f"{self.id} doesn't pass its check {self._app.check} in {START_S} s", hint=f"its output: {self._said()}"
            ) from None

    def _said(self) -> str:
        return self.log.read_text("utf-8", "replace")[-500:].strip() or "nothing"

    @property
    def _running(self) -> Process:
        if self._process is None or not self._process.running:
            raise errors.Unavailable(f"{self.id} isn't running", hint="start it")
        return self._process
