"""Faults on real processes, disks and connections. Each ends after its time and restores the normal state."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

from tests.regions.chaos.callers import Sender
from tests.regions.chaos.machine import Machine
from tests.regions.chaos.schedule import ALL, PRIMARY, STORE_KINDS, Fault, Kind
from tests.replication import faults as store
from tkdb import api

TAKEOVER_S: Final = 12
"""The longest wait of a fault that needs a takeover."""
_MOVE_MS: Final = 6_000

_STORE_FAULTS: Final = {
    Kind.STALL: store.StoreFault.STALL,
    Kind.CUT: store.StoreFault.CUT,
    Kind.ERROR: store.StoreFault.ERROR,
    Kind.LOSE_ANSWER: store.StoreFault.LOSE_ANSWER,
    Kind.FORSAKE: store.StoreFault.FORSAKE,
}


class Faults:
    """Carries out faults.

    Args:
        machines: the machines by name.
        sender: the sender of requests to the machines, for planned moves.
        primary: returns the name of the machine that last reported that it is primary.
        stuck: called with a machine that didn't end after a stop signal.
    """

    def __init__(
        self,
        machines: dict[str, Machine],
        sender: Sender,
        primary: Callable[[], str],
        stuck: Callable[[Machine], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        """The number of faults of each kind."""
        self._machines = machines
        self._sender = sender
        self._primary = primary
        self._stuck = stuck

    async def carry_out(self, fault: Fault) -> None:
        """Carry out one fault, and return when it is over."""
        self.counts[fault.kind.value] += 1
        name = self._primary() if fault.target == PRIMARY else fault.target
        for_s = fault.for_ms / 1000
        if fault.kind in STORE_KINDS:
            affected = self._machines.values() if name == ALL else [self._machines[name]]
            await asyncio.gather(*(self._store_fault(machine, fault.kind, for_s) for machine in affected))
            return
        machine, other = self._machines[name], self._machines[fault.other]
        match fault.kind:
            case Kind.HAND_OVER:
                await self._call(machine, api.WRITE, api.HandOver(other.name))
            case Kind.PROMOTE:
                await self._call(other, api.SIGN, api.TakeOver())
            case Kind.ALL_DISKS:
                await self._all_disks(asyncio.sleep(0))
            case Kind.UNSYNCED_DISKS:
                await self._all_disks(self._unsynced(machine, for_s))
            case Kind.TAKEOVER_DISKS | Kind.STALLED_TAKEOVER_DISKS:
                stalled = fault.kind is Kind.STALLED_TAKEOVER_DISKS
                await self._all_disks(self._takeover(machine, for_s, stalled=stalled))
            case _:
                async with machine.process_lock:
                    await self._process_fault(machine, fault.kind, for_s)

    async def _store_fault(self, machine: Machine, kind: Kind, for_s: float) -> None:
        async with machine.store_lock:
            machine.proxy.fault = _STORE_FAULTS[kind]
            try:
                await asyncio.sleep(for_s)
            finally:
                machine.proxy.fault = store.StoreFault.NONE

    async def _process_fault(self, machine: Machine, kind: Kind, for_s: float) -> None:
        match kind:
            case Kind.PAUSE:
                await _paused(for_s, machine.send)
            case Kind.FREEZE:
                await _paused(for_s, machine.send, machine.send_litestream)
            case Kind.PAUSE_LITESTREAM:
                await _paused(for_s, machine.send_litestream)
            case Kind.KILL_LITESTREAM:
                machine.send_litestream(signal.SIGKILL)
            case Kind.STOP:
                if not await machine.stop():
                    self._stuck(machine)
                await asyncio.sleep(for_s)
                await machine.start()
            case Kind.KILL | Kind.LOSE_DISK:
                await machine.kill()
                if kind is Kind.LOSE_DISK:
                    machine.lose_disk()
                await asyncio.sleep(for_s)
                await machine.start()

    async def _all_disks(self, first: Coroutine[Any, Any, None]) -> None:
        """Await ``first``, then kill every machine and delete its disk at once: only the bucket is left."""
        async with _hold_all(machine.process_lock for machine in self._machines.values()):
            await first
            for machine in self._machines.values():
                machine.send(signal.SIGKILL)
            for machine in self._machines.values():
                await machine.kill()
                machine.lose_disk()
            for machine in self._machines.values():
                await machine.start()

    async def _unsynced(self, machine: Machine, for_s: float) -> None:
        """Pause the primary's Litestream and cut off the other machines: new writes reach the head and nothing else."""
        others = [other for other in self._machines.values() if other is not machine]
        machine.send_litestream(signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            for other in others:
                group.create_task(self._store_fault(other, Kind.CUT, for_s))

    async def _takeover(self, machine: Machine, for_s: float, *, stalled: bool) -> None:
        await machine.kill()
        others = [other for other in self._machines.values() if other is not machine]
        with suppress(TimeoutError):
            async with asyncio.timeout(TAKEOVER_S):
                while not await self._has_primary(others):
                    for other in others if stalled else ():
                        other.send_litestream(signal.SIGSTOP)
        await asyncio.sleep(for_s)

    async def _has_primary(self, machines: Iterable[Machine]) -> bool:
        await asyncio.sleep(0.02)
        for machine in machines:
            reply = await self._sender.send(machine, api.VERIFY, api.Status(), timeout_ms=200)
            if reply.error is None and reply.result.role == "primary":
                return True
        return False

    async def _call(self, machine: Machine, path: str, call: api.Call[Any]) -> None:
        reply = await self._sender.send(machine, path, call, timeout_ms=_MOVE_MS)
        if reply.error is not None:
            self.counts[f"{call.__struct_config__.tag} failed"] += 1


async def _paused(for_s: float, *signals: Callable[[signal.Signals], None]) -> None:
    try:
        for send in signals:
            send(signal.SIGSTOP)
        await asyncio.sleep(for_s)
    finally:
        for send in signals:
            send(signal.SIGCONT)


@asynccontextmanager
async def _hold_all(locks: Iterable[asyncio.Lock]) -> AsyncIterator[None]:
    """Hold all locks. They are taken in one order, so that there is no deadlock."""
    async with AsyncExitStack() as stack:
        for lock in locks:
            await stack.enter_async_context(lock)
        yield
