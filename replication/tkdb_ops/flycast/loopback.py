"""The ground without a network of its own: all places are addresses in 127.0.0.0/8."""

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
        layout: the machines that there are to be.
    """

    not_emulated: Sequence[str] = (
        "the time between regions, cuts and lost packets: every region is this machine",
        "one address everywhere: each region's proxy has its own, and names such as tkdb.flycast aren't served",
        "who calls: any process can use the address of any machine, so Fly-Src attests nothing",
        "what is past the proxy: machines and backhauls can be reached directly",
    )

    def __init__(self, layout: Layout) -> None:
        self._lock, net = _take_net()
        self.addresses = OnLoopback(layout, net)
        self._processes: list[_Child] = []

    async def open(self) -> None:
        """Nothing is to be made: Linux answers at all of 127.0.0.0/8."""

    async def spawn(self, place: str, program: Program) -> Process:
        # A program whose starter is killed ends with it; -I and -S: nothing of this one's environment is read.
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
    """The program and its arguments, the program by its path: it is looked for as a shell would."""
    name, *rest = program.arguments
    return [which(name, path=program.environment.get("PATH")) or name, *rest]


def _take_net() -> tuple[socket.socket, int]:
    """Reserve 127.<net>.0.0/16 among this machine's stand-ins, until the socket is closed, or its process ends."""
    for net in _NETS:
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            taken.bind(f"\0tkdb-flycast-127.{net}")  # an abstract name: it isn't a file, and leaves none behind
        except OSError:
            taken.close()
            continue
        return taken, net
    raise errors.Unavailable("too many stand-ins run on this machine", hint="end some")
