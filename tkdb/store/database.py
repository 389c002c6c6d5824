"""The journal and its fold in SQLite: one file, one writer, each write one transaction.

    async with await Database.open(Path("tkdb.db")) as database:
        state = await database.load()
        entry = link(state.head, chain_key, now_ms=now_ms, epoch=0, body=body, made=made, origin=origin)
        await database.append(state, [entry])
        state.apply(entry)

SQLite runs in WAL mode with ``synchronous=FULL``: a commit that was acknowledged is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiosqlite

from tkdb import errors
from tkdb.store import faults, file, tables
from tkdb.store.fold import Draft, changes
from tkdb.store.journal import Entry, Head, check_place
from tkdb.store.migrations import APPLICATION_ID, MIGRATIONS
from tkdb.store.state import State

MEMORY: Final = ":memory:"
BUSY_TIMEOUT_MS: Final = 2_000
_PAGE_ROWS: Final = 2_000

# At DEBUG aiosqlite logs each statement with its arguments, and those are none of a log's business.
logging.getLogger("aiosqlite").setLevel(logging.INFO)


class Database:
    """A journal and its fold. Open it with ``Database.open``; close it, or its thread keeps the process alive."""

    def __init__(self, connection: aiosqlite.Connection, name: str, lock: file.WriterLock | None) -> None:
        self._connection = connection
        self._name = name
        self._lock = lock
        # Readers share the connection, and would see the half of a transaction.
        self._turn = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path | str, *, read_only: bool = False, checkpoints: bool = True) -> Self:
        """Open the database at ``path``, and make or migrate it first unless ``read_only``. ``":memory:"``: a new one.

        Args:
            path: the file.
            read_only: write nothing.
            checkpoints: let SQLite move the write-ahead log into the file as it grows. False where Litestream
                replicates the database: then it alone must do that.

        Raises:
            ForeignDatabase: the file is another program's, or a newer version's; it was not touched.
            StoreUnwritable: it can't be written.
            StoreError: another process writes it, or it can't be read.
        """
        lock = None
        if path != MEMORY:
            path = Path(path)
            if read_only or path.exists():
                file.check_ours(path)
            if not read_only:
                lock = file.WriterLock(path)
        try:
            connection = await _connect(path, read_only=read_only, checkpoints=checkpoints)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return cls(connection, str(path), lock)

    async def close(self) -> None:
        """Finish what is under way, and close the file."""
        async with self._turn:
            if self._closed:
                return
            self._closed = True
            with suppress(sqlite3.Error):  # what was acknowledged is in the log; a last checkpoint may fail
                await self._connection.close()
            if self._lock is not None:
                self._lock.release()

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
        runs = list(tables.statements(entries, draft.changes))
        await asyncio.shield(asyncio.ensure_future(self._write(runs)))

    async def load(self) -> State:
        """Return the state that the tables hold.

        Raises:
            StoreError: they can't be read.
        """
        state = State()
        shared: dict[Any, Any] = {}
        async with self.snapshot():
            for kind in tables.TABLES:
                async for page in self.pages(tables.select(kind)):
                    for row in tables.rows(kind, page, shared):
                        state.put(row)
            async for page in self.pages("SELECT seq, hash, epoch, time_ms FROM journal ORDER BY seq DESC LIMIT 1"):
                state.head = Head(*page[0])
        return state

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """Return at most ``limit`` entries after seq ``after``, in order.

        Raises:
            StoreError: they can't be read.
        """
        where = "WHERE seq > ? ORDER BY seq LIMIT ?"
        return [tables.entry(values) for values in await self._rows(_ENTRIES + where, (after, limit))]

    async def find_request(self, signer: bytes, request_id: bytes) -> Entry | None:
        """Return the entry that carried out a signer's request, if there is one.

        Raises:
            StoreError: the journal can't be read.
        """
        where = "WHERE signer = ? AND request_id = ? AND signer <> x''"
        rows = await self._rows(_ENTRIES + where, (signer, request_id))
        return tables.entry(rows[0]) if rows else None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Within this context ``pages`` shows the database as of its beginning; this process's writes wait.

        Raises:
            StoreError: it can't be read.
        """
        async with self._turn:
            self._check_open()
            with faults.reading(self._name):
                await self._connection.execute("BEGIN")
            try:
                yield
            finally:
                with faults.reading(self._name):
                    await self._connection.rollback()

    async def pages(self, sql: str) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield the rows of a query, some thousands at a time. To be used within ``snapshot``.

        Raises:
            StoreError: they can't be read.
        """
        self._check_open()
        with faults.reading(self._name):
            cursor = await self._connection.execute(sql)
            try:
                while page := list(await cursor.fetchmany(_PAGE_ROWS)):
                    yield page  # type: ignore[misc]  # rows are tuples while there is no row_factory
            finally:
                with suppress(ValueError):  # the connection was closed before a reader that gave up was tidied away
                    await cursor.close()

    def _check_open(self) -> None:
        if self._closed:
            raise errors.StoreError(f"{self._name} is closed")

    async def _rows(self, sql: str, arguments: tuple[Any, ...]) -> list[Any]:
        async with self._turn:
            self._check_open()
            with faults.reading(self._name):
                return list(await self._connection.execute_fetchall(sql, arguments))

    async def _write(self, runs: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        async with self._turn:
            self._check_open()
            with faults.writing(self._name):
                try:
                    await self._connection.execute("BEGIN IMMEDIATE")
                    for sql, arguments in runs:
                        await self._connection.executemany(sql, arguments)
                    await self._commit()
                except BaseException:
                    if self._connection.in_transaction:
                        with suppress(sqlite3.Error):  # the first error says more
                            await self._connection.rollback()
                    raise

    async def _commit(self) -> None:
        try:
            await self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if not faults.leaves_doubt(error):
                raise
            raise errors.OutcomeUnknown(
                f"{self._name}: the disk failed during a commit: {error}", hint="repeat the request with its id"
            ) from None


_ENTRIES: Final = f"SELECT {tables.ENTRY_COLUMNS} FROM journal "  # noqa: S608 -- our own names


async def _connect(path: Path | str, *, read_only: bool, checkpoints: bool) -> aiosqlite.Connection:
    if path == MEMORY:
        target = "file::memory:"
    else:
        if not read_only:
            file.create(Path(path))
        target = file.uri(Path(path), read_only=read_only)
    with faults.reading(str(path)) if read_only else faults.writing(str(path)):
        connection = aiosqlite.connect(target, uri=True, isolation_level=None)
        # A process that fails must end, and be started again, not wait for a thread that nobody will tell to stop.
        # Nothing is lost by that: what was acknowledged has been committed.
        connection._thread.daemon = True
        await connection
        try:
            await _prepare(connection, path, read_only=read_only, checkpoints=checkpoints)
        except BaseException:
            await connection.close()
            raise
    return connection


async def _prepare(connection: aiosqlite.Connection, path: Path | str, *, read_only: bool, checkpoints: bool) -> None:
    await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    await connection.execute("PRAGMA foreign_keys = ON")
    if not checkpoints:
        await connection.execute("PRAGMA wal_autocheckpoint = 0")
    [(version,)] = await connection.execute_fetchall("PRAGMA user_version")
    # Again: what the file's own header says may be older than what its write-ahead log says.
    file.check_version(path, version)
    if read_only:
        if version < len(MIGRATIONS):
            raise errors.StoreError(f"{path} has an older version", hint="open it for writing once")
        return
    if version == 0:
        # Before the write-ahead log begins, so that the file's own header tells whose it is from then on.
        await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        await connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
