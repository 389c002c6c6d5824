"""A connection to a database's file: opened, set up and migrated.

    connection = await connect(Path("tkdb.db"), "write", checkpoints=True)

SQLite runs in WAL mode with ``synchronous=FULL``: a commit that was acknowledged is on the disk.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import aiosqlite

from tkdb import errors
from tkdb.database import file, sqlite_errors
from tkdb.database.migrations import APPLICATION_ID, MIGRATIONS

BUSY_TIMEOUT_MS: Final = 2_000
CHECKPOINT_PAGES: Final = 1_000
"""How long the write-ahead log may grow before SQLite moves it into the file: 4 MB; its own default."""

# At DEBUG aiosqlite logs each statement with its arguments, and those are none of a log's business.
logging.getLogger("aiosqlite").setLevel(logging.INFO)


async def connect(path: Path | None, access: file.Access, *, checkpoints: bool) -> aiosqlite.Connection:
    """Open the file at ``path``, and make or migrate it first where ``access`` is "write". None: a new one in memory.

    Raises:
        ForeignDatabase: its write-ahead log says that it is a newer version's.
        BrokenJournal: it is damaged.
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
        # A process that fails must end, and be started again, not wait for a thread that nobody will tell to stop.
        # Nothing is lost by that: what was acknowledged has been committed.
        connection._thread.daemon = True
        await connection
        try:
            await _prepare(connection, name, access)
            await let_checkpoint(connection, on=checkpoints)
        except BaseException:
            await connection.close()
            raise
    return connection


async def let_checkpoint(connection: aiosqlite.Connection, *, on: bool) -> None:
    """Let SQLite move the write-ahead log into the file as it grows, or leave that to another program."""
    await connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES if on else 0}")


async def _prepare(connection: aiosqlite.Connection, name: str, access: file.Access) -> None:
    await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    await connection.execute("PRAGMA foreign_keys = ON")
    [(version,)] = await connection.execute_fetchall("PRAGMA user_version")
    # Again: what the file's own header says may be older than what its write-ahead log says.
    file.check_version(name, version)
    if access != "write":
        if version < len(MIGRATIONS):
            raise errors.StoreError(f"{name} has an older version", hint="open it for writing once")
        return
    if version == 0:
        # Before the write-ahead log begins, so that the file's own header tells whose it is from then on.
        await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        await connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
