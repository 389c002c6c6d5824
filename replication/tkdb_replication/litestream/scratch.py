"""A scratch folder: one process's configurations and sockets. What a killed owner left, the next one removes.

A folder is its owner's for as long as the owner holds the lock on a file in it. The kernel gives the lock back when
the owner ends, however it ends. A process id would not do: one that runs in another PID namespace is seen by nobody
outside, and two of them may have the same.

>>> one, other = Scratch("tkdb-example-"), Scratch("tkdb-example-")
>>> one.path.exists(), one.path != other.path
(True, True)
>>> one.remove(), other.remove()
(None, None)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final

_LOCK: Final = "owner"


class Scratch:
    """A folder of this process's own, under the system's folder for temporary files.

    Args:
        prefix: what its name begins with. Folders of that prefix whose owners have ended are removed first.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, prefix: str) -> None:
        sweep(prefix)
        # Short: the path of a Unix socket has room for 107 characters, and TMPDIR may be anything.
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            self._lock = _locked(self.path / _LOCK)
        except OSError:
            self.path.rmdir()
            raise

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep(prefix: str) -> None:
    """Remove this user's folders of this prefix whose owners have ended."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else has removed it
            found = path.lstat()
            if found.st_uid == os.getuid() and path.is_dir() and not path.is_symlink():
                lock = _taken(path / _LOCK)
                if lock is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    lock.close()


def _locked(path: Path) -> FileIO:
    """Make a lock that is held from the moment that it can be seen."""
    unseen = path.with_name(f".{path.name}")
    file = unseen.open("wb", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX)
    unseen.rename(path)
    return file


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
