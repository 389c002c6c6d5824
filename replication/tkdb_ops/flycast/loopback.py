"""The ground without a separate network: all places are addresses in 127.0.0.0/8."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from shutil import which
from typing import Final

from tkdb import errors
from tkdb_ops.flycast.addresses import OnLoopback
from tkdb_ops.flycast.backbone import Backbone
from tkdb_ops.flycast.environment import Process, Program
from tkdb_ops.flycast.layout import Layout
from tkdb_replication.litestream import end_with_parent

_NETS: Final = range(64, 192)


class Loopback:
    """The ground on loopback addresses.

    Args:
        layout: the machines and regions to run.
    """

    not_emulated: Sequence[str] = (
        "distances between regions, cuts and lost packets: every region is this machine",
        "one address everywhere: each region's proxy has its own, and names such as tkdb.flycast aren't served",
        "the identity of callers: any process can use the address of any machine, so Fly-Src attests nothing",
        "the wall between callers and machines: machines and backhauls can be reached directly, past the proxy",
    )

    def __init__(self, layout: Layout) -> None:
        self._lock, net = _take_net()
        self.addresses = OnLoopback(layout, net)
        self._processes: list[_Child] = []

    async def open(self) -> None:
        """Do nothing, because Linux answers at every address of 127.0.0.0/8."""

    async def spawn(self, place: str, program: Program) -> Process:
        # The program ends when this process is killed. With -I and -S, the launcher ignores this process's environment.
        arguments = [sys.executable, "-I", "-S", end_with_parent.__file__, str(os.getpid()), *_found(program)]
        with program.log.open("ab") as log:
            started = await asyncio.create_subprocess_exec(
                *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=program.folder, env=dict(program.environment), start_new_session=True,
            )  # fmt: skip
        child = _Child(started)
        self._processes.append(child)
        return child

    async def socket(self, place: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        made = socket.socket(family, kind)
        made.setblocking(False)
        return made

    def backbone(self) -> Backbone:
        raise errors.ConfigurationError(
            "regions on loopback addresses can't be cut off", hint="run as root on Linux, with `ip` and `unshare`"
        )

    async def close(self) -> None:
        for child in self._processes:
            await child.send(signal.SIGKILL)
        for child in self._processes:
            await child.wait()
        self._lock.close()


class _Child(Process):
    def __init__(self, started: asyncio.subprocess.Process) -> None:
        super().__init__(started.pid)
        self._watch = asyncio.create_task(self._watched(started))

    async def _watched(self, started: asyncio.subprocess.Process) -> None:
        self.end(await started.wait())

    async def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _found(program: Program) -> list[str]:
    """Return the program's path and its arguments. The program is searched on PATH, as a shell does."""
    name, *rest = program.arguments
    return [which(name, path=program.environment.get("PATH")) or name, *rest]


def _take_net() -> tuple[socket.socket, int]:
    """Reserve 127.<net>.0.0/16 among this machine's stand-ins, until the socket is closed or the process ends."""
    for net in _NETS:
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            taken.bind(f"\0tkdb-flycast-127.{net}")  # An abstract name isn't a file, so none is left behind.
        except OSError:
            taken.close()
            continue
        return taken, net
    raise errors.Unavailable("too many stand-ins run on this machine", hint="stop some of them")
