"""The database's file: whose it is, looked at before SQLite touches it, and who alone may write it.

>>> check_version("tkdb.db", 99)
Traceback (most recent call last):
...
tkdb.errors.ForeignDatabase: tkdb.db has version 99; this tkdb knows versions to 1: upgrade tkdb
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Literal

from tkdb import errors
from tkdb.database.migrations import APPLICATION_ID, MIGRATIONS

Access = Literal["write", "read", "immutable"]
"""How a file is opened. "immutable": as it is, by nobody else and without its log; nothing is made beside it."""

_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"


def check_ours(path: Path) -> None:
    """Check that the file at ``path`` is a tkdb database that this version can read.

    Only its first 100 bytes are looked at (https://www.sqlite.org/fileformat.html), so that a file which is someone
    else's is never opened by SQLite, which may write beside it. An empty file is one whose making was cut short.

    Raises:
        ForeignDatabase: it is another file, or a newer version's.
        StoreError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise errors.StoreError(f"{path} can't be read: {error.strerror}") from None
    if not header:
        return
    if header[:16] != _MAGIC or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise errors.ForeignDatabase(
            f"{path} is not a tkdb database", hint="give the path of one, or of a file that doesn't exist"
        )
    check_version(path, int.from_bytes(header[60:64], "big"))


def check_version(path: Path | str, user_version: int) -> None:
    """Check that a database's version is known here.

    Raises:
        ForeignDatabase: a newer version of tkdb made it.
    """
    if user_version > len(MIGRATIONS):
        raise errors.ForeignDatabase(
            f"{path} has version {user_version}; this tkdb knows versions to {len(MIGRATIONS)}", hint="upgrade tkdb"
        )


def create(path: Path) -> None:
    """Create the empty file that SQLite fills, for its owner's eyes only, unless it exists.

    SQLite gives the files that it keeps beside it the same mode.

    Raises:
        StoreUnwritable: it can't be created.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise errors.StoreUnwritable(
            f"{path} can't be written: {error.strerror}", hint="make its folder, writable for this user"
        ) from None


def uri(path: Path, access: Access) -> str:
    """Return the address by which SQLite opens the file (https://www.sqlite.org/uri.html); it never creates it."""
    return path.absolute().as_uri() + _QUERIES[access]


_QUERIES: Final = {"write": "?mode=rw", "read": "?mode=ro", "immutable": "?mode=ro&immutable=1"}


class WriterLock:
    """Held by the one process that writes a database, on a file beside it; the kernel releases it with the process.

    Raises:
        StoreError: another process holds it.
        StoreUnwritable: the file beside the database can't be written.
    """

    def __init__(self, path: Path) -> None:
        beside = path.with_name(path.name + ".lock")
        try:
            self._descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.StoreUnwritable(
                f"{beside} can't be written: {error.strerror}", hint="make its folder, writable for this user"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise errors.StoreError(
                f"another process writes {path}", hint="end it, or open the database read-only"
            ) from None

    def release(self) -> None:
        """Let another process write."""
        os.close(self._descriptor)
