"""SQLite's errors, turned into errors of tkdb: the store never raises an error of SQLite itself.

>>> with reading("tkdb.db"):
...     raise sqlite3.DatabaseError("database disk image is malformed")
Traceback (most recent call last):
...
tkdb.errors.StoreError: tkdb.db can't be read: database disk image is malformed
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tkdb import errors

_UNWRITABLE: Final = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_READONLY: "make its file and folder writable for this user",
    sqlite3.SQLITE_PERM: "make its file and folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "make its file and folder writable for this user",
    sqlite3.SQLITE_IOERR: "check its disk",
    sqlite3.SQLITE_BUSY: "stop the other process that has it open",
    sqlite3.SQLITE_LOCKED: "stop the other process that has it open",
    sqlite3.SQLITE_NOMEM: "give the machine more memory",
    sqlite3.SQLITE_TOOBIG: "ask for less at once",
}
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_RESTORE: Final = "restore it from a copy that audits clean"


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn SQLite's errors into errors of tkdb while the database ``name`` is written.

    Raises:
        StoreUnwritable: the disk or another process prevents the write.
        BrokenJournal: the database is damaged, or the new rows contradict the rows in it.
    """
    try:
        yield
    except UnicodeDecodeError:
        raise _damaged(name, "it contains a text that isn't UTF-8") from None
    except sqlite3.Error as error:
        hint = _UNWRITABLE.get(primary_code(error))
        if hint is not None:
            raise errors.StoreUnwritable(f"{name} can't be written: {error}", hint=hint) from None
        if primary_code(error) in _DAMAGED:
            raise _damaged(name, error) from None
        raise errors.BrokenJournal(f"{name} rejects the new rows: {error}", hint=_RESTORE) from None


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn SQLite's errors into errors of tkdb while the database ``name`` is read.

    Raises:
        BrokenJournal: the database is damaged.
        StoreError: it can't be read for another reason.
    """
    try:
        yield
    except UnicodeDecodeError:
        raise _damaged(name, "it contains a text that isn't UTF-8") from None
    except sqlite3.Error as error:
        if primary_code(error) in _DAMAGED:
            raise _damaged(name, error) from None
        hint = _UNWRITABLE.get(primary_code(error), "")
        raise errors.StoreError(f"{name} can't be read: {error}", hint=hint) from None


def _damaged(name: str, error: object) -> errors.BrokenJournal:
    return errors.BrokenJournal(f"{name} is damaged: {error}", hint=_RESTORE)


def leaves_doubt(error: sqlite3.Error) -> bool:
    """Return True if a commit that failed with this error may still take effect after a crash.

    That is possible if the disk failed after the commit was written.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return primary_code(error) == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code: the low byte of the extended one (https://www.sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
