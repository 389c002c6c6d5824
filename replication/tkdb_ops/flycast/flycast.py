"""The complete stand-in: apps behind a private anycast address, in several regions, on this machine.

::

    app = App("tkdb", ("iad", "ams", "syd"))
    async with Flycast({app: lambda machine: Command(["tkdb", "serve"], {"TKDB_BIND": str(machine.bind)})},
                       clients=["sin"]) as flycast:
        url = await flycast.door("sin")                   # requests seem to come from Singapore: syd answers
        await flycast.machines["tkdb-syd-1"].kill()       # now ams answers
        await flycast.backbone.isolate("ams")             # now iad answers

Everything ends when the ``async with`` block ends, or when this process ends in any way.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tkdb import errors
from tkdb.attestation import HEADER, SIGNATURE_HEADER, Source, sign
from tkdb.extras import install_hint
from tkdb_ops.flycast import namespaces
from tkdb_ops.flycast.addresses import Sixpn
from tkdb_ops.flycast.admin import Admin
from tkdb_ops.flycast.autostop import Agent
from tkdb_ops.flycast.backbone import Backbone
from tkdb_ops.flycast.environment import WORKER, Environment, Process, Program, connect, inherited, until
from tkdb_ops.flycast.envoy import configuration
from tkdb_ops.flycast.layout import CLIENT, App, Layout, Slot
from tkdb_ops.flycast.loopback import Loopback
from tkdb_ops.flycast.machines import Run, VirtualMachine
from tkdb_ops.flycast.names import Names
from tkdb_ops.flycast.relay import Relay
from tkdb_ops.flycast.services import FlySrcSigner, Resolver
from tkdb_ops.flycast.worker import Files, site
from tkdb_ops.opening import AsyncResource
from tkdb_replication.litestream.scratch import Scratch

FOLDERS: Final = "tkdb-flycast-"
"""The prefix of the names of stand-ins' folders."""

ORG: Final = "lab"
"""The organization that every machine of a stand-in belongs to."""

_READY_S: Final = 60
# The agent relies on a single worker thread.
_ENVOY_OPTIONS: Final = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A finished program: its output, stdout and stderr together, and its exit code."""

    code: int
    output: str


class Flycast(AsyncResource):
    """A stand-in.

    Args:
        apps: each app, with the command of its machines.
        clients: the regions of callers.
        isolated: True: with namespaces and a backbone, or an error. False: on loopback addresses. None: with
            namespaces if this machine allows it; ``not_emulated`` lists the missing parts.
        volumes: the parent folder of the machines' folders. By default, they are removed with the stand-in.
        start: True to start all machines immediately. If False, ``start``, ``VirtualMachine.start`` or traffic starts
            them.

    Raises:
        ConfigurationError: the apps can't be laid out, or ``isolated`` is True and this machine can't isolate regions.
    """

    def __init__(
        self,
        apps: Mapping[App, Run],
        *,
        clients: Iterable[str] = (),
        isolated: bool | None = None,
        volumes: Path | None = None,
        start: bool = True,
    ) -> None:
        self.layout = Layout.for_apps(*apps, clients=clients)
        self._runs = {app.name: run for app, run in apps.items()}
        self._isolated = _choose(isolated)
        self._volumes = volumes
        self._start_all = start
        self._key = Ed25519PrivateKey.generate()
        self._services: dict[str, str] = {}
        self._envoys: dict[str, Process] = {}
        self.machines: dict[str, VirtualMachine] = {}
        """The machines, by name, without those of callers."""
        self.folder = Path()
        """The folder of configurations, logs and sockets, while the stand-in is open."""

    @property
    def not_emulated(self) -> Sequence[str]:
        """The parts of the network that are missing on this machine, in words; empty with namespaces."""
        return self._ground.not_emulated

    @property
    def backbone(self) -> Backbone:
        """The backbone, which cuts regions off, loses packets, and heals.

        Raises:
            ConfigurationError: there is no backbone, because the regions are loopback addresses.
        """
        return self._ground.backbone()

    @property
    def fly_src_key(self) -> Ed25519PublicKey:
        """The key that verifies Fly-Src. Machines read it from the file that FLYCAST_SRC_KEY_FILE names."""
        return self._key.public_key()

    def attestation(self, machine: str) -> dict[str, str]:
        """Return the headers by which the proxy attests a request of ``machine``, for a request that bypasses it.

        Raises:
            ConfigurationError: there is no such machine.
        """
        slot = self.layout.machine(machine)
        source, signature = sign(self._key, Source(slot.id, slot.app, ORG, int(time.time())))
        return {HEADER: source, SIGNATURE_HEADER: signature, "fly-request-id": secrets.token_hex(16)}

    async def start(self) -> None:
        """Start every machine that doesn't run, and return once every proxy sees every machine.

        Raises:
            Unavailable: a machine doesn't start, or a proxy doesn't see it.
        """
        await asyncio.gather(*(machine.start() for machine in self.machines.values()))
        if not await until(self._all_seen, _READY_S):
            raise errors.Unavailable("a proxy doesn't see every machine", hint=f"see the logs in {self.folder}")

    def url(self, app: str, region: str) -> str:
        """Return the URL of ``app`` for a machine in ``region``.

        Raises:
            ConfigurationError: there is no such app or region.
        """
        app = self.layout.app(app).name
        self._check_region(region)
        edge = self._ground.addresses.edge(region, app)
        return f"http://{app}.flycast" if self._isolated else f"http://{edge}"

    async def door(self, region: str, app: str | None = None) -> str:
        """Return a URL at which this machine's own programs reach an app as if they were the caller in ``region``.

        Args:
            region: the caller's region, one of ``clients``.
            app: the app. Default: the first.

        Raises:
            ConfigurationError: there is no such app, or no caller in that region.
        """
        app = self.layout.app(app or self.layout.apps[0].name).name
        client = self._client(region)
        if not self._isolated:
            return self.url(app, region)
        edge = self._ground.addresses.edge(region, app)
        listener = socket.create_server(("127.0.0.1", 0))
        await self._add(Relay(listener, partial(connect, self._ground, client, edge.host, edge.port)))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def direct(self, machine: str) -> str:
        """Return a URL at which this machine's own programs reach a machine directly, past proxies and backbone.

        Raises:
            ConfigurationError: there is no such machine.
        """
        slot = self.layout.machine(machine)
        where = self._ground.addresses.local(slot)
        if not self._isolated:
            return f"http://{where}"
        listener = socket.create_server(("127.0.0.1", 0))
        await self._add(Relay(listener, partial(connect, self._ground, WORKER + slot.region, where.host, where.port)))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def expose(self, name: str, region: str, port: int) -> str:
        """Make a TCP service of this machine reachable inside, as if it were in ``region``. Return its URL there.

        Args:
            name: a name for the service, such as "s3", which makes it reachable as ``s3.internal``.
            region: the region in which it appears. It is cut off together with that region.
            port: the port at which it listens on 127.0.0.1.

        Raises:
            ConfigurationError: there is no such region.
        """
        self._check_region(region)
        if not isinstance(self._ground.addresses, Sixpn):
            return f"http://127.0.0.1:{port}"
        host = self._ground.addresses.worker(region)
        listener = await self._ground.socket(WORKER + region, socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
        await self._add(Relay(listener, partial(asyncio.open_connection, "127.0.0.1", port)))
        self._services[f"{name}.internal"] = host
        return f"http://{name}.internal:{port}"

    async def run(
        self, region: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Run a program as the caller in ``region``. Return its output and exit code once it has ended.

        Raises:
            ConfigurationError: there is no caller in that region.
        """
        name = self._client(region)
        log = self.folder / f"run-{time.monotonic_ns()}.log"
        slot = self.layout.machine(name)
        program = Program(
            arguments, self._environment(slot) | dict(environment or {}), self.folder, log, self._mounts(slot)
        )
        process = await self._ground.spawn(name, program)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await process.send(signal.SIGKILL)
            raise
        return CommandResult(code, log.read_text("utf-8", "replace"))

    async def seen(self, region: str, app: str | None = None) -> frozenset[str]:
        """Return the machines to which the proxy of ``region`` would send requests now.

        Raises:
            ConfigurationError: there is no such region or app.
            Unavailable: the proxy doesn't answer.
        """
        self._check_region(region)
        app = self.layout.app(app or self.layout.apps[0].name).name
        well = await Admin(self._files.admin(region)).healthy(app)
        return frozenset(one.id for one in self.layout.of_app(app) if str(self._ground.addresses.backhaul(one)) in well)

    async def served_in(self, region: str, app: str | None = None) -> str | None:
        """Return the region that now gets the requests of callers in ``region``; None if no machine gets them.

        Raises:
            ConfigurationError: there is no such region or app.
            Unavailable: the proxy of ``region`` doesn't answer.
        """
        app = self.layout.app(app or self.layout.apps[0].name).name
        seen = await self.seen(region, app)
        return next((one.region for one in self.layout.nearest(region, app) if one.id in seen), None)

    async def requests(self, machine: str) -> int:
        """Return the number of requests that the proxy in a machine's region has sent to the machine so far.

        Raises:
            ConfigurationError: there is no such machine.
            Unavailable: that proxy doesn't answer.
        """
        slot = self.layout.machine(machine)
        return (await Admin(self._files.admin(slot.region)).traffic(slot.id)).total

    def proxy(self, region: str) -> Process:
        """Return the process of a region's proxy, which takes signals. ``start_proxy`` starts it again if it has ended.

        Raises:
            ConfigurationError: there is no such region.
        """
        self._check_region(region)
        return self._envoys[region]

    async def start_proxy(self, region: str) -> None:
        """Start the proxy of a region again, and return once it serves.

        Raises:
            ConfigurationError: there is no such region.
            Unavailable: the proxy doesn't become ready.
        """
        self._check_region(region)
        if not self._envoys[region].running:
            await self._start_envoy(region)

    def log(self, machine: str) -> str:
        """Return a machine's output, stdout and stderr together.

        Raises:
            ConfigurationError: there is no such machine.
        """
        path = self.machines[self.layout.machine(machine).id].log
        return path.read_text("utf-8", "replace") if path.exists() else ""

    async def _open(self) -> None:
        own = Scratch(FOLDERS)
        self._stack.callback(own.remove)
        self.folder = own.path
        self._files = Files(self.folder)
        self._ground: Environment
        if self._isolated:
            self._ground = namespaces.Namespaces(self.layout, self.folder)
        else:
            self._ground = Loopback(self.layout)
        self._stack.push_async_callback(self._ground.close)
        await self._ground.open()
        self._place_machines()
        await self._open_services()
        await asyncio.gather(*map(self._start_envoy, self.layout.regions))
        if self._start_all:
            await self.start()

    def _place_machines(self) -> None:
        key = self.folder / "fly-src.pub"
        key.write_text(self.fly_src_key.public_bytes_raw().hex() + "\n", "ascii")
        for slot in self.layout.machines:
            self._temporary(slot).mkdir()
            if isinstance(self._ground.addresses, Sixpn):
                own = self._ground.addresses.private(slot)
                hosts = f"127.0.0.1 localhost\n::1 localhost\n{own} fly-local-6pn {slot.id}\n"
                (self.folder / f"{slot.id}.hosts").write_text(hosts, "ascii")
            if slot.app != CLIENT:
                self.machines[slot.id] = VirtualMachine(
                    slot, self.layout.app(slot.app), self._ground, self._runs[slot.app],
                    folder=(self._volumes or self.folder / "volumes") / slot.id,
                    log=self.folder / f"{slot.id}.log",
                    environment=self._environment(slot),
                    mounts=self._mounts(slot),
                )  # fmt: skip

    async def _open_services(self) -> None:
        signer = FlySrcSigner(
            self._key, self.layout, self._ground.addresses, self._files.attested, org=ORG, now_s=time.time
        )  # fmt: skip
        signer.open()
        self._stack.push_async_callback(signer.close)
        if isinstance(self._ground.addresses, Sixpn):
            names = Names(self.layout, self._ground.addresses, self._services)
            for region in self.layout.regions:
                resolver = Resolver(names, region, self._started)
                await resolver.open(self._ground)
                self._stack.callback(resolver.close)
        idle_ms = {app.name: app.autostop_ms for app in self.layout.apps if app.autostop_ms is not None}
        watched = {one.id: (one, idle_ms[one.slot.app]) for one in self.machines.values() if one.slot.app in idle_ms}
        await self._add(Agent(self._files, self._ground, watched))

    async def _start_envoy(self, region: str) -> None:
        path = self.folder / f"envoy-{region}.json"
        made = configuration(site(self.layout, self._ground.addresses, region, self._files))
        path.write_text(json.dumps(made), "utf-8")
        log = self.folder / f"envoy-{region}.log"
        arguments = [envoy_program(), "-c", str(path), *_ENVOY_OPTIONS]
        process = await self._ground.spawn(WORKER + region, Program(arguments, inherited(), self.folder, log))
        self._envoys[region] = process
        admin = Admin(self._files.admin(region))

        if not await until(admin.ready, _READY_S, meanwhile=process):
            said = log.read_text("utf-8", "replace")[-500:]
            raise errors.Unavailable(f"the Envoy of {region} doesn't become ready", hint=f"its output: {said}")

    async def _all_seen(self) -> bool:
        for region in self.layout.regions:
            for app in self.layout.apps:
                if len(await self.seen(region, app.name)) < len(self.layout.of_app(app.name)):
                    return False
        return True

    async def _add(self, part: Agent | Relay) -> None:
        await part.open()
        self._stack.push_async_callback(part.close)

    def _started(self) -> frozenset[Slot]:
        callers = self.layout.of_app(CLIENT)
        return frozenset([*callers, *(machine.slot for machine in self.machines.values() if machine.running)])

    def _environment(self, slot: Slot) -> dict[str, str]:
        """Return the variables that Fly sets. Source: https://fly.io/docs/machines/runtime-environment/"""
        primary = self.layout.app(slot.app).regions[0] if slot.app != CLIENT else slot.region
        return inherited() | {
            "FLY_APP_NAME": slot.app,
            "FLY_IMAGE_REF": "none",
            "FLY_MACHINE_ID": slot.id,
            "FLY_PRIVATE_IP": self._ground.addresses.source(slot) or "",
            "FLY_PROCESS_GROUP": "app",
            "FLY_REGION": slot.region,
            "FLY_VM_MEMORY_MB": "512",
            "PRIMARY_REGION": primary,
            "FLYCAST_SRC_KEY_FILE": str(self.folder / "fly-src.pub"),
            "TMPDIR": str(self._temporary(slot)),
        }

    def _temporary(self, slot: Slot) -> Path:
        """Return the folder of a machine's temporary files. If the machine is killed, the stand-in removes them."""
        return self.folder / f"{slot.id}.tmp"

    def _mounts(self, slot: Slot) -> list[tuple[Path, Path]]:
        return [(self.folder / f"{slot.id}.hosts", Path("/etc/hosts"))] if self._isolated else []

    def _client(self, region: str) -> str:
        for slot in self.layout.of_app(CLIENT):
            if slot.region == region:
                return slot.id
        raise errors.ConfigurationError(f"there is no caller in {region!r:.20}", hint="name the region in clients=")

    def _check_region(self, region: str) -> None:
        if region not in self.layout.regions:
            hint = "there is " + " ".join(self.layout.regions)
            raise errors.ConfigurationError(f"the stand-in has no region {region!r:.20}", hint=hint)


def _choose(isolated: bool | None) -> bool:
    if isolated is False:
        return False
    why = namespaces.unfit()
    if isolated and why is not None:
        raise errors.ConfigurationError(f"regions can't be isolated here: {why}", hint="run as root on Linux")
    return why is None


def envoy_program() -> str:
    """Return the path of Envoy: the program from PyPI, or else the one on PATH.

    Raises:
        ConfigurationError: there is no Envoy.
    """
    found = find_spec("envoy")
    if found is not None and found.origin is not None:
        path = Path(found.origin).with_name("_bin") / "envoy"
        if os.access(path, os.X_OK):
            return str(path)
    if on_path := which("envoy"):
        return on_path
    raise errors.ConfigurationError("there is no Envoy", hint=f"{install_hint('lab')}, or put `envoy` on PATH")
