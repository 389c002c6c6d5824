"""One machine of the cluster as a process that faults happen to, with its own way to the store."""

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
    """``tkdb serve`` behind ``node``, and the proxy that stands between it and the store.

    Whatever happens to the process or the disk is done under ``process_turn``, to the way to the store under
    ``store_turn``.
    """

    def __init__(self, name: str, node: Node, proxy: FaultyProxy) -> None:
        self.name = name
        self.node = node
        self.proxy = proxy
        self.process_turn = asyncio.Lock()
        self.store_turn = asyncio.Lock()
        self.life = 0
        """How often it was started."""

    @property
    def database(self) -> Path:
        return self.node.database

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.node.process.poll() is not None

    async def start(self) -> None:
        """Start it; return once it answers.

        Raises:
            AssertionError: it doesn't start.
        """
        self.life += 1
        for left in reversed(range(_STARTS_MOST)):
            try:
                await asyncio.to_thread(self.node.start)
                return
            except AssertionError:  # its port may be taken by another's connection for a moment
                if not left:
                    raise
            await asyncio.sleep(1)

    async def kill(self) -> None:
        """End it as a crash does."""
        await asyncio.to_thread(self.node.kill)

    async def stop(self) -> bool:
        """End it by plan; return whether it ended in time."""
        try:
            await asyncio.to_thread(self.node.stop)
        except subprocess.TimeoutExpired:
            await self.kill()
            return False
        return True

    def end(self) -> None:
        """End it for good, whatever state it is in."""
        if self.life and not self.ended:
            self.node.kill()

    def lose_disk(self) -> None:
        """Delete all that its volume holds, but for the log, which is ours."""
        for path in self.database.parent.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.node.log:
                path.unlink(missing_ok=True)

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        with suppress(ProcessLookupError):
            self.node.process.send_signal(number)

    def send_litestream(self, number: signal.Signals) -> None:
        """Send its Litestreams a signal: the one that replicates, and one that restores."""
        for pid in litestreams(self.node.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def litestreams(pid: int) -> list[int]:
    """Return the processes that ``pid`` has started and that are Litestream by now."""
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
