"""Litestream's supervision: one database, replicated to one path for as long as this machine is primary.

    program = await Program.find()
    base = fresh_base(7, random_bytes=secrets.token_bytes)
    replication = await Replication.begin(program, bucket, database, base, random_bytes=secrets.token_bytes)
    synced = await replication.sync(timeout_ms=2_000)    # only now may an entry leave the head's ``recent``
    await replication.stop()

This process supervises Litestream, and not the reverse: if Litestream is killed, its own ``-exec`` leaves the
application running, writing without replication. A Litestream that ends is restarted. One that doesn't answer, or makes
no progress, is killed first, and so is one whose access key was replaced. It ends with this process, however that ends.
Every start needs a new path (``bucket.paths.fresh_base``), because two Litestreams on one path would overwrite each
other's objects without a warning.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeVar

from tkdb import errors, logs
from tkdb.net.backoff import Backoff
from tkdb_replication.bucket.credentials import Credentials
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.config import configuration, local_folder
from tkdb_replication.litestream.control import Control, Synced
from tkdb_replication.litestream.log import parse_line
from tkdb_replication.litestream.scratch import Scratch

FOLDERS: Final = "tkdb-litestream-"
"""The prefix of folders with Litestream's configuration and socket."""

FIRST_SYNC_BYTES_PER_MS: Final = 2_000
"""The slowest upload of a whole database that is accepted: 2 MB/s."""

_TAIL_S: Final = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SyncTiming:
    """The supervisor's time limits.

    Attributes:
        start_ms: the longest time until a new process answers for the first time.
        look_ms: the pause between checks of its health.
        hung_ms: how long it may give no answer before it is killed.
        stuck_ms: how long it may have no successful sync before it is killed, although it answers. It waits without a
            limit on a connection whose other end is gone. The first sync, of the whole database, may take longer,
            in proportion to its size (``FIRST_SYNC_BYTES_PER_MS``).
        stop_ms: how long it may take to stop before it is killed.
        well_ms: after a life of this length, the next restart counts as a first one again.
        backoff: the waits between restarts.
    """

    start_ms: int = 10_000
    look_ms: int = 1_000
    hung_ms: int = 5_000
    stuck_ms: int = 60_000
    stop_ms: int = 3_000
    well_ms: int = 60_000
    backoff: Backoff = field(default_factory=lambda: Backoff(base_ms=100, cap_ms=10_000))

    def first_sync_ms(self, database_bytes: int) -> int:
        """Return how long the first sync of a database of this size may take."""
        return self.stuck_ms + database_bytes // FIRST_SYNC_BYTES_PER_MS


class Replication:
    """A database's replication to one path, from ``begin`` to ``stop``."""

    def __init__(
        self,
        program: Program,
        bucket: Bucket,
        database: Path,
        base: str,
        scratch: Scratch,
        random_bytes: Callable[[int], bytes],
        timing: SyncTiming,
        failing_max_ms: int,
    ) -> None:
        self._program = program
        self._bucket = bucket
        self._database = database
        self._base = base
        self._scratch = scratch
        self._random_bytes = random_bytes
        self._timing = timing
        self._failing_max_ms = failing_max_ms
        self._control: Control | None = None
        self._well = asyncio.Event()
        self._failing_since_s: float | None = None
        self._supervisor = asyncio.create_task(self._supervise(), name="litestream")
        self._stopping: asyncio.Task[None] | None = None

    @classmethod
    async def begin(
        cls,
        program: Program,
        bucket: Bucket,
        database: Path,
        base: str,
        *,
        random_bytes: Callable[[int], bytes],
        timing: SyncTiming | None = None,
    ) -> Self:
        """Start replicating to a new path, and return once Litestream answers. Nothing is synced yet.

        If the caller is cancelled, no process and no folder is left.

        Args:
            program: Litestream.
            bucket: the bucket to replicate to.
            database: the file. Only its owner may write to it, with ``wal_autocheckpoint`` off.
            base: the path in the bucket, which was never written to.
            random_bytes: returns random bytes, to spread restarts.
            timing: the time limits.

        Raises:
            StoreUnwritable: Litestream's folder from an earlier path can't be deleted, or its configuration can't be
                written.
            Unavailable: Litestream doesn't run.
        """
        timing = timing or SyncTiming()
        async with AsyncExitStack() as undo:
            scratch = _scratch()
            undo.push_async_callback(_in_thread, scratch.remove)
            database = await _in_thread(database.resolve)
            await _in_thread(lambda: _prepare(bucket, base, database, scratch.path))
            failing_max_ms = timing.first_sync_ms(await _in_thread(lambda: size_bytes(database)))
            replication = cls(program, bucket, database, base, scratch, random_bytes, timing, failing_max_ms)
            undo.push_async_callback(replication.stop)
            try:
                async with asyncio.timeout(timing.start_ms / 1000):
                    await replication._well.wait()
            except TimeoutError:
                raise errors.Unavailable(
                    f"Litestream didn't start within {timing.start_ms} ms", hint="look for its lines in the log"
                ) from None
            undo.pop_all()
        return replication

    @property
    def base(self) -> str:
        """The path in the bucket that only this replication writes to."""
        return self._base

    @property
    def pid(self) -> int | None:
        """Litestream's process, from its first answer until it is known to have ended."""
        return None if self._control is None else self._control.pid

    async def sync(self, *, timeout_ms: int) -> Synced:
        """Upload every commit so far to the object store, and return once that is done.

        Raises:
            Unavailable: it isn't known to be done. It may be done all the same, now or later.
        """
        if self._control is None:
            raise errors.Unavailable("Litestream isn't running", hint="try again: it is being restarted")
        began_s = asyncio.get_running_loop().time()
        try:
            synced = await self._control.sync(self._database, timeout_ms=timeout_ms)
        except errors.Unavailable:
            self._failing_since_s = self._failing_since_s or began_s
            raise
        self._failing_since_s = None
        self._failing_max_ms = self._timing.stuck_ms
        return synced

    async def stop(self) -> None:
        """Stop Litestream for good. A cancelled caller still waits for its end. A second call does nothing."""
        self._stopping = self._stopping or asyncio.create_task(self._stop())
        await _to_its_end(self._stopping)

    async def _stop(self) -> None:
        self._supervisor.cancel()
        await asyncio.wait([self._supervisor])
        await asyncio.to_thread(self._scratch.remove)

    async def _supervise(self) -> None:
        loop, retry = asyncio.get_running_loop(), 0
        while True:
            began_s = loop.time()
            try:
                reason = await self._live()
            except Exception as error:  # noqa: BLE001 -- a bug in tkdb must not end the supervision without a log line
                logs.failure("litestream unsupervised", error)
                reason = "its supervision failed"
            if loop.time() - began_s >= self._timing.well_ms / 1000:
                retry = 0
            jitter = int.from_bytes(self._random_bytes(4), "big") / 2**32
            wait_ms = self._timing.backoff.wait_ms(retry, jitter=jitter)
            logs.event(logging.WARNING, "litestream ended", base=self._base, reason=reason, restart_in_ms=wait_ms)
            await asyncio.sleep(wait_ms / 1000)
            retry += 1

    async def _live(self) -> str:
        """Run the process once. Return the reason for its end."""
        credentials = self._bucket.credentials
        try:
            process = await self._program.run(
                *("replicate", "-no-expand-env", "-config", str(self._scratch.path / _CONFIGURATION)),
                credentials=credentials,
            )
        except OSError as error:
            return f"it can't be started: {error.strerror}"
        lines = asyncio.create_task(self._log(process, credentials))
        self._failing_since_s = None
        grace_ms = self._timing.stop_ms
        try:
            reason = await self._watch(process, credentials)
            grace_ms = 0
        finally:
            self._control = None
            await _end(process, grace_ms)
            await asyncio.wait([lines], timeout=_TAIL_S)
            lines.cancel()
        return reason

    async def _watch(self, process: Process, credentials: Credentials) -> str:
        control = Control(self._scratch.path / _SOCKET, pid=process.pid, credentials=credentials)
        loop, timing = asyncio.get_running_loop(), self._timing
        ending = asyncio.create_task(process.wait())
        answered, deadline_s = False, loop.time() + timing.start_ms / 1000
        try:
            while not ending.done():
                left_ms = int(1000 * (deadline_s - loop.time()))
                if left_ms <= 0:
                    return "it gave no answer, and was killed"
                if loop.time() - (self._failing_since_s or loop.time()) >= self._failing_max_ms / 1000:
                    return "no sync was successful for too long, and it was killed"
                if self._bucket.credentials != credentials:
                    return "the bucket has a new access key, and Litestream reads its key only when it starts"
                if await control.answers(left_ms):
                    answered, deadline_s = True, loop.time() + timing.hung_ms / 1000
                    self._control = control
                    self._well.set()
                await asyncio.wait([ending], timeout=(timing.look_ms if answered else _STARTING_MS) / 1000)
            return f"it exited with {process.returncode}"
        finally:
            ending.cancel()

    async def _log(self, process: Process, credentials: Credentials) -> None:
        assert process.stdout is not None  # noqa: S101 -- the program is run with a pipe
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # the line is longer than the reader's limit, and is lost
                continue
            if not line:
                return
            parsed = parse_line(line, credentials=credentials)
            logs.event(parsed.level, "litestream", **parsed.fields)


_CONFIGURATION: Final = "litestream.json"
_SOCKET: Final = "control"
_STARTING_MS: Final = 20


async def _to_its_end(task: asyncio.Future[T]) -> T:
    """Return the result of ``task``. A cancelled caller still waits for its end, and is cancelled then."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


def _in_thread(function: Callable[[], T]) -> Awaitable[T]:
    """Run a function in a thread, which never continues after this call ends."""
    return _to_its_end(asyncio.ensure_future(asyncio.to_thread(function)))


def _scratch() -> Scratch:
    """Create the folder for Litestream's configuration and socket."""
    # It isn't next to the database, because the path of a socket has room for 107 bytes only.
    try:
        return Scratch(FOLDERS)
    except OSError as error:
        raise errors.StoreUnwritable(
            f"no folder for Litestream can be created: {error.strerror}", hint="check TMPDIR, and its free space"
        ) from None


def _prepare(bucket: Bucket, base: str, database: Path, folder: Path) -> None:
    """Delete the files that an earlier path left next to the database, and write the configuration."""
    try:
        # With this folder, every sync to another path fails.
        with suppress(FileNotFoundError):
            shutil.rmtree(local_folder(database))
        (folder / _CONFIGURATION).write_text(configuration(bucket, base, database, socket=folder / _SOCKET))
    except OSError as error:
        raise errors.StoreUnwritable(
            f"Litestream's folders can't be recreated: {error.strerror}", hint=f"check {local_folder(database)}"
        ) from None


def size_bytes(database: Path) -> int:
    """Return the size of a database and its write-ahead log; 0 if there is none."""
    total = 0
    for path in (database, database.with_name(f"{database.name}-wal")):
        with suppress(OSError):
            total += path.stat().st_size
    return total


async def _end(process: Process, grace_ms: int) -> None:
    if process.returncode is None and grace_ms:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_ms / 1000):
                await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
