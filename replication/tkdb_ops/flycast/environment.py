"""The ground of a stand-in: the places in which programs run, and from which sockets connect.

There are two grounds: ``namespaces`` (each machine has a separate network, and there is a backbone between regions) and
``loopback`` (all share this machine's network).
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
"""The prefix of a region's code in the name of its proxy's place."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_LOOKS_S: Final = 0.03


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run, and its environment.

    Args:
        arguments: the program and its arguments.
        environment: its complete environment.
        folder: its working folder.
        log: the file to which its stdout and stderr are appended.
        mounts: pairs of a file, and the path at which this program sees it. They work only in namespaces.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)  # it has the authority's secrets
    folder: Path
    log: Path
    mounts: Sequence[tuple[Path, Path]] = field(default=())


class Process:
    """A program that was started. It is the leader of a separate process group."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> bool:
        """True if the program hasn't ended."""
        return not self._ended.done()

    @property
    def exit_code(self) -> int | None:
        """The exit code once the program has ended, else None. For a signal, it is the negative number."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        return await asyncio.shield(self._ended)

    async def send(self, number: signal.Signals) -> None:
        """Send a signal to the program and to every process that it has started."""
        raise NotImplementedError

    def end(self, code: int) -> None:
        """Record that the program has ended."""
        if not self._ended.done():
            self._ended.set_result(code)


class Environment(Protocol):
    """The ground on which programs run. A ``place`` is a machine's name, or WORKER followed by a region."""

    @property
    def addresses(self) -> Addresses:
        """The addresses of its parts."""

    @property
    def not_emulated(self) -> Sequence[str]:
        """The parts of the network that are missing here, in words."""

    async def open(self) -> None:
        """Create the places."""

    async def spawn(self, place: str, program: Program) -> Process:
        """Start a program at ``place``."""

    async def socket(self, place: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """Return a new non-blocking socket in the network of ``place``."""

    def backbone(self) -> Backbone:
        """Return the backbone, which cuts and delays packets between regions.

        Raises:
            ConfigurationError: this ground has no backbone.
        """

    async def close(self) -> None:
        """End all programs, and remove the places."""


async def connect(ground: Environment, place: str, host: str, port: int) -> Stream:
    """Connect to an IP address from ``place``.

    Raises:
        OSError: the connection fails.
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
    """Wait until ``reached`` returns True. Return False if time runs out or the process ``meanwhile`` ends first."""
    give_up_s = time.monotonic() + limit_s
    while not await reached():
        if time.monotonic() > give_up_s or (meanwhile is not None and not meanwhile.running):
            return False
        await asyncio.sleep(_LOOKS_S)
    return True


def inherited() -> dict[str, str]:
    """Return the variables of this process's environment that every program needs."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
