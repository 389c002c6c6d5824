"""One run: machines, callers and faults together, until the time is over or a guarantee is violated."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from tests.regions.chaos import monitor as monitoring
from tests.regions.chaos.callers import Population, Reader, Sender, Writer, now_ms
from tests.regions.chaos.checks import Checks
from tests.regions.chaos.controls import CONTROLS, command
from tests.regions.chaos.faults import Faults
from tests.regions.chaos.machine import Machine
from tests.regions.chaos.monitor import HEAL_MS, Monitor, Stop
from tests.regions.chaos.report import Report
from tests.regions.chaos.schedule import MACHINES, Fault, Kind, storms
from tests.regions.cluster import Cluster
from tests.replication import seaweed
from tests.replication.faults import FaultyProxy
from tkdb import api
from tkdb_replication.bucket.settings import Bucket

FORSAKEN_MS: Final = 75_000
"""The extra time to heal if connections died silently: Litestream is killed after a minute without progress."""
CALM_S: Final = 4.0
WATCH_S: Final = 0.3
_ASK_MS: Final = 5_000
_ALL_DISKS: Final = Fault(Kind.ALL_DISKS, MACHINES[0], 0, 0, MACHINES[0])
"""The last fault: after it, every acknowledged write must be restored from the bucket alone."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    No storm starts after ``seconds``, or after ``storms`` storms. The run ends after the last storm and the final
    checks. Each of the ``writers`` pauses for ``pause_ms`` between writes, on average.
    """

    seconds: float
    seed: int
    control: str | None = None
    storms: int = 1_000_000
    writers: int = 4
    pause_ms: int = 120
    bound_ms: int = 4_000


class Chaos:
    """A run, as a context manager that ends every process on exit."""

    def __init__(self, plan: Plan, folder: Path, server: seaweed.Seaweed, log: Callable[[str], None]) -> None:
        self.plan = plan
        self.monitor = Monitor(plan.bound_ms, now_ms)
        self.report = Report(plan.seed, plan.control)
        self._draw = random.Random(plan.seed)
        self._folder = folder
        self._log = log
        self._server = server
        self._stack = ExitStack()
        self._population = Population()
        self._writers: list[Writer] = []
        self._primary = MACHINES[0]
        self._epoch = 0
        self._states: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Create the cluster. No machine runs yet."""
        bucket = seaweed.make_bucket(self._server)
        self._cluster = Cluster(self._folder, bucket, size=0)
        self._cluster.settings |= {
            "TKDB_BOUND_MS": str(self.plan.bound_ms),
            "TKDB_SIGNERS": _signers(self._cluster),
            "TMPDIR": str(self._folder),
        }
        self._cluster.run("init")
        self._machines = {name: self._machine(name, bucket) for name in MACHINES}
        return self

    def _machine(self, name: str, bucket: Bucket) -> Machine:
        proxy = self._stack.enter_context(FaultyProxy("127.0.0.1", self._server.port))
        node = self._cluster.node(name, self._server.bucket(bucket.name, proxy.url))
        if self.plan.control is not None:
            node.command = command(self.plan.control)
        machine = Machine(name, node, proxy)
        self._stack.callback(machine.end)
        return machine

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def run(self) -> Report:
        """Carry out the plan, and return the report."""
        began_ms = now_ms()
        sender = Sender(self._cluster.keys)
        background: list[asyncio.Task[None]] = []
        try:
            await asyncio.gather(*(machine.start() for machine in self._machines.values()))
            # Otherwise all machines wait for the lease of the head that `init` created.
            await sender.send(self._machines[self._primary], api.SIGN, api.TakeOver(), timeout_ms=_ASK_MS)
            over = asyncio.Event()
            writing = self._start_callers(sender, over, background)
            await self._storms(sender)
            over.set()
            await self._finish_writers(writing)
            checks = Checks(sender, self._cluster, self._machines, self._population, self.monitor)
            await checks.run()
            await self._faults.carry_out(_ALL_DISKS)
            await checks.run()
        except Stop:
            pass
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await sender.close()
        self._fill_report(began_ms)
        return self.report

    def _start_callers(
        self, sender: Sender, over: asyncio.Event, background: list[asyncio.Task[None]]
    ) -> list[asyncio.Task[None]]:
        """Start all callers, and return the tasks of the writers."""
        machines, population, monitor = list(self._machines.values()), self._population, self.monitor
        self._sender = sender
        self._writers = [
            Writer(
                number, sender, machines, population, monitor, random.Random(self._draw.random()), self.plan.pause_ms
            )
            for number in range(self.plan.writers)
        ]
        readers = [
            Reader(sender, machine, population, monitor, random.Random(self._draw.random()), timeout_ms)
            for machine in machines
            for timeout_ms in (1_500, 15_000)
        ]
        writing = [asyncio.create_task(writer.run(over)) for writer in self._writers]
        background += writing
        background += [asyncio.create_task(reader.run()) for reader in readers]
        background += [asyncio.create_task(self._watch(machine)) for machine in machines]
        background.append(asyncio.create_task(self._progress()))
        return writing

    # Storms, and the calm after each.

    async def _storms(self, sender: Sender) -> None:
        self._faults = Faults(self._machines, sender, lambda: self._primary, self._stuck)
        end_ms = now_ms() + self.plan.seconds * 1000
        await self._heal(now_ms(), HEAL_MS)
        for storm in self._schedule():
            if now_ms() >= end_ms or self.report.storms >= self.plan.storms:
                return
            self.report.storms += 1
            for fault in storm:
                self._log(f"       storm {self.report.storms}, {fault.at_ms / 1000:4.1f} s: {fault}")
            began_ms = now_ms()
            await self._storm(storm)
            forsaken = any(fault.kind is Kind.FORSAKE for fault in storm)
            await self._heal(began_ms, HEAL_MS + FORSAKEN_MS * forsaken)
            healed_ms = now_ms()
            await self._wait_for(asyncio.sleep(CALM_S))
            self.report.gap_outside_ms = max(self.report.gap_outside_ms, self._gap_ms(healed_ms))

    def _schedule(self) -> Iterator[list[Fault]]:
        if self.plan.control is None:
            return storms(self.plan.seed)
        return storms(self.plan.seed, CONTROLS[self.plan.control].kinds, faults_most=2)

    async def _storm(self, storm: list[Fault]) -> None:
        async def inject(fault: Fault) -> None:
            await asyncio.sleep(fault.at_ms / 1000)
            await self._faults.carry_out(fault)

        await self._wait_for(asyncio.gather(*(inject(fault) for fault in storm)))

    async def _heal(self, began_ms: int, within_ms: int) -> None:
        """Wait until writes are acknowledged again and every machine is fresh."""
        quiet_ms = now_ms()
        while not self._healthy(quiet_ms):
            if now_ms() - quiet_ms > within_ms:
                pending = sum(writer.pending for writer in self._writers)
                self.monitor.flag(monitoring.STUCK, f"after {within_ms} ms: {self._states}; {pending} writes wait")
            await self._wait_for(asyncio.sleep(0.1))
        self.report.healed_ms = max(self.report.healed_ms, now_ms() - quiet_ms)
        self.report.gap_in_faults_ms = max(self.report.gap_in_faults_ms, self._gap_ms(began_ms))

    def _healthy(self, since_ms: int) -> bool:
        sent = (write.attempts[-1].sent_ms for write in self.monitor.writes[-1:])
        return any(at_ms >= since_ms for at_ms in sent) and all(
            self._states.get(name) in ("primary", "fresh") for name in self._machines
        )

    def _gap_ms(self, began_ms: int) -> int:
        """Return the longest time without an acknowledged write since ``began_ms``."""
        times = [write.acknowledged_ms or 0 for write in self.monitor.writes]
        times = [began_ms, *(at_ms for at_ms in times if at_ms > began_ms), now_ms()]
        return max(later - earlier for earlier, later in pairwise(times))

    async def _wait_for(self, work: Awaitable[Any]) -> None:
        """Wait for ``work``, as long as there is no violation.

        Raises:
            Stop: there is a violation.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if self.monitor.violations:
                    raise Stop
                await asyncio.wait({task}, timeout=0.2)
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.monitor.violations:
            raise Stop

    # Watching.

    async def _watch(self, machine: Machine) -> None:
        """Poll a machine's status, and restart its process if it ended although no fault ended it."""
        while True:
            await asyncio.sleep(WATCH_S)
            if machine.ended and not machine.process_lock.locked():
                async with machine.process_lock:
                    self.report.unexpected_ends += 1
                    self._log(f"       {machine.name} ended unexpectedly with code {machine.node.process.returncode}")
                    await machine.start()
            reply = await self._sender.send(machine, api.VERIFY, api.Status(), timeout_ms=1_500)
            self._states[machine.name] = (
                "no answer" if reply.error else self._record_status(machine, reply.result, reply.attempt)
            )

    def _record_status(self, machine: Machine, status: api.StatusReport, attempt: monitoring.Attempt) -> str:
        if status.fault:
            return f"not fresh ({status.fault})"
        if status.cluster is not None:
            self._epoch = max(self._epoch, status.cluster.epoch)
        if status.role != "primary" or status.cluster is None:
            return "fresh"
        self._primary = machine.name
        self.monitor.record_primary(attempt.process, status.cluster.epoch)
        return "primary"

    async def _progress(self) -> None:
        began_ms = now_ms()
        while True:
            await asyncio.sleep(5)
            states = " ".join(
                f"{name} {self._states.get(name, 'no answer').partition(' (')[0]}" for name in self._machines
            )
            waiting = sum(writer.pending for writer in self._writers)
            self._log(
                f"{(now_ms() - began_ms) // 1000:>4} s  epoch {self._epoch:<3} "
                f"writes {len(self.monitor.writes):,} (+{waiting})  answers {self.monitor.answers.total():,}  {states}"
            )

    def _stuck(self, machine: Machine) -> None:
        self.monitor.flag(monitoring.STUCK, f"{machine.name} didn't end within 20 s after the stop signal")

    # The end of the run.

    async def _finish_writers(self, writing: Iterable[asyncio.Task[None]]) -> None:
        try:
            async with asyncio.timeout(HEAL_MS / 1000):
                await self._wait_for(asyncio.gather(*writing))
        except TimeoutError:
            self.monitor.flag(monitoring.STUCK, "a writer still waits")
            raise Stop from None

    def _fill_report(self, began_ms: int) -> None:
        report, monitor = self.report, self.monitor
        report.seconds = round((now_ms() - began_ms) / 1000, 1)
        report.faults = dict(self._faults.counts)
        report.epochs = self._epoch
        report.writes = len(monitor.writes)
        report.repeated = sum(writer.repeated for writer in self._writers)
        report.answers = dict(monitor.answers)
        kinds = Counter(violation.kind for violation in monitor.violations)
        report.lost, report.stale = kinds[monitoring.LOST], kinds[monitoring.STALE]
        report.violations = [f"at {each.at_ms - began_ms} ms: {each.kind}: {each.why}" for each in monitor.violations]


def _signers(cluster: Cluster) -> str:
    """Return the configuration of one signer with every permission."""
    key = cluster.keys.signer.public.text()
    may = ["mint", "revoke", "organizations", "promote"]
    return f'[[signer]]\nname = "operator"\nkey = "{key}"\norganizations = ["*"]\nmay = {json.dumps(may)}\n'
