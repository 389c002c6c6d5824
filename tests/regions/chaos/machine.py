"""One machine of the cluster: a process that faults are injected into, with its own proxy to the store."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.end_to_end.node import Node
from tests.replication.faults import FaultyProxy

_STARTS_MOST: Final = 3


class Machine:
    """The process of a node (``tkdb serve``), and the proxy between it and the store.

    Faults of the process or the disk hold ``process_lock``. Faults of the connection to the store hold ``store_lock``.
    """

    def __init__(self, name: str, node: Node, proxy: FaultyProxy) -> None:
        self.name = name
        self.node = node
        self.proxy = proxy
        self.process_lock = asyncio.Lock()
        self.store_lock = asyncio.Lock()
        self.life = 0
        """The number of its starts."""

    @property
    def database(self) -> Path:
        return self.node.database

    @property
    def ended(self) -> bool:
        """True if its process has ended."""
        return self.node.process.poll() is not None

    async def start(self) -> None:
        """Start it, and return once it answers.

        Raises:
            AssertionError: it doesn't start.
        """
        self.life += 1
        for left in reversed(range(_STARTS_MOST)):
            try:
                await asyncio.to_thread(self.node.start)
                return
            except AssertionError:  # another process's connection may use its port for a moment
                if not left:
                    raise
            await asyncio.sleep(1)

    async def kill(self) -> None:
        """Kill it, as in a crash."""
        await asyncio.to_thread(self.node.kill)

    async def stop(self) -> bool:
        """Stop it normally, and return True if it ended in time."""
        try:
            await asyncio.to_thread(self.node.stop)
        except subprocess.TimeoutExpired:
            await self.kill()
            return False
        return True

    def end(self) -> None:
        """Kill it if it runs."""
        if self.life and not self.ended:
            self.node.kill()

    def lose_disk(self) -> None:
        """Delete every file of its volume except the log, which belongs to the tests."""
        for path in self.database.parent.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.node.log:
                path.unlink(missing_ok=True)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process."""
        with suppress(ProcessLookupError):
            self.node.process.send_signal(number)

    def send_litestream(self, number: signal.Signals) -> None:
        """Send a signal to its Litestreams: the one that replicates, and one that restores."""
        for pid in litestreams(self.node.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def litestreams(pid: int) -> list[int]:
    """Return the child processes of ``pid`` that already run Litestream."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [child for child in map(int, children.read_text().split()) if _is_litestream(child)]
    return found


def _is_litestream(pid: int) -> bool:
    try:
        program, _, _ = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")
    except OSError:
        return False
    return program.endswith(b"/litestream")
