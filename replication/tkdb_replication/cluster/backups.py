"""Backups: the paths in the bucket that Litestream wrote. A new backup of a database is proved by restoring it.

>>> [backup] = group([Listing("epochs/00000007-00112233445566ff/ltx/0/1-1.ltx", size_bytes=90, modified_ms=5)])
>>> backup.base, backup.epoch, backup.size_bytes, backup.newest_ms
('epochs/00000007-00112233445566ff', 7, 90, 5)
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tkdb import errors
from tkdb_replication.bucket.objects import Listing, Objects, Unknown
from tkdb_replication.bucket.paths import BASES
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.cluster.head_object import unavailable
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.config import local_folder
from tkdb_replication.litestream.supervisor import Replication, SyncTiming, size_bytes

LIST_TIMEOUT_MS: Final = 60_000

_EPOCH: Final = re.compile(r"([0-9]{8,16})-[0-9a-f]{16}").fullmatch


@dataclass(frozen=True, slots=True)
class Backup:
    """A path under ``epochs/`` with its objects; never empty.

    Attributes:
        base: the path.
        epoch: the epoch of its primary; None if the path's name isn't one of tkdb's.
        objects: its objects.
    """

    base: str
    epoch: int | None
    objects: tuple[Listing, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all objects together."""
        return sum(each.size_bytes for each in self.objects)

    @property
    def oldest_ms(self) -> int:
        """The time of the oldest object, by the store's clock."""
        return min(each.modified_ms for each in self.objects)

    @property
    def newest_ms(self) -> int:
        """The time of the newest object, by the store's clock."""
        return max(each.modified_ms for each in self.objects)


def group(listed: Iterable[Listing]) -> list[Backup]:
    """Return the backups that the objects under ``epochs/`` belong to, sorted by epoch, then by age, the newest
    first."""
    paths: dict[str, list[Listing]] = {}
    for each in listed:
        name = each.key.removeprefix(BASES).partition("/")[0]
        paths.setdefault(name, []).append(each)
    found = [Backup(BASES + name, _epoch(name), tuple(objects)) for name, objects in paths.items()]
    return sorted(found, key=lambda each: (each.epoch or 0, each.oldest_ms, each.base), reverse=True)


def _epoch(name: str) -> int | None:
    match = _EPOCH(name)
    return int(match[1]) if match else None


async def list_backups(objects: Objects) -> tuple[list[Backup], int]:
    """Return the backups in a bucket, and the store's time of the answer, in ms since 1970.

    Raises:
        Unavailable: the object store doesn't answer, or gives no time.
    """
    listed = await objects.list(BASES, timeout_ms=LIST_TIMEOUT_MS)
    if isinstance(listed, Unknown):
        raise unavailable(listed)
    if listed.date_ms is None:
        raise errors.Unavailable("the object store's answer has no time", hint="use a store that sends a Date header")
    return group(listed.objects), listed.date_ms


async def back_up(
    program: Program, bucket: Bucket, database: Path, base: str, *, random_bytes: Callable[[int], bytes]
) -> None:
    """Upload a whole database to a new path in the bucket.

    Args:
        program: Litestream.
        bucket: the bucket to back up to.
        database: the file. The caller holds it, opened with ``checkpoints=False``.
        base: the path, which was never written to.
        random_bytes: returns random bytes, to spread Litestream's restarts.

    Raises:
        Unavailable: the backup isn't there, or isn't known to be. Nothing needs that path then.
        StoreUnwritable: Litestream has no room.
    """
    timing = SyncTiming()
    replication = await Replication.begin(program, bucket, database, base, random_bytes=random_bytes, timing=timing)
    try:
        await replication.sync(timeout_ms=timing.first_sync_ms(await asyncio.to_thread(size_bytes, database)))
    finally:
        await replication.stop()
        await asyncio.to_thread(shutil.rmtree, local_folder(database), ignore_errors=True)


@contextmanager
def scratch(database: Path) -> Iterator[Path]:
    """Yield a private folder for copies of databases: next to ``database`` if its folder exists, because there is
    room.

    Raises:
        StoreUnwritable: the folder can't be created.
    """
    beside = database.absolute().parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=".tkdb-", dir=beside if beside.is_dir() else None))
    except OSError as error:
        raise errors.StoreUnwritable(
            f"no folder can be created next to {database}: {error.strerror}", hint="make it writable for this user"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
