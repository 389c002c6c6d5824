"""What is read of a database: its journal, by place, by request or as a whole, and the state that its tables hold."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiosqlite

from tkdb import errors
from tkdb.database import sqlite_errors, tables
from tkdb.journal.entry import START, Entry, Head
from tkdb.journal.state import State

_PAGE_ROWS: Final = 2_000
_PAGE_ENTRIES: Final = 256
"""How many entries are read at once, where all are: at most 10 MB."""

_ENTRIES: Final = f"SELECT {tables.ENTRY_COLUMNS} FROM journal "  # noqa: S608 -- our own names
_PLACES: Final = "SELECT seq, hash, epoch, time_ms FROM journal "


class Reader:
    """Reads by one connection, on which reads and writes take turns: a reader would see the half of a transaction."""

    def __init__(self, connection: aiosqlite.Connection, name: str) -> None:
        self._connection: aiosqlite.Connection | None = connection
        self._name = name
        self._turn = asyncio.Lock()

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
            state.head = await self._end()
        return state

    async def end(self) -> Head:
        """Return the place of the journal's last entry; ``START`` where there is none.

        Raises:
            StoreError: it can't be read.
        """
        async with self._turn:
            return await self._end()

    async def hash_at(self, seq: int) -> bytes | None:
        """Return the hash of entry ``seq``; 32 zero bytes before the first, None where the journal doesn't reach it.

        Raises:
            StoreError: it can't be read.
        """
        if seq == START.seq:
            return START.hash
        places = await self._rows(_PLACES + "WHERE seq = ?", (seq,))
        return tables.head(places[0]).hash if places else None

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """Return at most ``limit`` entries after seq ``after``, in order.

        Raises:
            StoreError: they can't be read.
        """
        return tables.entries(await self._rows(_ENTRIES + "WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)))

    async def find_request(self, signer: bytes, request_id: bytes) -> Entry | None:
        """Return the entry that carried out a signer's request, if there is one.

        Raises:
            StoreError: the journal can't be read.
        """
        where = "WHERE signer = ? AND request_id = ? AND signer <> x''"
        found = tables.entries(await self._rows(_ENTRIES + where, (signer, request_id)))
        return found[0] if found else None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Within this context ``pages`` shows the database as of its beginning; this process's writes wait.

        Raises:
            StoreError: it can't be read.
        """
        async with self._turn:
            connection = self._open()
            with sqlite_errors.reading(self._name):
                await connection.execute("BEGIN")
            try:
                yield
            finally:
                with sqlite_errors.reading(self._name):
                    await connection.rollback()

    async def pages(self, sql: str, rows: int = _PAGE_ROWS) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield the rows of a query, at most ``rows`` at a time. To be used within ``snapshot``.

        Raises:
            StoreError: they can't be read.
        """
        connection = self._open()
        with sqlite_errors.reading(self._name):
            cursor = await connection.execute(sql)
            try:
                while page := list(await cursor.fetchmany(rows)):
                    yield page  # type: ignore[misc]  # rows are tuples while there is no row_factory
            finally:
                # The connection may be closed before a reader that gave up is tidied away.
                with suppress(ValueError, sqlite3.ProgrammingError):
                    await cursor.close()

    def journal(self) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield the whole journal, as ``pages``. To be used within ``snapshot``.

        Raises:
            StoreError: it can't be read.
        """
        return self.pages(_ENTRIES + "ORDER BY seq", _PAGE_ENTRIES)

    def _open(self) -> aiosqlite.Connection:
        if self._connection is None:
            raise errors.StoreError(f"{self._name} is closed")
        return self._connection

    async def _end(self) -> Head:
        with sqlite_errors.reading(self._name):
            places: list[Any] = list(await self._open().execute_fetchall(_PLACES + "ORDER BY seq DESC LIMIT 1"))
        return tables.head(places[0]) if places else START

    async def _rows(self, sql: str, arguments: tuple[Any, ...]) -> list[Any]:
        async with self._turn:
            connection = self._open()
            with sqlite_errors.reading(self._name):
                return list(await connection.execute_fetchall(sql, arguments))
