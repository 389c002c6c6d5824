"""The journal and its fold in SQLite: one file, one writer, each write one transaction.

    async with await Database.open(Path("tkdb.db")) as database:
        state = await database.load()
        entry = link(state.head, chain_key, now_ms=now_ms, epoch=0, body=body, made=made, origin=origin)
        await database.append(state, [entry])
        state.apply(entry)

Where several machines share one journal, this one's file may have to be cut back, or another be put in its place; the
``Database`` stays, and with it the lock by which no other process writes there.
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
from tkdb.database.file_replacement import Place
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
    """Make a method that takes its turn, and then goes on to its end when its caller is cancelled."""

    async def in_turn(self: Database, *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turn:
            return await method(self, *args, **kwargs)

    @wraps(method)
    async def shielded(self: Database, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.shield(asyncio.ensure_future(in_turn(self, *args, **kwargs)))

    return shielded


class Database(Reader):
    """A journal and its fold. Open it with ``Database.open``; close it, or its thread keeps the process alive."""

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
        """Open the database at ``path``, and make or migrate it first unless ``read_only``. ``":memory:"``: a new one.

        Args:
            path: the file.
            read_only: write nothing.
            immutable: read a file that nobody writes and that has no write-ahead log, as one just restored, and make
                nothing beside it. Other read-only openings leave SQLite's files there.
            checkpoints: let SQLite move the write-ahead log into the file as it grows. False where Litestream
                replicates the database: then it alone must do that.
            set_aside: where the file is found to be damaged, set it aside under this suffix and begin a new one. What
                opening doesn't look at may still be damaged: see the method ``set_aside``.

        Raises:
            ForeignDatabase: the file is another program's, or a newer version's; it was not touched.
            StoreUnwritable: it can't be written.
            BrokenJournal: it is damaged.
            StoreError: another process writes it, or it can't be read.
        """
        if path == MEMORY:
            return cls(await connections.connect(None, "write", checkpoints=checkpoints), MEMORY)
        path = Path(path)
        if read_only or immutable:
            file.check_ours(path)
            Place(path).check_settled(log=not immutable)
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
        """Finish what is under way, and close the file."""
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
        """Write entries that follow ``state``, with the changes they make, in one transaction: all or nothing.

        ``state`` itself isn't changed: the caller applies the entries to it afterwards. A write goes on to its end
        when the caller is cancelled; so let one task own the state and write.

        Raises:
            StoreUnwritable: the disk is full, read-only or failing. Nothing was changed; try again.
            OutcomeUnknown: the disk failed while the transaction was committed.
            BrokenJournal: an entry doesn't follow, or doesn't fit. Nothing was changed.
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
        """Drop all entries after ``seq`` and make the tables the fold of those that stay, in one transaction.

        They are folded from the first one on; of the tables only what differs is written. Takes about 7 s for a
        million revocations, during which others read nothing here. Where the journal already ends at ``seq`` or
        before, nothing is touched. A caller's cancellation doesn't end it.

        Returns:
            the state as of ``seq``; None where nothing was touched.

        Raises:
            StoreUnwritable, OutcomeUnknown: as ``append``.
            BrokenJournal: the entries that stay aren't a journal. Nothing was changed.
        """
        if (await self._end()).seq <= seq:
            return None
        refold = Refold()
        async with self._transaction() as connection:
            # Rows are replaced by deleting and inserting them; what refers to them is looked at when all is done.
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
        """Put the database file at ``path`` in place of this one, and go on with that.

        It is migrated if it is an older version's. A crash leaves the old file or the new one, each with no log but
        its own: what it cut short is taken up again when the database is next opened for writing. A caller's
        cancellation doesn't end it.

        Args:
            path: a sound database, on the same filesystem, that nobody else has open. It is moved away.

        Raises:
            ForeignDatabase, BrokenJournal: it isn't one. This database goes on as it was.
            StoreUnwritable: it can't be moved, or this database isn't a file that is open for writing.
            StoreError: another process has it open.
        """
        place = self._place()
        await asyncio.to_thread(file.check_ours, path)
        with sqlite_errors.writing(str(path)):
            # Opening migrates it, and takes in and removes a log that was left beside it.
            await (await connections.connect(path, "write", checkpoints=True)).close()
        await asyncio.to_thread(place.appoint, path)
        await self._disconnect()
        await asyncio.to_thread(place.settle)
        await self._connect(place)

    @_to_its_end
    async def set_aside(self, suffix: str) -> Path:
        """Set the damaged file aside, for somebody to look at, and go on with a new empty database in its place.

        What was set aside under the same suffix before is overwritten. After a crash the file is found as it was, or
        set aside, perhaps without its log. A caller's cancellation doesn't end it.

        Returns:
            where the file is now: ``NAME.SUFFIX``, its log beside it.

        Raises:
            ForeignDatabase: the file is another program's, or a newer version's; it was not touched.
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
        """Let SQLite move the write-ahead log into the file as it grows, from now on; or leave that to Litestream.

        It stays so when the file is replaced or set aside. Switched on, it begins with what has piled up.

        Raises:
            StoreUnwritable: the disk is full or failing; it is tried again with later writes.
        """
        connection, self._checkpoints = self._open(), on
        with sqlite_errors.writing(self._name):
            await connections.let_checkpoint(connection, on=on)
            if on:
                # While another process reads, it does what it can, and raises nothing.
                await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    def _place(self) -> Place:
        self._open()
        if self._writer is None:
            raise errors.StoreUnwritable(f"{self._name} isn't a file open for writing", hint="open it for writing")
        return self._writer.place

    async def _connect(self, place: Place) -> None:
        self._connection = await connections.connect(place.path, "write", checkpoints=self._checkpoints)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # what was acknowledged is in the log; a last checkpoint may fail
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
                    with suppress(sqlite3.Error):  # the first error says more
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
    """What the one process that writes a file has: its place, and the lock on it."""

    def __init__(self, path: Path) -> None:
        self.place = Place(path)
        self.lock = file.WriterLock(path)
