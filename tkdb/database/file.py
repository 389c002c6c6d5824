"""The database file: the check that it belongs to tkdb, made before SQLite touches it, and the lock of its one writer.

>>> check_version("tkdb.db", 99)
Traceback (most recent call last):
...
tkdb.errors.ForeignDatabase: tkdb.db has version 99; this tkdb supports versions up to 1: upgrade tkdb
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Literal

from tkdb import errors
from tkdb.database.migrations import APPLICATION_ID, MIGRATIONS

Access = Literal["write", "read", "immutable"]
"""How a file is opened. "immutable": read without its log, and no other file is made; nobody else may have it open."""

_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"


def check_ours(path: Path) -> None:
    """Check that the file at ``path`` is a tkdb database that this version can read.

    Only the first 100 bytes are read (https://www.sqlite.org/fileformat.html). SQLite, which may write next to a file,
    never opens a file of another program. An empty file passes: it is a database whose creation was interrupted.

    Raises:
        ForeignDatabase: the file is no tkdb database, or a newer version made it.
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
            f"{path} is not a tkdb database", hint="give the path of a tkdb database, or of a file that doesn't exist"
        )
    check_version(path, int.from_bytes(header[60:64], "big"))


def check_version(path: Path | str, user_version: int) -> None:
    """Check that this tkdb supports a database's version.

    Raises:
        ForeignDatabase: a newer version of tkdb made the database.
    """
    if user_version > len(MIGRATIONS):
        raise errors.ForeignDatabase(
            f"{path} has version {user_version}; this tkdb supports versions up to {len(MIGRATIONS)}",
            hint="upgrade tkdb",
        )


def create(path: Path) -> None:
    """Create the empty file that SQLite fills, readable and writable only for its owner, unless the file exists.

    SQLite gives the files that it keeps next to it the same mode.

    Raises:
        StoreUnwritable: it can't be created.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise errors.StoreUnwritable(
            f"{path} can't be written: {error.strerror}", hint="create its folder, writable for this user"
        ) from None


def uri(path: Path, access: Access) -> str:
    """Return the URI with which SQLite opens the file (https://www.sqlite.org/uri.html) and never creates it."""
    return path.absolute().as_uri() + _QUERIES[access]


_QUERIES: Final = {"write": "?mode=rw", "read": "?mode=ro", "immutable": "?mode=ro&immutable=1"}


class WriterLock:
    """The lock of the one process that writes a database, on a file next to it. The kernel releases it at process end.

    Raises:
        StoreError: another process holds the lock.
        StoreUnwritable: the file next to the database can't be written.
    """

    def __init__(self, path: Path) -> None:
        beside = path.with_name(path.name + ".lock")
        try:
            self._descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.StoreUnwritable(
                f"{beside} can't be written: {error.strerror}", hint="create its folder, writable for this user"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise errors.StoreError(
                f"another process writes {path}", hint="stop that process, or open the database read-only"
            ) from None

    def release(self) -> None:
        """Let another process write."""
        os.close(self._descriptor)
