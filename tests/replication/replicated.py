"""A database with a journal, replicated by a real Litestream: what the tests of replication stand on.

Run as a script it is a machine to be killed: ``python -m tests.replication.replicated DATABASE``, with the bucket in
the environment, replicates, writes an entry for each line of its input, and prints ``BASE LITESTREAM_PID SEQ`` once it
is synced.
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

IMPATIENT = SyncTiming(look_ms=30, hung_ms=400, stop_ms=2_000, backoff=Backoff(base_ms=10, cap_ms=100))
PATIENT = replace(IMPATIENT, hung_ms=30_000)
TIMEOUT_MS = 20_000


@dataclass
class Machine:
    """A database, who writes it, and its replication."""

    database: Database
    scribe: Scribe
    replication: Replication

    @property
    def pid(self) -> int:
        """Litestream's process."""
        pid = self.replication.pid
        assert pid is not None
        return pid

    async def write(self) -> None:
        """Commit one entry."""
        await self.scribe.create(f"org-{self.scribe.state.head.seq + 1}")

    async def sync(self) -> None:
        """Return once a sync was successful; Litestream may be restarting meanwhile."""
        await eventually(lambda: self.replication.sync(timeout_ms=2_000))

    async def restarted(self, old_pid: int) -> None:
        """Return once another process of Litestream answers."""
        async with asyncio.timeout(TIMEOUT_MS / 1000):
            while self.replication.pid in (None, old_pid):  # noqa: ASYNC110 -- it tells nobody
                await asyncio.sleep(0.01)


async def eventually(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what ``attempt`` returns once it isn't ``Unavailable`` any more."""
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        while True:
            try:
                return await attempt()
            except errors.Unavailable:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def machine(
    bucket: Bucket, path: Path, *, epoch: int = 1, timing: SyncTiming = PATIENT
) -> AsyncIterator[Machine]:
    """A machine with a new journal at ``path``, replicating."""
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
    """Restore ``base`` into ``target`` and return the journal that it holds."""
    await restore(await Program.find(), bucket, base, target, timeout_ms=TIMEOUT_MS)
    async with await Database.open(target) as database:
        await database.load()
        return await database.entries(0, 10_000)


async def _live(path: Path) -> None:
    async with machine(Bucket.parse(os.environ), path) as one:
        while await asyncio.to_thread(sys.stdin.readline):
            await one.write()
            await one.sync()
            sys.stdout.write(f"{one.replication.base} {one.pid} {one.scribe.state.head.seq}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_live(Path(sys.argv[1])))
