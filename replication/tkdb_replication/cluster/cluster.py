"""A cluster from the commands' view: a bucket, and the secrets that prove its content."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tkdb import errors
from tkdb.database.audit import audit
from tkdb.database.database import Database
from tkdb.journal.entry import Entry, Tip
from tkdb.journal.seal import SealKeys
from tkdb_replication.bucket.objects import Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.restore import restore
from tkdb_replication.litestream.supervisor import SyncTiming, size_bytes
from tkdb_replication.protocol.head import Checkpoint, HeadKeys

HASHES: Final = "SELECT hash FROM journal ORDER BY seq"


@dataclass(frozen=True, slots=True)
class Audited:
    """A journal that passed an audit: complete, unaltered, and this authority's.

    Attributes:
        journal: its id.
        end: its last entry.
        hashes: the hashes of all its entries, in order. Each covers the journal up to its entry.
    """

    journal: bytes
    end: Tip
    hashes: tuple[bytes, ...]

    def contains(self, place: Checkpoint) -> bool:
        """Return True if ``place`` is on this journal."""
        return 0 < place.seq <= len(self.hashes) and self.hashes[place.seq - 1] == place.hash

    def shares(self, other: Audited) -> int:
        """Return how many of the first entries this journal and another one have in common."""
        pairs = zip(self.hashes, other.hashes, strict=False)
        shorter = min(len(self.hashes), len(other.hashes))
        return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), shorter)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The parts that a command needs.

    Attributes:
        name: the authority's name.
        seal_keys: unseal the records of a journal.
        head_keys: authenticate heads.
        verify: checks an entry's signature; returns None if the signer isn't known.
        bucket: the bucket's settings, for Litestream.
        objects: the same bucket, for all other requests.
        program: Litestream.
        random_bytes: returns ``n`` random bytes.
    """

    name: str
    seal_keys: SealKeys
    head_keys: HeadKeys
    verify: Callable[[Entry], bool | None]
    bucket: Bucket
    objects: Objects
    program: Program
    random_bytes: Callable[[int], bytes]

    async def examine(self, database: Path) -> Audited:
        """Audit the journal in a file. The file is only read.

        Raises:
            ConfigurationError: it belongs to another authority.
            BrokenJournal, WrongSealKey, StoreError: as ``audit``.
        """
        async with await Database.open(database, read_only=True) as opened:
            state = await opened.load()
            if state.name != self.name:
                raise errors.ConfigurationError(
                    f"the journal belongs to the authority {state.name!r}, not to {self.name}", hint="check TKDB_NAME"
                )
            report = await audit(opened, self.seal_keys, self.verify)
            async with opened.snapshot():
                hashes = [row[0] async for page in opened.pages(HASHES) for row in page]
        return Audited(state.journal, report.head, tuple(hashes[: report.entries]))

    async def restore(self, base: str, target: Path, *, backup_bytes: int) -> Audited:
        """Restore the backup at a path of the bucket into a new file, and audit it.

        Args:
            base: the path.
            target: the new file.
            backup_bytes: the approximate size of the backup. The timeout grows with it.

        Raises:
            NoBackup, RestoreFailed, StoreUnwritable, Unavailable: as ``restore``.
            ConfigurationError, BrokenJournal, WrongSealKey, StoreError: as ``examine``.
        """
        timeout_ms = SyncTiming().first_sync_ms(backup_bytes)
        await restore(self.program, self.bucket, base, target, timeout_ms=timeout_ms)
        return await self.examine(target)

    async def prove(self, base: str, end: Tip, database: Path, target: Path) -> None:
        """Check that ``base`` restores to a valid journal with exactly this end: that the backup of ``database``
        works.

        Raises:
            RestoreFailed: it doesn't.
            StoreUnwritable, Unavailable, StoreError: as ``restore``.
        """
        restored = await self.restore(base, target, backup_bytes=await asyncio.to_thread(size_bytes, database))
        if restored.end != end:
            raise errors.RestoreFailed(
                f"the backup ends at entry {restored.end.seq}, but {end.seq} is expected", hint="try again"
            )
