"""The replicator: this machine's Litestream. It runs only while the machine leads an epoch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tkdb import errors, logs
from tkdb.database.database import Database
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.control import Synced
from tkdb_replication.litestream.supervisor import Replication

START_AGAIN_S: Final = 1.0
"""The pause before the next attempt if Litestream's folders couldn't be created."""


class Replicator:
    """Starts Litestream on a path, makes it sync, and stops it.

    Args:
        program: Litestream.
        bucket: the bucket to replicate to.
        database: the open database. While Litestream runs, only Litestream moves the write-ahead log into the file.
        path: the database's file.
        random_bytes: returns random bytes, to spread restarts.
        fit: done once the object store is known to honour conditional writes. The machine doesn't lead before.
    """

    def __init__(
        self,
        program: Program,
        bucket: Bucket,
        database: Database,
        path: Path,
        *,
        random_bytes: Callable[[int], bytes],
        fit: asyncio.Future[None],
    ) -> None:
        self._program = program
        self._bucket = bucket
        self._database = database
        self._path = path
        self._random_bytes = random_bytes
        self._fit = fit
        self._replication: asyncio.Task[Replication] | None = None

    async def start(self, base: str) -> None:
        """Begin to replicate to the path ``base``. Replication has only begun when this returns, and may still fail."""
        await self.stop()
        self._replication = asyncio.create_task(self._start(base))

    async def sync(self, *, timeout_ms: int) -> Synced:
        """Make Litestream upload every commit, and return once that is done.

        Raises:
            TkdbError: it isn't known to be done.
        """
        await asyncio.shield(self._fit)
        if self._replication is None:
            raise errors.Unavailable("Litestream isn't running")
        replication = await asyncio.shield(self._replication)
        return await replication.sync(timeout_ms=timeout_ms)

    async def stop(self) -> None:
        """Stop Litestream, if it runs. A caller that is cancelled must call this again."""
        starting = self._replication
        if starting is None:
            return
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            await starting.result().stop()
        self._replication = None
        try:
            await self._database.let_checkpoint(True)
        except errors.TkdbError as error:
            # The disk is full, or the file damaged. The next step on the journal gets the same error, and handles it.
            logs.event(logging.WARNING, "no checkpoint", why=error.message)

    async def _start(self, base: str) -> Replication:
        await self._database.let_checkpoint(False)
        said = False
        while True:
            try:
                return await Replication.begin(
                    self._program, self._bucket, self._path, base, random_bytes=self._random_bytes
                )
            except errors.StoreUnwritable as error:
                # Litestream hasn't run, so the path is still unused.
                if not said:
                    logs.event(logging.ERROR, "litestream not started", why=error.message)
                said = True
            await asyncio.sleep(START_AGAIN_S)
