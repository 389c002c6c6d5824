"""The steps on this machine's journal: cut it back, append the head's entries, replace it with a backup, serve it.

They take turns with the writer's commits. If a journal is found to be damaged, it is moved aside, so that there is no
journal: the next step restores one.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from tkdb import errors, logs
from tkdb.authority.view import View, chain_key_of
from tkdb.database.database import Database
from tkdb.database.proof import prove
from tkdb.journal.entry import Entry, check_link
from tkdb.journal.fold import Draft, changes
from tkdb.journal.seal import SealKeys
from tkdb.journal.state import State
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.restore import restore
from tkdb_replication.protocol.head import Checkpoint

RESTORE_TIMEOUT_MS: Final = 600_000
DAMAGED: Final = "damaged"
"""The suffix of a damaged database, after its name and a dot."""


class Steps:
    """Changes the journal of a machine that isn't primary, and the part of it that is served.

    Args:
        served: the journal, and the served part of it.
        path: the database's file.
        name: the authority's name.
        seal_keys: unseal chain keys.
        program: Litestream.
        bucket: the bucket with the backups.
    """

    def __init__(
        self, served: View, path: Path, *, name: str, seal_keys: SealKeys, program: Program, bucket: Bucket
    ) -> None:
        self._served = served
        self._database = served.database
        self._path = path
        self._name = name
        self._seal_keys = seal_keys
        self._program = program
        self._bucket = bucket
        self._loaded: State | None = None

    async def cut_back(self, places: tuple[Checkpoint, ...]) -> Checkpoint:
        """Cut the journal back to the last of ``places`` that is on it, if there is one. Return its end.

        Raises:
            StoreError, StoreUnwritable: the journal can't be cut back.
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

    async def apply(self, entries: tuple[Entry, ...]) -> Checkpoint:
        """Check entries against the chain key, and append them. Return the end of the journal.

        Raises:
            BrokenJournal: they don't follow the journal, or weren't written with the chain key.
            StoreError, StoreUnwritable, OutcomeUnknown: they can't be appended.
        """
        async with self._served.turn:
            state = self._served.state
            draft, head = Draft(state), state.head
            if await _end(self._database) != (head.seq, head.hash):
                raise errors.StoreError("the served state isn't at the end of the journal on the disk")
            for entry in entries:
                for change in changes(draft, entry):
                    draft.put(change)
                check_link(head, chain_key_of(draft, self._seal_keys), entry)
                head = entry.head
            try:
                await self._database.append(state, entries)
            except errors.BrokenJournal as error:  # The entries do follow the served state, so the file is damaged.
                await self._set_aside(error)
                raise
            return Checkpoint(head.seq, head.hash)

    async def restore(self, base: str, places: tuple[Checkpoint, ...], through: Checkpoint) -> Checkpoint:
        """Replace the journal with the latest copy in ``base``, cut back to the last of ``places``. Return its end.

        Anyone who can write to the bucket can alter the backup. So the whole backup is first proven with the chain
        keys.

        Raises:
            RestoreFailed: none of ``places`` is on it, or it lacks ``through``, which was served here before.
            BrokenJournal: it was altered.
            NoBackup, StoreUnwritable, Unavailable: there is no backup, or it can't be restored.
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

    async def serve(self, place: Checkpoint) -> None:
        """Show the journal up to ``place``.

        Raises:
            ConfigurationError: the journal belongs to another authority.
            StoreError: the journal can't be read, or doesn't contain ``place``.
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
                f"the bucket belongs to the authority {name}, not to {self._name}",
                hint="check TKDB_NAME and BUCKET_NAME",
            )

    async def _set_aside(self, error: errors.BrokenJournal) -> None:
        path = await self._database.set_aside(DAMAGED)
        logs.event(logging.ERROR, "journal damaged", why=error.message, kept_at=str(path))


def _clear(path: Path) -> None:
    """Delete a database file that an earlier attempt left, with SQLite's files next to it.

    Raises:
        StoreUnwritable: a file can't be deleted.
    """
    try:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise errors.StoreUnwritable(
            f"{path} can't be deleted: {error.strerror}", hint="make its folder writable for this user"
        ) from None


async def _end(database: Database) -> Checkpoint:
    head = await database.end()
    return Checkpoint(head.seq, head.hash)


async def _last_on(database: Database, places: tuple[Checkpoint, ...]) -> Checkpoint | None:
    for place in reversed(places):
        if await database.hash_at(place.seq) == place.hash:
            return place
    return None
