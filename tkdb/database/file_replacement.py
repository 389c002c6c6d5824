"""The place of a database: the path at which one file is put for another, with what SQLite keeps beside it.

SQLite finds a file's write-ahead log by the file's name and replays whatever lies there. So a log must never come to
lie beside another file than its own, whenever the power fails; nor may a file lose its log while it is still in use,
since a checkpoint that was cut short has left it between two states.

>>> place = Place(Path("/data/tkdb.db"))
>>> str(place.successor)
'/data/tkdb.db.successor'
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tkdb import errors
from tkdb.database import file

_BESIDE: Final = ("-wal", "-journal", "-shm")
"""What SQLite keeps beside a file: two kinds of log, and an index of one (https://www.sqlite.org/tempfiles.html)."""
_LOGS: Final = 2


class Place:
    """Where a database's file is, at ``path``. For the process that holds its lock, while nobody has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.successor = path.with_name(path.name + ".successor")
        """The file that is to be put in place of the one there. While it exists, that is decided, and under way."""

    def appoint(self, new: Path) -> None:
        """Decide that the file ``new`` is put in this place, by ``settle`` now or at the next opening.

        Before this the old file and its log are untouched; from then on they are given up. It takes one step.

        Args:
            new: a whole database, without a log, on the same filesystem.

        Raises:
            StoreError: a log lies beside it.
            StoreUnwritable: it can't be moved.
        """
        if any(beside.exists() for beside in _beside(new)):
            raise errors.StoreError(f"another process has {new} open", hint="end it")
        with _moving(new):
            sync_to_disk(new)
            new.replace(self.successor)
            sync_to_disk(self.path.parent)

    def settle(self) -> None:
        """Put the successor in place, if there is one; drop a log whose file was set aside. So crashes are mended.

        Raises:
            ForeignDatabase: the file there isn't one that this process could have appointed.
            StoreUnwritable: it can't be moved.
        """
        with _moving(self.path):
            if self.successor.exists():
                file.check_ours(self.successor)
                self._drop_beside()
                self.successor.replace(self.path)
                sync_to_disk(self.path.parent)
            elif not self.path.exists():
                self._drop_beside()

    def check_settled(self, *, log: bool) -> None:
        """Check that a reader finds a whole database here; with no log beside it unless ``log``.

        Raises:
            StoreError: the file is being replaced, or has a log that may be part of it.
        """
        if self.successor.exists():
            raise errors.StoreError(f"{self.path} is being replaced", hint="open it for writing once")
        logs = _beside(self.path)[:_LOGS]
        if not log and any(beside.exists() and beside.stat().st_size for beside in logs):
            raise errors.StoreError(f"{self.path} has a log beside it", hint="end what has it open")

    def set_aside(self, suffix: str) -> Path:
        """Move the file and its log to ``NAME.SUFFIX``, in place of what an earlier time left there; return that path.

        A crash leaves both untouched, or the file moved; a log that then stayed behind is dropped by ``settle``.

        Raises:
            StoreUnwritable: it can't be moved.
        """
        aside = self.path.with_name(f"{self.path.name}.{suffix}")
        with _moving(self.path):
            for left in (*_beside(aside), aside):
                left.unlink(missing_ok=True)
            if self.path.exists():
                self.path.replace(aside)
                sync_to_disk(self.path.parent)
            for log, log_aside in zip(_beside(self.path)[:_LOGS], _beside(aside), strict=False):
                if log.exists():
                    log.replace(log_aside)
            self._drop_beside()
        return aside

    def _drop_beside(self) -> None:
        for beside in _beside(self.path):
            beside.unlink(missing_ok=True)
        sync_to_disk(self.path.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or which files a folder holds, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + suffix) for suffix in _BESIDE)


@contextmanager
def _moving(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.StoreUnwritable(
            f"{path} can't be moved: {error.strerror}", hint="make its folder writable for this user, on one filesystem"
        ) from None
