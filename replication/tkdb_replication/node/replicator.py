"""The replicator: this machine's Litestream, which runs while it leads an epoch, and only then."""

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
"""How long after Litestream couldn't be given its folders it is tried again."""


class Replicator:
    """Starts Litestream on a path, has it sync, and stops it.

    Args:
        program: Litestream.
        bucket: where to.
        database: what is replicated; open. While Litestream runs, it alone moves the write-ahead log into the file.
        path: the database's file.
        random_bytes: spreads restarts.
        fit: done once the object store is known to honour conditional writes; nothing is led before.
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
        """Begin to replicate to the path ``base``. It is under way when this returns, and may yet fail."""
        await self.stop()
        self._replication = asyncio.create_task(self._start(base))

    async def sync(self, *, timeout_ms: int) -> Synced:
        """Have all that is committed in the object store, and return once it is.

        Raises:
            TkdbError: that isn't known to be so.
        """
        await asyncio.shield(self._fit)
        if self._replication is None:
            raise errors.Unavailable("Litestream isn't running")
        replication = await asyncio.shield(self._replication)
        return await replication.sync(timeout_ms=timeout_ms)

    async def stop(self) -> None:
        """End Litestream, if it runs. Who is cancelled meanwhile calls this again."""
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
            # The disk is full, or the file damaged: the next step on the journal meets that, and knows what to do.
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
                # Litestream hasn't run: the path is as fresh as it was.
                if not said:
                    logs.event(logging.ERROR, "litestream not started", why=error.message)
                said = True
            await asyncio.sleep(START_AGAIN_S)
