"""The journal and its fold in SQLite: one file, one writer, and one transaction for each write.

    async with await Database.open(Path("tkdb.db")) as database:
        state = await database.load()
        entry = link(state.head, chain_key, now_ms=now_ms, epoch=0, body=body, made=made, origin=origin)
        await database.append(state, [entry])
        state.apply(entry)

If several machines share one journal, this machine may have to cut its file back, or put another file in its place. The
``Database`` object stays, and so does its lock, which keeps other processes from writing the file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

import aiosqlite

from tkdb import errors
from tkdb.database import connection as connections
from tkdb.database import file, sqlite_errors, tables
from tkdb.database.file_replacement import FileReplacement
from tkdb.database.reader import Reader
from tkdb.database.refold import Refold, differences, in_turns
from tkdb.journal.entry import Entry, check_place
from tkdb.journal.fold import Draft, changes
from tkdb.journal.state import State

MEMORY: Final = ":memory:"

P = ParamSpec("P")
R = TypeVar("R")


def _to_its_end(
    method: Callable[Concatenate[Database, P], Awaitable[R]],
) -> Callable[Concatenate[Database, P], Coroutine[Any, Any, R]]:
    """Return a method that waits for its turn, and that runs to its end even if its caller is cancelled."""

    async def in_turn(self: Database, *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turn:
            return await method(self, *args, **kwargs)

    @wraps(method)
    async def shielded(self: Database, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.shield(asyncio.ensure_future(in_turn(self, *args, **kwargs)))

    return shielded


class Database(Reader):
    """A journal and its fold. Open it with ``Database.open``, and close it when you are done."""

    def __init__(
        self, connection: aiosqlite.Connection, name: str, writer: _Writer | None = None, *, checkpoints: bool = True
    ) -> None:
        super().__init__(connection, name)
        self._writer = writer
        self._checkpoints = checkpoints

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        read_only: bool = False,
        immutable: bool = False,
        checkpoints: bool = True,
        set_aside: str | None = None,
    ) -> Self:
        """Open the database at ``path``; first create or migrate it unless it is opened only for reading.

        Args:
            path: the file, or ``":memory:"`` for a new database in memory.
            read_only: write nothing.
            immutable: read a file that nobody writes and that has no write-ahead log (a restored file, for example),
                and create no file next to it. Without this, opening read-only leaves SQLite's files there.
            checkpoints: let SQLite move the write-ahead log into the file as the log grows. Set it to False if
                Litestream replicates the database, because then only Litestream may do that.
            set_aside: if the file is found damaged, set it aside under this suffix and begin a new one. Opening doesn't
                read the whole file, so the rest may still be damaged: see the method ``set_aside``.

        Raises:
            ForeignDatabase: the file belongs to another program, or to a newer version; it was not touched.
            StoreUnwritable, BrokenJournal: it can't be written, or it is damaged.
            StoreError: another process writes it, or it can't be read.
        """
        if path == MEMORY:
            return cls(await connections.connect(None, "write", checkpoints=checkpoints), MEMORY)
        path = Path(path)
        if read_only or immutable:
            file.check_ours(path)
            FileReplacement(path).check_settled(log=not immutable)
            access: file.Access = "immutable" if immutable else "read"
            return cls(await connections.connect(path, access, checkpoints=False), str(path))
        if path.exists():
            file.check_ours(path)
        writer = _Writer(path)
        try:
            writer.place.settle()
            try:
                connection = await connections.connect(path, "write", checkpoints=checkpoints)
            except errors.BrokenJournal:
                if set_aside is None:
                    raise
                writer.place.set_aside(set_aside)
                connection = await connections.connect(path, "write", checkpoints=checkpoints)
        except BaseException:
            writer.lock.release()
            raise
        return cls(connection, str(path), writer, checkpoints=checkpoints)

    async def close(self) -> None:
        """Finish the running operations, and close the file."""
        async with self._turn:
            await self._disconnect()
            if self._writer is not None:
                self._writer.lock.release()
                self._writer = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def append(self, state: State, entries: Sequence[Entry]) -> None:
        """Write entries that follow ``state``, together with their changes, in one transaction: all or nothing.

        ``state`` itself isn't changed: the caller applies the entries to it afterwards. A write runs to its end even
        if the caller is cancelled. Therefore, let one task own the state and do all writes.

        Raises:
            StoreUnwritable: the disk is full, read-only or failing. Nothing was changed; try again.
            OutcomeUnknown: the disk failed while the transaction was committed.
            BrokenJournal: an entry isn't the next one, or contradicts the rows. Nothing was changed.
        """
        draft, head = Draft(state), state.head
        for entry in entries:
            check_place(head, entry)
            for change in changes(draft, entry):
                draft.put(change)
            head = entry.head
        await self._write(list(tables.statements(entries, draft.changes)))

    @_to_its_end
    async def cut_back(self, seq: int) -> State | None:
        """Drop all entries after ``seq`` and make the tables the fold of the other entries, in one transaction.

        The remaining entries are folded from the first one on, and only rows that differ are written. This takes about
        7 s for a million revocations, and other tasks can't read the database during this time. If the journal already
        ends at ``seq`` or before, nothing changes. It runs to its end even if the caller is cancelled.

        Returns:
            the state at ``seq``, or None if nothing changed.

        Raises:
            StoreUnwritable, OutcomeUnknown: as for ``append``.
            BrokenJournal: the remaining entries aren't a valid journal. Nothing was changed.
        """
        if (await self._end()).seq <= seq:
            return None
        refold = Refold()
        async with self._transaction() as connection:
            # Rows are replaced by deleting and inserting them, so their references can only be checked at the end.
            await connection.execute("PRAGMA defer_foreign_keys = ON")
            await connection.execute("DELETE FROM journal WHERE seq > ?", (seq,))
            async for entry in in_turns(self.journal()):
                refold.apply(entry)
            for kind in tables.TABLES:
                found = [pair async for pair in differences(kind, self.pages(tables.select(kind)), refold.rows(kind))]
                for sql, arguments in tables.corrections(kind, found):
                    await connection.executemany(sql, arguments)
        return refold.state

    @_to_its_end
    async def replace(self, path: Path) -> None:
        """Put the database file at ``path`` in place of this one, and continue with the new file.

        A file of an older version is migrated. A crash leaves the old file or the new one, and no log of the other
        file next to it. The next opening for writing completes an interrupted replacement. It runs to its end even if
        the caller is cancelled.

        Args:
            path: an undamaged database, on the same filesystem, that no other process has open. It is moved away.

        Raises:
            ForeignDatabase, BrokenJournal: the file isn't such a database. This database stays unchanged.
            StoreUnwritable: it can't be moved, or this database isn't a file that is open for writing.
            StoreError: another process has it open.
        """
        place = self._place()
        await asyncio.to_thread(file.check_ours, path)
        with sqlite_errors.writing(str(path)):
            # Opening the file migrates it, applies a log that was left next to it, and removes this log.
            await (await connections.connect(path, "write", checkpoints=True)).close()
        await asyncio.to_thread(place.appoint, path)
        await self._disconnect()
        await asyncio.to_thread(place.settle)
        await self._connect(place)

    @_to_its_end
    async def set_aside(self, suffix: str) -> Path:
        """Set the damaged file aside for a later examination, and continue with a new empty database in its place.

        A file that was set aside earlier under the same suffix is overwritten. After a crash, the file is unchanged or
        set aside, perhaps without its log. It runs to its end even if the caller is cancelled.

        Returns:
            the file's new path: ``NAME.SUFFIX``, with its log next to it.

        Raises:
            ForeignDatabase: the file belongs to another program, or to a newer version; it was not touched.
            StoreUnwritable: it can't be moved, or this database isn't a file that is open for writing.
        """
        place = self._place()
        if place.path.exists():
            await asyncio.to_thread(file.check_ours, place.path)
        await self._disconnect()
        aside = await asyncio.to_thread(place.set_aside, suffix)
        await self._connect(place)
        return aside

    @_to_its_end
    async def let_checkpoint(self, on: bool) -> None:
        """Let SQLite move the write-ahead log into the file from now on as the log grows, or leave that to Litestream.

        The setting stays when the file is replaced or set aside. When it is switched on, SQLite first moves the log
        that has accumulated.

        Raises:
            StoreUnwritable: the disk is full or failing; later writes try again.
        """
        connection, self._checkpoints = self._open(), on
        with sqlite_errors.writing(self._name):
            await connections.let_checkpoint(connection, on=on)
            if on:
                # While another process reads, this moves only a part of the log, and raises no error.
                await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    def _place(self) -> FileReplacement:
        self._open()
        if self._writer is None:
            raise errors.StoreUnwritable(
                f"the database {self._name} isn't a file that is open for writing", hint="open it for writing"
            )
        return self._writer.place

    async def _connect(self, place: FileReplacement) -> None:
        self._connection = await connections.connect(place.path, "write", checkpoints=self._checkpoints)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # each acknowledged write is in the log; only a last checkpoint may fail
                await connection.close()

    @_to_its_end
    async def _write(self, runs: list[tables.Run]) -> None:
        async with self._transaction() as connection:
            for sql, arguments in runs:
                await connection.executemany(sql, arguments)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        connection = self._open()
        with sqlite_errors.writing(self._name):
            try:
                await connection.execute("BEGIN IMMEDIATE")
                yield connection
                await self._commit(connection)
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # the first error explains more
                        await connection.rollback()
                raise

    async def _commit(self, connection: aiosqlite.Connection) -> None:
        try:
            await connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if not sqlite_errors.leaves_doubt(error):
                raise
            raise errors.OutcomeUnknown(
                f"{self._name}: the disk failed during a commit: {error}", hint="repeat the request with its id"
            ) from None


class _Writer:
    """The place of a file, and the lock on it, in the one process that writes the file."""

    def __init__(self, path: Path) -> None:
        self.place = FileReplacement(path)
        self.lock = file.WriterLock(path)
