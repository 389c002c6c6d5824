"""A scratch folder: one process's configurations and sockets. The next owner removes the folder of a killed one.

A folder belongs to its owner for as long as the owner holds the lock on a file in it. The kernel releases the lock when
the owner ends, however it ends. A process id isn't enough: outside of a PID namespace, no process can see the ids
inside it, and two processes may have the same id.

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
    """A folder of this process, under the system's folder for temporary files.

    Args:
        prefix: the beginning of its name. Folders with this prefix whose owners have ended are removed first.

    Raises:
        OSError: the folder can't be created.
    """

    def __init__(self, prefix: str) -> None:
        sweep(prefix)
        # Keep it short: the path of a Unix socket has room for 107 characters, and TMPDIR may be long.
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            self._lock = _locked(self.path / _LOCK)
        except OSError:
            self.path.rmdir()
            raise

    def remove(self) -> None:
        """Remove the folder and its content."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep(prefix: str) -> None:
    """Remove this user's folders with this prefix whose owners have ended."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another process has removed it
            found = path.lstat()
            if found.st_uid == os.getuid() and path.is_dir() and not path.is_symlink():
                lock = _taken(path / _LOCK)
                if lock is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    lock.close()


def _locked(path: Path) -> FileIO:
    """Create a lock that is held from the moment when other processes can see it."""
    unseen = path.with_name(f".{path.name}")
    file = unseen.open("wb", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX)
    unseen.rename(path)
    return file


def _taken(path: Path) -> FileIO | None:
    """Take the lock of a folder if no process holds it. A folder without the file is still being created."""
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
