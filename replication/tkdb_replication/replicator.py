"""The replicator: this machine's Litestream, which runs while it leads an epoch, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tkdb import errors
from tkdb.store.database import Database
from tkdb_replication.bucket import Bucket
from tkdb_replication.control import Synced
from tkdb_replication.litestream import Replication
from tkdb_replication.program import Program


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
        await self._database.let_checkpoint(False)
        self._replication = asyncio.create_task(
            Replication.begin(self._program, self._bucket, self._path, base, random_bytes=self._random_bytes)
        )

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
        """End Litestream, if it runs."""
        starting, self._replication = self._replication, None
        if starting is None:
            return
        starting.cancel()
        with suppress(asyncio.CancelledError, errors.TkdbError):
            await (await starting).stop()
        await self._database.let_checkpoint(True)
