"""The steps on this machine's journal: cut it back, append what the head names, replace it by a backup, serve it.

They take turns with the writer's commits. A journal that turns out to be damaged is moved aside, and then there is
none: the next step restores it.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from tkdb import errors, logs
from tkdb.authority.view import Served, chain_key_of
from tkdb.database.database import Database
from tkdb.database.proof import prove
from tkdb.journal.entry import Entry, check_link
from tkdb.journal.fold import Draft, changes
from tkdb.journal.seal import SealKeys
from tkdb.journal.state import State
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.restore import restore
from tkdb_replication.protocol.head import Place

RESTORE_TIMEOUT_MS: Final = 600_000
DAMAGED: Final = "damaged"
"""What a damaged database is called from then on, after its own name and a point."""


class Steps:
    """What changes the journal on a machine that isn't primary, and what is shown of it.

    Args:
        served: the journal, and what is shown of it.
        path: the database's file.
        name: the authority's.
        seal_keys: unseal chain keys.
        program: Litestream.
        bucket: where backups are.
    """

    def __init__(
        self, served: Served, path: Path, *, name: str, seal_keys: SealKeys, program: Program, bucket: Bucket
    ) -> None:
        self._served = served
        self._database = served.database
        self._path = path
        self._name = name
        self._seal_keys = seal_keys
        self._program = program
        self._bucket = bucket
        self._loaded: State | None = None

    async def cut_back(self, places: tuple[Place, ...]) -> Place:
        """Cut the journal back to the last of ``places`` that lies on it, if one does; return its end.

        Raises:
            StoreError, StoreUnwritable: it can't be.
        """
        async with self._served.turn:
            try:
                place = await _last_on(self._database, places)
                if place is not None:
                    self._loaded = await self._database.cut_back(place.seq)
                return await _end(self._database)
            except errors.BrokenJournal as error:
                await self._set_aside(error)
                return await _end(self._database)

    async def apply(self, entries: tuple[Entry, ...]) -> Place:
        """Check entries against the chain key and append them; return the journal's end.

        Raises:
            BrokenJournal: they don't follow, or weren't written by a holder of the chain key.
            StoreError, StoreUnwritable, OutcomeUnknown: they can't be appended.
        """
        async with self._served.turn:
            state = self._served.state
            draft, head = Draft(state), state.head
            if await _end(self._database) != (head.seq, head.hash):
                raise errors.StoreError("what is shown isn't the end of the journal on the disk")
            for entry in entries:
                for change in changes(draft, entry):
                    draft.put(change)
                check_link(head, chain_key_of(draft, self._seal_keys), entry)
                head = entry.head
            try:
                await self._database.append(state, entries)
            except errors.BrokenJournal as error:  # they do follow what is shown: so it is the file
                await self._set_aside(error)
                raise
            return Place(head.seq, head.hash)

    async def restore(self, base: str, places: tuple[Place, ...], through: Place) -> Place:
        """Replace the journal by the latest that ``base`` holds, cut back to the last of ``places``; return its end.

        Whoever can write the bucket can alter what lies there. So all of it is proven first, by the chain keys.

        Raises:
            RestoreFailed: none of ``places`` lies on it, or it lacks ``through``, which was served here before.
            BrokenJournal: it was altered.
            NoBackup, StoreUnwritable, Unavailable: there is none, or it can't be had.
        """
        new = self._path.with_name(f"{self._path.name}.restored")
        await asyncio.to_thread(_clear, new)
        await restore(self._program, self._bucket, base, new, timeout_ms=RESTORE_TIMEOUT_MS)
        async with await Database.open(new, immutable=True) as database:
            proven = await prove(database, self._seal_keys)
            end = await _last_on(database, places)
            if end is None:
                raise errors.RestoreFailed("the backup doesn't join the head", hint="see `tkdb recover`")
            if through.seq <= end.seq and await database.hash_at(through.seq) != through.hash:
                raise errors.RestoreFailed(f"the backup lacks entry {through.seq}, which was served here")
        async with self._served.turn:
            await self._database.replace(new)
            self._loaded = await self._database.cut_back(end.seq) or proven.state
        return end

    async def serve(self, place: Place) -> None:
        """Show the journal up to ``place``.

        Raises:
            ConfigurationError: it is another authority's.
            StoreError: the journal can't be read, or isn't so.
        """
        loaded, self._loaded = self._loaded, None
        if loaded is not None and (loaded.head.seq, loaded.head.hash) == place:
            async with self._served.turn:
                self._served.replace(loaded)
        else:
            await self._served.show(place.seq, place.hash)
        name = self._served.state.name
        if place.seq and name != self._name:
            raise errors.ConfigurationError(
                f"the bucket is of the authority {name}, not of {self._name}", hint="check TKDB_NAME and BUCKET_NAME"
            )

    async def _set_aside(self, error: errors.BrokenJournal) -> None:
        path = await self._database.set_aside(DAMAGED)
        logs.event(logging.ERROR, "journal damaged", why=error.message, kept_at=str(path))


def _clear(path: Path) -> None:
    """Delete a database file that an earlier try left, and what SQLite keeps beside one.

    Raises:
        StoreUnwritable: it can't be.
    """
    try:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise errors.StoreUnwritable(
            f"{path} can't be deleted: {error.strerror}", hint="make its folder writable for this user"
        ) from None


async def _end(database: Database) -> Place:
    head = await database.end()
    return Place(head.seq, head.hash)


async def _last_on(database: Database, places: tuple[Place, ...]) -> Place | None:
    for place in reversed(places):
        if await database.hash_at(place.seq) == place.hash:
            return place
    return None
