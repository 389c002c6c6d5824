"""The lab as a target of drills: real processes in emulated regions on one machine, and faults made with Linux."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tkdb import defaults, errors
from tkdb.journal.seal import KEY_BYTES, SealKey
from tkdb_client import AsyncClient, Macaroon
from tkdb_ops.drills.audit import ask
from tkdb_ops.drills.drill import Drill, Step, Verb
from tkdb_ops.drills.operator import ERRANDS
from tkdb_ops.drills.record import Audit, MachineRecord, Observation
from tkdb_ops.flycast import machines as flycast
from tkdb_ops.flycast.layout import CLIENT
from tkdb_ops.lab.lab import APP, Lab
from tkdb_ops.lab.store_proxy import StoreFault
from tkdb_ops.opening import AsyncResource

REGIONS: Final = ("iad", "ams", "syd")
CALLERS: Final = ("sin", "lhr", "iad")
"""The callers' regions. Sydney serves Singapore, and Amsterdam serves London; the third is the primary's own region."""

_READY_S: Final = 90.0
_ASK_MS: Final = 5_000
_PATIENCE_MS: Final = 10_000
_LOOKS_S: Final = 0.2
_LED_S: Final = 30.0
_AUDIT_S: Final = 30.0
_PRIORITY: Final = -10
_OF_THE_NETWORK: Final = frozenset({Verb.ISOLATE})
_UNKNOWN_HERE: Final = frozenset({Verb.CORDON, Verb.UNCORDON})
VERBS: Final = frozenset(Verb) - _UNKNOWN_HERE - ERRANDS - {Verb.WAIT, Verb.TAKEOVER}
"""The actions that a lab can carry out. It can't carry out ``isolate`` if regions have no separate networks."""


class OnLab(AsyncResource):
    """A lab to run drills on.

    Args:
        lab: a lab that isn't open yet.
        bound_ms: the machines' bound on staleness.
    """

    name = "lab"

    def __init__(self, lab: Lab, *, bound_ms: int = defaults.BOUND_MS) -> None:
        self.bound_ms = bound_ms
        self.machines: tuple[MachineRecord, ...] = tuple(
            MachineRecord(slot.id, slot.region) for slot in lab.flycast.layout.of_app(APP)
        )
        self.clients: dict[str, AsyncClient] = {}
        self._lab = lab
        self._direct: dict[str, AsyncClient] = {}
        self._paused: set[str] = set()
        self._full: dict[str, tuple[int, int]] = {}

    @property
    def verbs(self) -> frozenset[Verb]:
        missing = _OF_THE_NETWORK if self._lab.flycast.not_emulated else frozenset()
        return VERBS - missing

    async def ready(self) -> None:
        await self.put_back()
        first = self.machines[0]
        try:
            async with asyncio.timeout(_READY_S):
                while not await self._is_ready(first.id):  # noqa: ASYNC110  there is no event to wait for
                    await asyncio.sleep(_LOOKS_S)
        except TimeoutError:
            said = ", ".join(f"{each.machine} {each.role} {each.health} {each.fault}" for each in await self.sights(0))
            raise errors.Unavailable(
                f"the lab hasn't recovered after {_READY_S:.0f} s: {said}", hint=f"see the logs in {self._lab.folder}"
            ) from None

    async def sights(self, at_ms: int) -> list[Observation]:
        return [
            Observation(at_ms, each.machine, each.health, each.role, each.seq, each.epoch, each.age_ms, each.fault)
            for each in await self._lab.status()
        ]

    async def carry_out(self, step: Step, machines: Sequence[MachineRecord]) -> str:
        if step.verb is Verb.RESEAL:
            return await self._reseal()
        if step.verb is Verb.HEAL:
            await self._lab.heal()
            return "all network paths are restored"
        do = self._act(step)
        await asyncio.gather(*(do(machine) for machine in machines))
        return f"{_SAID[step.verb]}: {', '.join(machine.id for machine in machines)}"

    async def put_back(self) -> None:
        await self._lab.heal()
        for name in list(self._paused):
            await self._resume(name)
        for name in list(self._full):
            self._free(name)
        for region in self._lab.flycast.layout.regions:
            await self._lab.flycast.start_proxy(region)
        await asyncio.gather(*(self._lab.machine(each.id).start() for each in self.machines))

    async def audit(
        self, dead: Mapping[int, Macaroon], organizations: Sequence[str], patience_s: float
    ) -> tuple[Audit, ...]:
        await self._level(patience_s)
        found = []
        for machine in self.machines:
            audit = await ask(machine.id, self._direct[machine.id], dead, organizations, patience_s)
            found.append(await self._with_journal(audit))
        return tuple(found)

    # The actions.

    def _act(self, step: Step) -> Callable[[MachineRecord], Awaitable[None]]:
        acts: dict[Verb, Callable[[MachineRecord], Awaitable[None]]] = {
            Verb.KILL: lambda each: self._of(each).kill(),
            Verb.STOP: lambda each: self._of(each).stop(),
            Verb.START: lambda each: self._of(each).start(),
            Verb.PAUSE: self._pause,
            Verb.RESUME: lambda each: self._resume(each.id),
            Verb.LOSE_PROXY: self._lose_proxy,
            Verb.START_PROXY: lambda each: self._lab.flycast.start_proxy(each.region),
            Verb.ISOLATE: lambda each: self._lab.isolate(each.region),
            Verb.CUT_STORE: lambda each: self._change(each, fault=StoreFault.CUT),
            Verb.STALL_STORE: lambda each: self._change(each, fault=StoreFault.STALL),
            Verb.SLOW_STORE: lambda each: self._change(each, slower_ms=step.amount),
            Verb.SHIFT_CLOCK: lambda each: self._change(each, clock_ms=step.amount),
            Verb.KILL_LITESTREAM: self._kill_litestream,
            Verb.DAMAGE: self._damage,
            Verb.LOSE_DISK: self._lose_disk,
            Verb.FILL_DISK: self._fill,
            Verb.FREE_DISK: self._free_disk,
        }
        return acts[step.verb]

    def _of(self, machine: MachineRecord) -> flycast.VirtualMachine:
        return self._lab.machine(machine.id)

    async def _change(
        self, machine: MachineRecord, *, fault: StoreFault = StoreFault.NONE, slower_ms: float = 0, clock_ms: int = 0
    ) -> None:
        self._lab.gates[machine.region].change(fault=fault, slower_ms=slower_ms, clock_ms=clock_ms)

    async def _pause(self, machine: MachineRecord) -> None:
        self._paused.add(machine.id)
        await self._of(machine).pause()

    async def _resume(self, name: str) -> None:
        self._paused.discard(name)
        if self._lab.machine(name).running:
            await self._lab.machine(name).resume()

    async def _lose_proxy(self, machine: MachineRecord) -> None:
        proxy = self._lab.flycast.proxy(machine.region)
        await proxy.send(signal.SIGKILL)
        await proxy.wait()

    async def _kill_litestream(self, machine: MachineRecord) -> None:
        for pid in _processes(self._of(machine).folder, "litestream"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _damage(self, machine: MachineRecord) -> None:
        """Overwrite everything but the first page, as a faulty disk might. The journal's own check must detect this."""
        database = self._database(machine.id)
        database.with_name(f"{database.name}-wal").unlink(missing_ok=True)
        with database.open("r+b") as file:
            first = file.read(100)
            page = int.from_bytes(first[16:18]) or 4_096  # https://www.sqlite.org/fileformat2.html#page_size
            size = 65_536 if page == 1 else page
            file.seek(size)
            file.write(os.urandom(max(0, database.stat().st_size - size)))

    async def _lose_disk(self, machine: MachineRecord) -> None:
        for path in self._of(machine).folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    async def _fill(self, machine: MachineRecord) -> None:
        """Stop the machine's process from extending any file, as on a full disk, by the kernel's limit on file size."""
        (pid, *_) = _processes(self._of(machine).folder, "serve") or [0]
        if not pid:
            raise errors.Unavailable(f"{machine.id} isn't running", hint="run the drill again")
        self._full[machine.id] = (pid, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1])
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, self._full[machine.id][1]))

    async def _free_disk(self, machine: MachineRecord) -> None:
        self._free(machine.id)

    def _free(self, name: str) -> None:
        pid, most = self._full.pop(name, (0, 0))
        if pid:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

    async def _reseal(self) -> str:
        """Roll out a new sealing secret in second place, then in first place, and reseal all records under it.

        As an operator would, go on to the next machine only when there is a primary.
        """
        lab, client = self._lab, next(iter(self.clients.values()))
        old, new = lab.settings["TKDB_SEAL_KEYS"], SealKey(os.urandom(KEY_BYTES)).text()
        for keys in (f"{old},{new}", f"{new},{old}"):
            lab.settings["TKDB_SEAL_KEYS"] = keys
            for machine in reversed(self.machines):
                await self._of(machine).stop()
                await self._of(machine).start()
                await self._until_led()
        count = await client.reseal()
        return f"a new sealing secret is rolled out, and {count} records are sealed under it"

    # The state of the lab.

    async def _open(self) -> None:
        lab = await self._stack.enter_async_context(self._lab)
        for region in dict.fromkeys(slot.region for slot in lab.flycast.layout.of_app(CLIENT)):
            self.clients[region] = await self._client(await lab.flycast.door(region))
        for machine in self.machines:
            direct = await lab.direct(machine.id, signer=lab.keys.signer, timeout_ms=_ASK_MS)
            self._direct[machine.id] = await self._stack.enter_async_context(direct)
        self._hurry()

    async def _until_led(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LED_S):
                while True:
                    if any(each.role == "primary" and each.health == "ok" for each in await self.sights(0)):
                        return
                    await asyncio.sleep(_LOOKS_S)

    def _hurry(self) -> None:
        """Raise this process's priority until the end, if it may.

        The network paths to the store and into the regions lead through this process, so they seem slow while it waits
        for a processor. The processes that it has started keep their priority.
        """
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
            self._stack.callback(os.setpriority, os.PRIO_PROCESS, 0, usual)

    async def _is_ready(self, first: str) -> bool:
        """Return True if all machines are healthy and ``first`` is primary. If another one is, ask for a handover."""
        found = {each.machine: each for each in await self.sights(0)}
        if any(each.health != "ok" for each in found.values()):
            return False
        if found[first].role != "primary":
            with suppress(errors.TkdbError):
                await next(iter(self.clients.values())).hand_over(first)
            return False
        names = {each.id for each in self.machines}
        seen = [await self._lab.flycast.seen(region) for region in self._lab.flycast.layout.regions]
        return all(each == names for each in seen)

    async def _level(self, patience_s: float) -> None:
        """Wait until every machine is healthy, and all have the same position; for ``patience_s`` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while True:
                    found = await self.sights(0)
                    if {each.health for each in found} == {"ok"} and len({each.seq for each in found}) == 1:
                        return
                    await asyncio.sleep(_LOOKS_S)

    async def _with_journal(self, audit: Audit) -> Audit:
        arguments = ["-m", "tkdb.cli", "audit", "verify", str(self._database(audit.machine))]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TKDB_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments,
            env=environment | {"TKDB_SEAL_KEYS": self._lab.settings["TKDB_SEAL_KEYS"]},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _AUDIT_S)
        except TimeoutError:
            process.kill()
            return msgspec.structs.replace(audit, sound=False, said=f"its audit takes longer than {_AUDIT_S:g} s")
        sound = process.returncode == 0
        words = "" if sound else said.decode(errors="replace").strip()[-300:]
        return msgspec.structs.replace(audit, sound=sound, said=" ".join(filter(None, (audit.said, words))))

    def _database(self, name: str) -> Path:
        return self._lab.machine(name).folder / "tkdb.db"

    async def _client(self, url: str, timeout_ms: int = _PATIENCE_MS) -> AsyncClient:
        keys = self._lab.keys
        client = AsyncClient(url, keys.identity, signer=keys.signer, timeout_ms=timeout_ms, bound_ms=self.bound_ms)
        return await self._stack.enter_async_context(client)


_SAID: Final = {
    Verb.KILL: "killed",
    Verb.STOP: "stopped",
    Verb.START: "started",
    Verb.PAUSE: "paused",
    Verb.RESUME: "resumed",
    Verb.LOSE_PROXY: "killed the proxy in the region of",
    Verb.START_PROXY: "started the proxy in the region of",
    Verb.ISOLATE: "cut off from everything",
    Verb.CUT_STORE: "the object store is down for",
    Verb.STALL_STORE: "the object store doesn't answer",
    Verb.SLOW_STORE: "the object store is slow for",
    Verb.SHIFT_CLOCK: "the object store's clock is wrong for",
    Verb.KILL_LITESTREAM: "Litestream is killed on",
    Verb.DAMAGE: "the database is overwritten on",
    Verb.LOSE_DISK: "the disk is deleted on",
    Verb.FILL_DISK: "the disk is full on",
    Verb.FREE_DISK: "the disk has room again on",
}
"""The description of each action, which precedes the machines' names."""


def can(drill: Drill) -> bool:
    """Return True if a lab with separate networks can run the drill."""
    return drill.verbs <= VERBS | ERRANDS


def lab_on(folder: Path) -> Lab:
    """Return a lab with the regions that drills use. It isn't open yet."""
    return Lab(folder, REGIONS, CALLERS)


def _processes(folder: Path, word: str) -> list[int]:
    """Return the processes that run in ``folder`` or name it, and have ``word`` as an argument or as a path's end."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            works_there = str(folder) in str((entry / "cwd").readlink()) or any(
                str(folder) in each for each in arguments
            )
            if works_there and any(each.rpartition("/")[2] == word for each in arguments):
                found.append(int(entry.name))
    return sorted(found)
