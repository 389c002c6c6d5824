"""What a stand-in stands on: a place where programs run, and from which sockets connect.

There are two: ``namespaces`` (each machine has a network of its own, and there is a backbone between regions) and
``loopback`` (all share this machine's).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tkdb_ops.flycast.addresses import Addresses
from tkdb_ops.flycast.backbone import Backbone

WORKER: Final = "worker-"
"""Before a region's code: the name of the place where its proxy is."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_LOOKS_S: Final = 0.03


@dataclass(frozen=True, slots=True)
class Program:
    """What is to run, and how.

    Args:
        arguments: the program and its arguments.
        environment: all of its environment.
        folder: where it runs.
        log: what it writes to stdout and stderr is appended here.
        mounts: pairs of a file, and the path at which this program sees it; only in namespaces.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    mounts: Sequence[tuple[Path, Path]] = field(default=())


class Process:
    """A program that runs: the leader of a process group of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return not self._ended.done()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, once it has ended; that of a signal is the signal's number, negative."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        return await asyncio.shield(self._ended)

    async def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it has started."""
        raise NotImplementedError

    def end(self, code: int) -> None:
        """Record that it has ended."""
        if not self._ended.done():
            self._ended.set_result(code)


class Environment(Protocol):
    """Where programs run. ``place`` is a machine's name, or WORKER and a region."""

    @property
    def addresses(self) -> Addresses:
        """Where its parts are."""

    @property
    def not_emulated(self) -> Sequence[str]:
        """What is missing here, in words."""

    async def open(self) -> None:
        """Make the places."""

    async def spawn(self, place: str, program: Program) -> Process:
        """Start a program at ``place``."""

    async def socket(self, place: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """Return a new socket of ``place``, non-blocking: what it is bound or connected to is there."""

    def backbone(self) -> Backbone:
        """Return what cuts and delays the way between regions.

        Raises:
            ConfigurationError: there is none here.
        """

    async def close(self) -> None:
        """End all that runs, and remove the places."""


async def connect(ground: Environment, place: str, host: str, port: int) -> Stream:
    """Connect to an IP address from ``place``.

    Raises:
        OSError: it doesn't answer.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = await ground.socket(place, family, socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(made, (host, port))
    except BaseException:
        made.close()
        raise
    return await asyncio.open_connection(sock=made)


async def until(reached: Callable[[], Awaitable[bool]], limit_s: float, *, meanwhile: Process | None = None) -> bool:
    """Wait until ``reached`` says so; return whether it did, in time and before the process ``meanwhile`` ended."""
    give_up_s = time.monotonic() + limit_s
    while not await reached():
        if time.monotonic() > give_up_s or (meanwhile is not None and not meanwhile.running):
            return False
        await asyncio.sleep(_LOOKS_S)
    return True


def inherited() -> dict[str, str]:
    """Return what every program needs of this process's environment."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
