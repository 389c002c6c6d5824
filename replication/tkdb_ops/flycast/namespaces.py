"""Network namespaces: one for each machine, one for each region's worker, and a backbone between the workers.

::

    machine  eth0 ── veth ── worker of its region ── wg0 (TUN) ── backbone ── wg0 ── worker ── veth ── eth0  machine
    172.16.n.2, fdaa:…       the anycast addresses, the proxy, the resolver

One keeper (`tkdb_ops.flycast.namespace_init`) owns all of this, and everything ends with the keeper. So stand-ins don't
affect each other, and nothing remains if the owner is killed. An anycast address is on no interface: each worker has a
local route for it, with the worker's address as the source, and the proxy listens with freebind.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import Any, Final

from tkdb import errors
from tkdb_ops.flycast.addresses import RESOLVER, Sixpn
from tkdb_ops.flycast.backbone import Backbone
from tkdb_ops.flycast.environment import WORKER, Process, Program, inherited, until
from tkdb_ops.flycast.layout import Layout, Slot
from tkdb_ops.flycast.namespace_init import MESSAGE_MAX

_UNSHARE: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")
_MTU: Final = 1420
"""The MTU of WireGuard, as on Fly."""
_READY_S: Final = 20
_BURST: Final = 64
_PROBE: Final = "import os; os.close(os.open('/dev/net/tun', os.O_RDWR))"


def unfit() -> str | None:
    """Return the reason why this machine can't make namespaces and TUN devices; None if it can."""
    if sys.platform != "linux":
        return "only Linux has namespaces"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if which(program) is None:
            return f"there is no `{program}` ({package})"
    try:
        done = subprocess.run(  # noqa: S603  a constant command
            [*_UNSHARE, sys.executable, "-I", "-S", "-c", _PROBE],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "`unshare` doesn't end"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["unshare failed"])[-1]
        return f"namespaces and TUN devices need root: {last}"
    return None


def worker_lines(layout: Layout, addresses: Sixpn, region: str) -> list[str]:
    """Return the lines for ``ip -batch`` in the namespace of the worker of ``region``. The links must exist already."""
    own = addresses.worker(region)
    lines = [
        "link set lo up",
        f"link set wg0 mtu {_MTU} up",
        f"addr add {own}/128 dev wg0 nodad",
        f"route add fdaa::/16 dev wg0 src {own}",
        f"addr add {RESOLVER}/128 dev lo nodad",
        *(f"route add local {addresses.anycast(app.name)}/128 dev lo table local src {own}" for app in layout.apps),
    ]
    for machine in _machines(layout, region):
        link = f"m{machine.number}"
        lines += [
            f"link set {link} mtu {_MTU} up",
            f"addr add {addresses.outside(machine)}/30 dev {link}",
            f"addr add fe80::1/64 dev {link} nodad",
            f"route add {addresses.private(machine)}/128 via fe80::2 dev {link}",
        ]
    return lines


def machine_lines(addresses: Sixpn, machine: Slot) -> list[str]:
    """Return the lines for ``ip -batch`` in the namespace of ``machine``."""
    own = addresses.private(machine)
    return [
        "link set lo up",
        f"link set eth0 mtu {_MTU} up",
        f"addr add {addresses.inside(machine)}/30 dev eth0",
        f"addr add {own}/128 dev eth0 nodad",
        "addr add fe80::2/64 dev eth0 nodad",
        f"route add default via fe80::1 dev eth0 src {own}",
    ]


class Namespaces:
    """The ground with an emulated network.

    Args:
        layout: the machines and regions to run.
        folder: the folder of the stand-in's files.
    """

    not_emulated: Sequence[str] = ()

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.addresses = Sixpn(layout)
        self._layout = layout
        self._folder = folder
        self._keeper: _Keeper | None = None

    async def open(self) -> None:
        keeper = self._keeper = _Keeper(self._folder / "keeper.log")
        for region in self._layout.regions:
            await keeper.order("namespace", name=WORKER + region, forward=True)
            await keeper.order("tun", name=WORKER + region, region=region)
        await asyncio.gather(*(self._connect(keeper, region) for region in self._layout.regions))
        resolver = self._folder / "resolv.conf"
        resolver.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:2\n", "ascii")
        await keeper.order("mount", source=str(resolver), target="/etc/resolv.conf")
        log = self._folder / "backbone.log"
        arguments = [sys.executable, "-m", "tkdb_ops.flycast.backbone", str(self._socket)]
        process = await keeper.spawn(None, Program(arguments, inherited(), self._folder, log))
        if not await until(self.backbone().answers, _READY_S, meanwhile=process):
            raise errors.Unavailable(
                "the backbone didn't start", hint=f"its output: {log.read_text('utf-8', 'replace')}"
            )

    async def _connect(self, keeper: _Keeper, region: str) -> None:
        for machine in _machines(self._layout, region):
            made = await keeper.order("namespace", name=machine.id, forward=False)
            # The path names a descriptor of the keeper, which is process 1 of its PID namespace.
            peer = f"link add m{machine.number} type veth peer name eth0 netns /proc/1/fd/{made['fd']}"
            await keeper.order("configure", name=WORKER + region, lines=[peer])
            await keeper.order("configure", name=machine.id, lines=machine_lines(self.addresses, machine))
        await keeper.order("configure", name=WORKER + region, lines=worker_lines(self._layout, self.addresses, region))

    async def spawn(self, place: str, program: Program) -> Process:
        return await self._kept.spawn(place, program)

    async def socket(self, place: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        return await self._kept.socket(place, family, kind)

    def backbone(self) -> Backbone:
        return Backbone(self._socket, self._layout.regions)

    async def close(self) -> None:
        if self._keeper is not None:
            await self._keeper.close()

    @property
    def _socket(self) -> Path:
        return self._folder / "backbone.sock"

    @property
    def _kept(self) -> _Keeper:
        if self._keeper is None:
            raise errors.Unavailable("the stand-in isn't open", hint="use it in `async with`")
        return self._keeper


class _Keeper:
    """The owner's side of the keeper."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._own.setblocking(False)
        self._own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_MAX * 2)
        arguments = [*_UNSHARE, sys.executable, "-m", "tkdb_ops.flycast.namespace_init", str(theirs.fileno())]
        with theirs, log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603  a constant command
                arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=inherited() | _import_path(), start_new_session=True,
            )  # fmt: skip
        self._count = 0
        self._sending = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._processes: dict[int, _Kept] = {}
        self._ended_early: dict[int, int] = {}
        asyncio.get_running_loop().add_reader(self._own, self._hear)

    async def order(self, what: str, **details: Any) -> dict[str, Any]:
        """Give the keeper an order, and return its answer.

        Raises:
            Unavailable: the keeper can't carry out the order, or is gone.
        """
        answer, _ = await self._ask(what, details)
        return answer

    async def spawn(self, place: str | None, program: Program) -> Process:
        answer = await self.order(
            "spawn",
            name=place,
            arguments=list(program.arguments),
            environment=dict(program.environment) | (_import_path() if place is None else {}),
            folder=str(program.folder),
            log=str(program.log),
            mounts=[[str(source), str(target)] for source, target in program.mounts],
        )
        process = self._processes[answer["pid"]] = _Kept(answer["pid"], self)
        if answer["pid"] in self._ended_early:
            process.end(self._ended_early.pop(answer["pid"]))
        return process

    async def socket(self, place: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        _, descriptors = await self._ask("socket", {"name": place, "family": int(family), "type": int(kind)})
        made = socket.socket(fileno=descriptors[0])
        made.setblocking(False)
        return made

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._own)
        self._own.close()
        try:
            await asyncio.wait_for(asyncio.to_thread(self._process.wait), _READY_S)
        except TimeoutError:
            self._process.kill()
        for process in self._processes.values():
            process.end(-signal.SIGKILL)
        self._give_up()

    async def _ask(self, what: str, details: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        self._count += 1
        number = self._count
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = json.dumps({"id": number, "do": what, **details}).encode()
        try:
            async with self._sending:  # The loop allows only one task at a time to wait until a socket is writable.
                await asyncio.get_running_loop().sock_sendall(self._own, message)
            answer, descriptors = await asyncio.wait_for(waiting, _READY_S)
        except (OSError, TimeoutError):
            raise errors.Unavailable(f"the keeper of namespaces is gone: {self._last_words()}") from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise errors.Unavailable(f"a namespace can't be used: {answer['error']}", hint="see docs/flycast.md")
        return answer, descriptors

    def _hear(self) -> None:
        """Read several messages in one turn: with only one, a busy loop would fall behind and block the keeper."""
        with suppress(BlockingIOError):
            for _ in range(_BURST):
                if not self._hear_one():
                    asyncio.get_running_loop().remove_reader(self._own)
                    self._give_up()
                    return

    def _hear_one(self) -> bool:
        """Read one message. Return True if there may be more."""
        try:
            data, ancillary, _, _ = self._own.recvmsg(MESSAGE_MAX, socket.CMSG_SPACE(4))
        except BlockingIOError:
            raise
        except OSError:
            return False
        if not data:
            return False
        said = json.loads(data)
        descriptors = array.array("i", b"".join(part for _, _, part in ancillary)).tolist()
        if "ended" in said:
            process = self._processes.pop(said["ended"], None)
            if process is None:
                self._ended_early[said["ended"]] = said["code"]
            else:
                process.end(said["code"])
        elif (waiting := self._waiting.get(said["id"])) and not waiting.done():
            waiting.set_result((said, descriptors))
        else:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _give_up(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError())

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", "replace")[-500:].strip() or "its log is empty"


class _Kept(Process):
    def __init__(self, pid: int, keeper: _Keeper) -> None:
        super().__init__(pid)
        self._keeper = keeper

    async def send(self, number: signal.Signals) -> None:
        if self.running:
            await self._keeper.order("signal", pid=self.pid, number=int(number))


def _machines(layout: Layout, region: str) -> list[Slot]:
    return [machine for machine in layout.machines if machine.region == region]


def _import_path() -> dict[str, str]:
    """Return this process's import path as a variable, so that its programs import the same modules."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
