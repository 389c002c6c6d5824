"""A cluster as the commands see it: a bucket, and what proves that something in it is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tkdb import errors
from tkdb.database.audit import audit
from tkdb.database.database import Database
from tkdb.journal.entry import Entry, Head
from tkdb.journal.seal import SealKeys
from tkdb_replication.bucket.objects import Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.restore import restore
from tkdb_replication.litestream.supervisor import Timing, size_bytes
from tkdb_replication.protocol.head import HeadKeys, Place

HASHES: Final = "SELECT hash FROM journal ORDER BY seq"


@dataclass(frozen=True, slots=True)
class Audited:
    """A journal that was found whole, unaltered and ours.

    Attributes:
        journal: its id.
        end: its last entry.
        hashes: of all its entries, in order; each stands for the journal up to there.
    """

    journal: bytes
    end: Head
    hashes: tuple[bytes, ...]

    def contains(self, place: Place) -> bool:
        """Return whether ``place`` lies on this journal."""
        return 0 < place.seq <= len(self.hashes) and self.hashes[place.seq - 1] == place.hash

    def shares(self, other: Audited) -> int:
        """Return how many entries this journal and another have in common; they are the first ones."""
        pairs = zip(self.hashes, other.hashes, strict=False)
        shorter = min(len(self.hashes), len(other.hashes))
        return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), shorter)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a command works with.

    Attributes:
        name: the authority's name.
        seal_keys: unseal what is in a journal.
        head_keys: authenticate heads.
        verify: says whether an entry's signature is its signer's; None where the signer isn't known.
        bucket: where the bucket is, for Litestream.
        objects: the same bucket, for everything else.
        program: Litestream.
        random_bytes: returns so many random bytes.
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
        """Audit the journal in a file, which is only read.

        Raises:
            ConfigurationError: it is another authority's.
            BrokenJournal, WrongSealKey, StoreError: as ``audit``.
        """
        async with await Database.open(database, read_only=True) as opened:
            state = await opened.load()
            if state.name != self.name:
                raise errors.ConfigurationError(
                    f"it is a journal of the authority {state.name!r}, not of {self.name}", hint="check TKDB_NAME"
                )
            report = await audit(opened, self.seal_keys, self.verify)
            async with opened.snapshot():
                hashes = [row[0] async for page in opened.pages(HASHES) for row in page]
        return Audited(state.journal, report.head, tuple(hashes[: report.entries]))

    async def restore(self, base: str, target: Path, *, backup_bytes: int) -> Audited:
        """Restore what lies at a path of the bucket into a new file, and audit it.

        Args:
            base: the path.
            target: the new file.
            backup_bytes: about how much lies there: with it grows the time that is given.

        Raises:
            NoBackup, RestoreFailed, StoreUnwritable, Unavailable: as ``restore``.
            ConfigurationError, BrokenJournal, WrongSealKey, StoreError: as ``examine``.
        """
        timeout_ms = Timing().first_sync_ms(backup_bytes)
        await restore(self.program, self.bucket, base, target, timeout_ms=timeout_ms)
        return await self.examine(target)

    async def prove(self, base: str, end: Head, database: Path, target: Path) -> None:
        """Check that ``base`` restores to a sound journal with that very end: that the backup of ``database`` works.

        Raises:
            RestoreFailed: it doesn't.
            StoreUnwritable, Unavailable, StoreError: as ``restore``.
        """
        restored = await self.restore(base, target, backup_bytes=await asyncio.to_thread(size_bytes, database))
        if restored.end != end:
            raise errors.RestoreFailed(
                f"the backup ends at entry {restored.end.seq}, and not at {end.seq} as it should", hint="try again"
            )
