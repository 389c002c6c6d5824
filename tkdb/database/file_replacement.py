"""The place of a database: the path at which one file replaces another, together with SQLite's files next to it.

SQLite finds a file's write-ahead log by the file's name, and replays any log that it finds. So a log must never be next
to a file that it doesn't belong to, whenever the power fails. A file must not lose its log either while the file is
still in use, because an interrupted checkpoint leaves the file between two states.

>>> place = FileReplacement(Path("/data/tkdb.db"))
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
"""SQLite's files next to a database: two kinds of log, and the index of one (https://www.sqlite.org/tempfiles.html)."""
_LOGS: Final = 2


class FileReplacement:
    """The place of a database file, at ``path``. Only the holder of its lock may use it, while nobody has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.successor = path.with_name(path.name + ".successor")
        """The file that replaces the present one. While it exists, the replacement is decided but not complete."""

    def appoint(self, new: Path) -> None:
        """Decide that ``settle`` puts the file ``new`` in this place, now or at the next opening.

        The decision is one atomic step. Before it, the old file and its log are untouched; after it, they are given up.

        Args:
            new: a complete database, without a log, on the same filesystem.

        Raises:
            StoreError: one of SQLite's files is next to it.
            StoreUnwritable: it can't be moved.
        """
        if any(beside.exists() for beside in _beside(new)):
            raise errors.StoreError(f"another process has {new} open", hint="stop that process")
        with _moving(new):
            sync_to_disk(new)
            new.replace(self.successor)
            sync_to_disk(self.path.parent)

    def settle(self) -> None:
        """Put the successor in place, if there is one, and drop a log whose file was set aside.

        This completes a replacement, or a setting aside, that a crash interrupted.

        Raises:
            ForeignDatabase: the successor isn't a file that this process could have appointed.
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
        """Check that a reader finds a complete database here, and no log next to it unless ``log`` is True.

        Raises:
            StoreError: the file is being replaced, or has a log that may be part of the database.
        """
        if self.successor.exists():
            raise errors.StoreError(f"the database {self.path} is being replaced", hint="open it for writing once")
        logs = _beside(self.path)[:_LOGS]
        if not log and any(beside.exists() and beside.stat().st_size for beside in logs):
            raise errors.StoreError(
                f"the database {self.path} has a log file next to it", hint="stop the process that has it open"
            )

    def set_aside(self, suffix: str) -> Path:
        """Move the file and its log to ``NAME.SUFFIX``, in place of any older files there, and return this path.

        A crash leaves both untouched, or moves only the file. ``settle`` then drops the log that was left.

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
    """Wait until a file's content, or the list of a folder's files, is on the disk."""
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
