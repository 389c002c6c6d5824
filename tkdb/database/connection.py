"""A connection to a database file: opened, set up and migrated.

    connection = await connect(Path("tkdb.db"), "write", checkpoints=True)

SQLite runs in WAL mode with ``synchronous=FULL``: an acknowledged commit is on the disk.
"""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Thread
from typing import Final

import aiosqlite

from tkdb import errors
from tkdb.database import file, sqlite_errors
from tkdb.database.migrations import APPLICATION_ID, MIGRATIONS

BUSY_TIMEOUT_MS: Final = 400
"""How long SQLite waits for another program's lock. A write may wait twice: for the round before it, and in its own.
Both waits must end within a client's attempt, so that the caller learns that nothing was written, and why."""
CHECKPOINT_PAGES: Final = 1_000
"""The length of the write-ahead log at which SQLite moves it into the file: 4 MB, which is SQLite's default."""

# At DEBUG, aiosqlite logs each statement with its arguments, which must never appear in a log.
logging.getLogger("aiosqlite").setLevel(logging.INFO)


async def connect(path: Path | None, access: file.Access, *, checkpoints: bool) -> aiosqlite.Connection:
    """Open the file at ``path``, or a new database in memory if it is None.

    If ``access`` is "write", the file is first created or migrated.

    Raises:
        ForeignDatabase: according to the write-ahead log, a newer version of tkdb made the database.
        BrokenJournal: the database is damaged.
        StoreUnwritable: it can't be written.
        StoreError: it can't be read.
    """
    if path is None:
        name = target = "file::memory:"
    else:
        if access == "write":
            file.create(path)
        name, target = str(path), file.uri(path, access)
    with sqlite_errors.writing(name) if access == "write" else sqlite_errors.reading(name):
        connection = aiosqlite.connect(target, uri=True, isolation_level=None)
        _never_hold_the_process(connection)
        await connection
        try:
            await _prepare(connection, name, access)
            await let_checkpoint(connection, on=checkpoints)
        except BaseException:
            await connection.close()
            raise
    return connection


def _never_hold_the_process(connection: aiosqlite.Connection) -> None:
    """Let the process end although the connection's thread runs.

    A process that fails must end, so that it can be started again. It must not wait for a thread that nobody stops.
    Nothing is lost: each acknowledged write has been committed.
    """
    # aiosqlite has no public way to say so. Without this attribute, only the end of a failed process may hang.
    thread = getattr(connection, "_thread", None)
    if isinstance(thread, Thread):
        thread.daemon = True


async def let_checkpoint(connection: aiosqlite.Connection, *, on: bool) -> None:
    """Let SQLite move the write-ahead log into the file as the log grows, or leave that to another program."""
    await connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES if on else 0}")


async def _prepare(connection: aiosqlite.Connection, name: str, access: file.Access) -> None:
    await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    await connection.execute("PRAGMA foreign_keys = ON")
    [(version,)] = await connection.execute_fetchall("PRAGMA user_version")
    # The second check: the version in the file's header may be older than the version in the write-ahead log.
    file.check_version(name, version)
    if access != "write":
        if version < len(MIGRATIONS):
            raise errors.StoreError(f"the database {name} has an older version", hint="open it for writing once")
        return
    if version == 0:
        # This comes before the write-ahead log begins, so that from then on the file's header contains tkdb's id.
        await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        await connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
