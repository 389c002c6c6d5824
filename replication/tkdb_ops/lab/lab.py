"""The complete lab: an object store, keys, a cluster, and its machines in regions behind the stand-in for flycast.

::

    with claimed(folder):
        async with Lab(folder, ("iad", "ams", "syd"), ("sin",)) as lab:
            client = AsyncClient(lab.url, lab.keys.identity, signer=lab.keys.signer)   # as in Singapore: syd answers
            await lab.machine("tkdb-syd-1").kill()                                     # now ams answers

Everything ends when the ``async with`` block ends, or when this process ends in any way.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from tkdb import errors
from tkdb.extras import install_hint
from tkdb_client import AsyncClient
from tkdb_ops.flycast.flycast import CommandResult, Flycast
from tkdb_ops.flycast.layout import App
from tkdb_ops.flycast.machines import Command, VirtualMachine
from tkdb_ops.flycast.regions import round_trip_ms
from tkdb_ops.lab import object_store
from tkdb_ops.lab.direct import Direct
from tkdb_ops.lab.keys import Keys
from tkdb_ops.lab.store_proxy import StoreFault, StoreProxy
from tkdb_ops.opening import AsyncResource
from tkdb_replication.bucket.settings import Bucket

APP: Final = "tkdb"
_ASK_MS: Final = 1_000
_TKDB: Final = (sys.executable, "-m", "tkdb.cli")


class Standing(msgspec.Struct, frozen=True):
    """The state of a machine. A value that isn't known is None or empty.

    Attributes:
        health: ``ok``; ``faulty``, with the reason in ``fault``; ``silent`` if it runs but doesn't answer; or ``down``.
        lag: the number of entries that another machine serves and this one doesn't.
        requests: the number of requests that the proxy next to it has sent to it.
        is_current: False if the machine hasn't read the head within its bound, so that its role is unknown.
        serves: the callers' regions that send it their requests now.
    """

    region: str
    machine: str
    health: str
    role: str = ""
    seq: int | None = None
    lag: int | None = None
    age_ms: int | None = None
    fault: str = ""
    requests: int | None = None
    serves: tuple[str, ...] = ()
    epoch: int | None = None
    is_current: bool = True


class Lab(AsyncResource):
    """A cluster with one machine in each region.

    Args:
        folder: the folder for its keys, volumes, objects and logs. It must exist and be empty.
        regions: the regions of machines; the first is the primary's.
        clients: the regions of callers; ``url`` is the door of the first.
        isolated: as in ``Flycast``.
        settings: additional variables for the machines.
        progress: is called with a description of each part that has started.
        program: the command with which machines serve.

    Attributes:
        gates: for each region, its path to the object store. The store is as far away as the first region.
        settings: the variables that each machine gets at its next start.
    """

    def __init__(
        self,
        folder: Path,
        regions: tuple[str, ...],
        clients: tuple[str, ...],
        *,
        isolated: bool | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        progress: Callable[[str], None] = lambda what: None,
        program: Sequence[str] = (*_TKDB, "serve", "--json"),
    ) -> None:
        if not clients:
            raise errors.ConfigurationError("a lab needs a caller", hint="name a region in --clients")
        self.folder = folder
        self.keys = Keys.generate(os.urandom)
        self.url = ""
        """The URL at which this machine's programs reach the authority, as if from the first region of callers."""
        self.flycast = Flycast(
            {App(APP, regions): self._serve},
            clients=clients,
            isolated=isolated,
            volumes=folder / "volumes",
            start=False,
        )
        self.gates: dict[str, StoreProxy] = {}
        self.settings = dict(settings)
        self._regions = regions
        self._clients = clients
        self._progress = progress
        self._program = program
        self._stores: dict[str, str] = {}
        self._asking: dict[str, AsyncClient] = {}

    @property
    def signer_file(self) -> Path:
        """The path of the file with the signer's secret."""
        return self.folder / "signer.key"

    def exports(self) -> dict[str, str]:
        """Return the variables with which any program on this machine reaches the authority."""
        return {
            "TKDB_URL": self.url,
            "TKDB_AUTHORITY": self.keys.identity.text(),
            "TKDB_SIGNER_FILE": str(self.signer_file),
        }

    def machine(self, name: str) -> VirtualMachine:
        """Return a machine, by its name or by its region.

        Raises:
            ConfigurationError: there is no such machine.
        """
        found = self.flycast.machines.get(name) or self.flycast.machines.get(f"{APP}-{name}-1")
        if found is None:
            hint = "there is " + " ".join(self.flycast.machines)
            raise errors.ConfigurationError(f"the lab has no machine {name!r:.40}", hint=hint)
        return found

    async def client(self, region: str) -> AsyncClient:
        """Return a client for an app in ``region``, with the key of the lab's signer.

        Raises:
            ConfigurationError: there is no caller in that region.
        """
        return AsyncClient(await self.flycast.door(region), self.keys.identity, signer=self.keys.signer)

    async def status(self) -> list[Standing]:
        """Return the state of every machine, asked past all proxies and cuts, with its traffic at the proxies."""
        found = await asyncio.gather(*map(self._ask, self.flycast.machines.values()))
        served_in = {region: await self._served_in(region) for region in self._clients}
        last = max((each.seq for each in found if each.seq is not None), default=0)
        return [
            msgspec.structs.replace(
                each,
                lag=None if each.seq is None else last - each.seq,
                requests=await self._requests(each.machine),
                serves=tuple(region for region in self._clients if served_in[region] == each.region),
            )
            for each in found
        ]

    async def direct(self, name: str, **settings: Any) -> AsyncClient:
        """Return a client of one machine, past all proxies and cuts. ``settings`` are arguments of ``AsyncClient``.

        Raises:
            ConfigurationError: there is no such machine.
        """
        url, attest = await self.flycast.direct(name), partial(self.flycast.attestation, name)
        return Direct(url, self.keys.identity, attest=attest, **settings)

    async def isolate(self, region: str) -> None:
        """Drop every packet to and from a region, including those to the object store.

        Raises:
            ConfigurationError: there is no such region, or no backbone.
        """
        await self.flycast.backbone.isolate(region)
        if region in self.gates:
            self.gates[region].change(fault=StoreFault.STALL)

    async def heal(self) -> None:
        """Restore the network paths between regions and to the object store."""
        for gate in self.gates.values():
            gate.change()
        if not self.flycast.not_emulated:
            await self.flycast.backbone.heal()

    def environment(self, region: str) -> dict[str, str]:
        """Return the variables of all machines in a region, including secrets."""
        return self.settings | {"AWS_ENDPOINT_URL_S3": self._stores[region]}

    async def run(self, region: str, arguments: Sequence[str]) -> CommandResult:
        """Run a program as the caller in ``region``. Return its output and exit code once it has ended.

        Raises:
            ConfigurationError: there is no caller in that region.
        """
        environment = self.exports() | {"TKDB_URL": self.flycast.url(APP, region)}
        return await self.flycast.run(region, arguments, environment)

    async def _open(self) -> None:
        program = object_store.weed()
        if program is None:
            raise errors.ConfigurationError("there is no SeaweedFS", hint=install_hint("lab"))
        self.signer_file.touch(mode=0o600)
        self.signer_file.write_text(self.keys.signer.text() + "\n", "ascii")
        objects = self.folder / "store"
        objects.mkdir()
        server = self._stack.enter_context(object_store.running(program, objects))
        bucket = await object_store.make_bucket(server, "tkdb-lab")
        self._progress("an object store, SeaweedFS")
        await self._found(bucket)
        self._progress(f"a cluster, whose head is in the bucket {bucket.name}")
        await self._stack.enter_async_context(self.flycast)
        self._progress(f"a proxy in each of {' '.join(self.flycast.layout.regions)}")
        self.settings = self.keys.settings(bucket, self._regions) | self.settings
        for region in self._regions:
            await self._open_gate(region, server.port)
        first = self.machine(self._regions[0])
        await first.start()  # It becomes the primary because it starts before the others.
        self._progress(f"the primary, {first.id}")
        await self.flycast.start()
        self._progress(f"every machine: {' '.join(self.flycast.machines)}")
        self.url = await self.flycast.door(self._clients[0])
        for machine in self.flycast.machines.values():
            client = await self.direct(machine.id, timeout_ms=_ASK_MS, attempt_timeout_ms=_ASK_MS)
            self._asking[machine.id] = await self._stack.enter_async_context(client)

    async def _open_gate(self, region: str, port: int) -> None:
        distance_ms = 0.0 if self.flycast.not_emulated else round_trip_ms(region, self._regions[0]) / 2
        gate = self.gates[region] = StoreProxy("127.0.0.1", port, delay_ms=distance_ms)
        await gate.open()
        self._stack.push_async_callback(gate.close)
        self._stores[region] = await self.flycast.expose(f"store-{region}", region, gate.port)

    async def _found(self, bucket: Bucket) -> None:
        """Create the cluster with ``tkdb init``, as an operator does."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("TKDB_", "AWS_"))}
        environment = own | self.keys.settings(bucket, self._regions) | {"TKDB_DB": str(self.folder / "operator.db")}
        process = await asyncio.create_subprocess_exec(
            *_TKDB, "init", env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        if process.returncode:
            raise errors.Unavailable(
                "the cluster can't be created", hint=f"output of `tkdb init`: {said.decode(errors='replace')[-500:]}"
            )

    def _serve(self, machine: VirtualMachine) -> Command:
        own = {"TKDB_DB": str(machine.folder / "tkdb.db"), "TKDB_BIND": str(machine.bind)}
        if not self.flycast.not_emulated:  # On loopback, callers can't be identified.
            own["TKDB_FLY_SRC"] = "require"
        return Command(self._program, self.environment(machine.slot.region) | own)

    async def _ask(self, machine: VirtualMachine) -> Standing:
        region = machine.slot.region
        if not machine.running:
            return Standing(region, machine.id, "down")
        try:
            report = await self._asking[machine.id].status()
        except errors.TkdbError:
            return Standing(region, machine.id, "silent")
        health = "faulty" if report.fault else "ok"
        epoch = None if report.cluster is None else report.cluster.epoch
        return Standing(
            region, machine.id, health, report.role, report.position,
            age_ms=report.age_ms, fault=report.fault, epoch=epoch,
            is_current=report.cluster is None or report.cluster.is_current,
        )  # fmt: skip

    async def _requests(self, machine: str) -> int | None:
        with suppress(errors.Unavailable):
            return await self.flycast.requests(machine)
        return None

    async def _served_in(self, region: str) -> str | None:
        with suppress(errors.Unavailable):
            return await self.flycast.served_in(region)
        return None
