"""A database with a journal that a real Litestream replicates, for the replication tests.

As a script, it is a machine for tests to kill: ``python -m tests.replication.replicated DATABASE`` takes the bucket
from the environment and replicates the database. It writes an entry for each input line, and prints
``BASE LITESTREAM_PID SEQ`` once that entry is synced.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tests.journal.scribe import Scribe
from tkdb import errors
from tkdb.database.database import Database
from tkdb.journal.entry import Entry
from tkdb.net.backoff import Backoff
from tkdb_replication.bucket.paths import fresh_base
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.restore import restore
from tkdb_replication.litestream.supervisor import Replication, SyncTiming

T = TypeVar("T")

SHORT_TIMEOUTS = SyncTiming(look_ms=30, hung_ms=400, stop_ms=2_000, backoff=Backoff(base_ms=10, cap_ms=100))
LONG_TIMEOUTS = replace(SHORT_TIMEOUTS, hung_ms=30_000)
TIMEOUT_MS = 20_000


@dataclass
class Machine:
    """A database, the scribe that writes its journal, and its replication."""

    database: Database
    scribe: Scribe
    replication: Replication

    @property
    def pid(self) -> int:
        """The process id of Litestream."""
        pid = self.replication.pid
        assert pid is not None
        return pid

    async def write(self) -> None:
        """Commit one entry."""
        await self.scribe.create(f"org-{self.scribe.state.head.seq + 1}")

    async def sync(self) -> None:
        """Return once a sync has succeeded. Litestream may restart during the wait."""
        await eventually(lambda: self.replication.sync(timeout_ms=2_000))

    async def wait_for_restart(self, old_pid: int) -> None:
        """Return once another Litestream process has replaced ``old_pid``."""
        async with asyncio.timeout(TIMEOUT_MS / 1000):
            while self.replication.pid in (None, old_pid):  # noqa: ASYNC110 -- no event reports the new process
                await asyncio.sleep(0.01)


async def eventually(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat ``attempt`` while it raises ``Unavailable``, and return its result."""
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        while True:
            try:
                return await attempt()
            except errors.Unavailable:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running_machine(
    bucket: Bucket, path: Path, *, epoch: int = 1, timing: SyncTiming = LONG_TIMEOUTS
) -> AsyncIterator[Machine]:
    """Run a machine that replicates a new journal at ``path``."""
    program = await Program.find()
    async with await Database.open(path, checkpoints=False) as database:
        scribe = Scribe(database)
        await scribe.begin()
        base = fresh_base(epoch, random_bytes=secrets.token_bytes)
        replication = await Replication.begin(
            program, bucket, path, base, random_bytes=secrets.token_bytes, timing=timing
        )
        try:
            yield Machine(database, scribe, replication)
        finally:
            await replication.stop()


async def restored(bucket: Bucket, base: str, target: Path) -> list[Entry]:
    """Restore ``base`` into ``target``, and return the entries of its journal."""
    await restore(await Program.find(), bucket, base, target, timeout_ms=TIMEOUT_MS)
    async with await Database.open(target) as database:
        await database.load()
        return await database.entries(0, 10_000)


async def _live(path: Path) -> None:
    async with running_machine(Bucket.parse(os.environ), path) as machine:
        while await asyncio.to_thread(sys.stdin.readline):
            await machine.write()
            await machine.sync()
            sys.stdout.write(f"{machine.replication.base} {machine.pid} {machine.scribe.state.head.seq}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_live(Path(sys.argv[1])))
