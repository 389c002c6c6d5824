"""The reads of a database: its journal (by position, by request or as a whole), and the state in its tables."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiosqlite

from tkdb import errors
from tkdb.database import sqlite_errors, tables
from tkdb.journal.entry import START, Entry, Tip
from tkdb.journal.state import State

_PAGE_ROWS: Final = 2_000
_PAGE_ENTRIES: Final = 256
"""The number of entries in one page of the whole journal: at most 10 MB."""

_ENTRIES: Final = f"SELECT {tables.ENTRY_COLUMNS} FROM journal "  # noqa: S608 -- our own names
_PLACES: Final = "SELECT seq, hash, epoch, time_ms FROM journal "


class Reader:
    """The reads over one connection. Reads and writes take turns on it, or a reader would see half of a transaction."""

    def __init__(self, connection: aiosqlite.Connection, name: str) -> None:
        self._connection: aiosqlite.Connection | None = connection
        self._name = name
        self._turn = asyncio.Lock()

    async def load(self) -> State:
        """Return the state in the tables.

        Raises:
            StoreError: the tables can't be read.
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

    async def end(self) -> Tip:
        """Return the journal's tip, or ``START`` if the journal is empty.

        Raises:
            StoreError: it can't be read.
        """
        async with self._turn:
            return await self._end()

    async def hash_at(self, seq: int) -> bytes | None:
        """Return the hash of entry ``seq``; 32 zero bytes for position 0, or None if the journal has no such entry.

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
        """Enter a context in which ``pages`` reads the database as it was at the start; this process's writes wait.

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
        """Yield the rows of a query, at most ``rows`` at a time. Call it within ``snapshot``.

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
                # The connection may be closed before this cleanup runs, if the reader stopped early.
                with suppress(ValueError, sqlite3.ProgrammingError):
                    await cursor.close()

    def journal(self) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield the whole journal, in pages. Call it within ``snapshot``.

        Raises:
            StoreError: it can't be read.
        """
        return self.pages(_ENTRIES + "ORDER BY seq", _PAGE_ENTRIES)

    def _open(self) -> aiosqlite.Connection:
        if self._connection is None:
            raise errors.StoreError(f"the database {self._name} is closed")
        return self._connection

    async def _end(self) -> Tip:
        with sqlite_errors.reading(self._name):
            places: list[Any] = list(await self._open().execute_fetchall(_PLACES + "ORDER BY seq DESC LIMIT 1"))
        return tables.head(places[0]) if places else START

    async def _rows(self, sql: str, arguments: tuple[Any, ...]) -> list[Any]:
        async with self._turn:
            connection = self._open()
            with sqlite_errors.reading(self._name):
                return list(await connection.execute_fetchall(sql, arguments))
