"""One run: machines, callers and faults together, until the time is over or something happened that never must."""

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

from tests.regions.chaos import judge as judged
from tests.regions.chaos.callers import Line, Population, Reader, Writer, now_ms
from tests.regions.chaos.checks import Checks
from tests.regions.chaos.controls import CONTROLS, command
from tests.regions.chaos.faults import Faults
from tests.regions.chaos.judge import HEAL_MS, Judge, Stop
from tests.regions.chaos.machine import Machine
from tests.regions.chaos.report import Report
from tests.regions.chaos.schedule import MACHINES, Fault, Kind, storms
from tests.regions.cluster import Cluster
from tests.replication import seaweed
from tests.replication.faults import FaultyProxy
from tkdb import api
from tkdb_replication.bucket.settings import Bucket

FORSAKEN_MS: Final = 75_000
"""So much longer where connections died without a word: Litestream is killed once it got nowhere for a minute."""
CALM_S: Final = 4.0
WATCH_S: Final = 0.3
_ASK_MS: Final = 5_000
_ALL_DISKS: Final = Fault(Kind.ALL_DISKS, MACHINES[0], 0, 0, MACHINES[0])
"""At the end all that was acknowledged must be in the bucket alone."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    ``seconds`` is how long storms go on; the last one is waited for, and the checks at the end. ``storms`` ends it
    earlier. ``pause_ms`` is how long each of the ``writers`` rests between writes.
    """

    seconds: float
    seed: int
    control: str | None = None
    storms: int = 1_000_000
    writers: int = 4
    pause_ms: int = 120
    bound_ms: int = 4_000


class Chaos:
    """A run. Use it as a context: leaving it ends every process."""

    def __init__(self, plan: Plan, folder: Path, server: seaweed.Seaweed, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.judge = Judge(plan.bound_ms, now_ms)
        self.report = Report(plan.seed, plan.control)
        self._draw = random.Random(plan.seed)
        self._folder = folder
        self._tell = tell
        self._server = server
        self._stack = ExitStack()
        self._population = Population()
        self._writers: list[Writer] = []
        self._primary = MACHINES[0]
        self._epoch = 0
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Found the cluster. No machine runs yet."""
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
        """Run it."""
        began_ms = now_ms()
        line = Line(self._cluster.keys)
        background: list[asyncio.Task[None]] = []
        try:
            await asyncio.gather(*(machine.start() for machine in self._machines.values()))
            # Else all wait for the lease of the head that `init` has made.
            await line.ask(self._machines[self._primary], api.SIGN, api.TakeOver(), timeout_ms=_ASK_MS)
            over = asyncio.Event()
            writing = self._begin(line, over, background)
            await self._storms(line)
            over.set()
            await self._ended(writing)
            checks = Checks(line, self._cluster, self._machines, self._population, self.judge)
            await checks.run()
            await self._faults.carry_out(_ALL_DISKS)
            await checks.run()
        except Stop:
            pass
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await line.close()
        self._fill(began_ms)
        return self.report

    def _begin(self, line: Line, over: asyncio.Event, background: list[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
        """Start all who ask; return the tasks that write."""
        machines, people, judge = list(self._machines.values()), self._population, self.judge
        self._line = line
        self._writers = [
            Writer(number, line, machines, people, judge, random.Random(self._draw.random()), self.plan.pause_ms)
            for number in range(self.plan.writers)
        ]
        readers = [
            Reader(line, machine, people, judge, random.Random(self._draw.random()), timeout_ms)
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

    async def _storms(self, line: Line) -> None:
        self._faults = Faults(self._machines, line, lambda: self._primary, self._unwilling)
        end_ms = now_ms() + self.plan.seconds * 1000
        await self._heal(now_ms(), HEAL_MS)
        for storm in self._schedule():
            if now_ms() >= end_ms or self.report.storms >= self.plan.storms:
                return
            self.report.storms += 1
            for fault in storm:
                self._tell(f"       storm {self.report.storms}, {fault.at_ms / 1000:4.1f} s: {fault}")
            began_ms = now_ms()
            await self._storm(storm)
            forsaken = any(fault.kind is Kind.FORSAKE for fault in storm)
            await self._heal(began_ms, HEAL_MS + FORSAKEN_MS * forsaken)
            healed_ms = now_ms()
            await self._still(asyncio.sleep(CALM_S))
            self.report.gap_outside_ms = max(self.report.gap_outside_ms, self._gap_ms(healed_ms))

    def _schedule(self) -> Iterator[list[Fault]]:
        if self.plan.control is None:
            return storms(self.plan.seed)
        return storms(self.plan.seed, CONTROLS[self.plan.control].kinds, faults_most=2)

    async def _storm(self, storm: list[Fault]) -> None:
        async def happen(fault: Fault) -> None:
            await asyncio.sleep(fault.at_ms / 1000)
            await self._faults.carry_out(fault)

        await self._still(asyncio.gather(*(happen(fault) for fault in storm)))

    async def _heal(self, began_ms: int, within_ms: int) -> None:
        """Wait until writes are acknowledged and every machine is fresh again."""
        quiet_ms = now_ms()
        while not self._well(quiet_ms):
            if now_ms() - quiet_ms > within_ms:
                pending = sum(writer.pending for writer in self._writers)
                self.judge.flag(judged.STUCK, f"after {within_ms} ms: {self._said}; {pending} writes wait")
            await self._still(asyncio.sleep(0.1))
        self.report.healed_ms = max(self.report.healed_ms, now_ms() - quiet_ms)
        self.report.gap_in_faults_ms = max(self.report.gap_in_faults_ms, self._gap_ms(began_ms))

    def _well(self, since_ms: int) -> bool:
        asked = (write.attempts[-1].asked_ms for write in self.judge.writes[-1:])
        return any(at_ms >= since_ms for at_ms in asked) and all(
            self._said.get(name) in ("primary", "fresh") for name in self._machines
        )

    def _gap_ms(self, began_ms: int) -> int:
        """The longest time without an acknowledged write since then."""
        times = [write.acknowledged_ms or 0 for write in self.judge.writes]
        times = [began_ms, *(at_ms for at_ms in times if at_ms > began_ms), now_ms()]
        return max(later - earlier for earlier, later in pairwise(times))

    async def _still(self, work: Awaitable[Any]) -> None:
        """Wait for ``work``, as long as nothing happens that never must.

        Raises:
            Stop: something did.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if self.judge.violations:
                    raise Stop
                await asyncio.wait({task}, timeout=0.2)
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.judge.violations:
            raise Stop

    # Watching.

    async def _watch(self, machine: Machine) -> None:
        """Ask a machine how it is, and start it again where its process ended by itself."""
        while True:
            await asyncio.sleep(WATCH_S)
            if machine.ended and not machine.process_turn.locked():
                async with machine.process_turn:
                    self.report.ended_by_itself += 1
                    self._tell(f"       {machine.name} ended by itself with code {machine.node.process.returncode}")
                    await machine.start()
            reply = await self._line.ask(machine, api.VERIFY, api.Status(), timeout_ms=1_500)
            self._said[machine.name] = "silent" if reply.error else self._heard(machine, reply.result, reply.asked)

    def _heard(self, machine: Machine, status: api.StatusReport, asked: judged.Attempt) -> str:
        if status.fault:
            return f"not fresh ({status.fault})"
        if status.cluster is not None:
            self._epoch = max(self._epoch, status.cluster.epoch)
        if status.role != "primary" or status.cluster is None:
            return "fresh"
        self._primary = machine.name
        self.judge.leads(asked.process, status.cluster.epoch)
        return "primary"

    async def _progress(self) -> None:
        began_ms = now_ms()
        while True:
            await asyncio.sleep(5)
            said = " ".join(f"{name} {self._said.get(name, 'silent').partition(' (')[0]}" for name in self._machines)
            waiting = sum(writer.pending for writer in self._writers)
            self._tell(
                f"{(now_ms() - began_ms) // 1000:>4} s  epoch {self._epoch:<3} "
                f"writes {len(self.judge.writes):,} (+{waiting})  answers {self.judge.answers.total():,}  {said}"
            )

    def _unwilling(self, machine: Machine) -> None:
        self.judge.flag(judged.STUCK, f"{machine.name} didn't end within 20 s when it was told to")

    # The end: nothing is excused any more.

    async def _ended(self, writing: Iterable[asyncio.Task[None]]) -> None:
        try:
            async with asyncio.timeout(HEAL_MS / 1000):
                await self._still(asyncio.gather(*writing))
        except TimeoutError:
            self.judge.flag(judged.STUCK, "a writer still waits")
            raise Stop from None

    def _fill(self, began_ms: int) -> None:
        report, judge = self.report, self.judge
        report.seconds = round((now_ms() - began_ms) / 1000, 1)
        report.faults = dict(self._faults.counts)
        report.epochs = self._epoch
        report.writes = len(judge.writes)
        report.repeated = sum(writer.repeated for writer in self._writers)
        report.answers = dict(judge.answers)
        kinds = Counter(violation.kind for violation in judge.violations)
        report.lost, report.stale = kinds[judged.LOST], kinds[judged.STALE]
        report.violations = [f"at {each.at_ms - began_ms} ms: {each.kind}: {each.why}" for each in judge.violations]


def _signers(cluster: Cluster) -> str:
    """One signer who may do everything."""
    key = cluster.keys.signer.public.text()
    may = ["mint", "revoke", "organizations", "promote"]
    return f'[[signer]]\nname = "operator"\nkey = "{key}"\norganizations = ["*"]\nmay = {json.dumps(may)}\n'
