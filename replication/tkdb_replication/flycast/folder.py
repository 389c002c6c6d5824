"""The folder of one stand-in: its configurations, logs and sockets. What a killed owner left, the next one removes.

A folder is its owner's for as long as the owner holds the lock on a file in it. The kernel gives the lock back when
the owner ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from io import FileIO
from pathlib import Path
from typing import Final

_PREFIX: Final = "tkdb-flycast-"
_LOCK: Final = "owner"


class Folder:
    """A folder of this process's own, under the system's folder for temporary files."""

    def __init__(self) -> None:
        sweep()
        # Short: the path of a Unix socket has room for 107 characters, and TMPDIR may be anything.
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = (self.path / _LOCK).open("wb", buffering=0)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep() -> None:
    """Remove this user's folders whose owners have ended."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid():
            lock = _taken(path / _LOCK)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                lock.close()


def _taken(path: Path) -> FileIO | None:
    """Take the lock of a folder, if nobody holds it. One without the file is just being made."""
    try:
        file = path.open("r+b", buffering=0)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
