"""The folder of a lab. It belongs to one lab at a time, is open only to its owner, and is removed when the lab ends.

A lab that was killed leaves its folder behind. The next lab removes it, because nothing answers at its socket.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tkdb import errors

CONTROL: Final = "control"
"""The name of the control socket in the folder."""

_MARK: Final = "tkdb-lab"


def default_folder() -> Path:
    """Return the default folder of this user's lab."""
    return Path(tempfile.gettempdir()) / f"tkdb-lab-{os.getuid()}"


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Create ``folder``, and remove it with its contents when the context ends.

    Raises:
        Conflict: a lab runs there.
        ConfigurationError: the folder exists and isn't a lab's, or it can't be created.
    """
    if folder.exists() or folder.is_symlink():
        _clear(folder)
    try:
        folder.mkdir(mode=0o700, parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise errors.ConfigurationError(
            f"the folder {folder} can't be created: {error.strerror}", hint="give another --folder"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove a folder that one of this user's labs has left behind."""
    if _answers(folder / CONTROL):
        raise errors.Conflict(f"a lab runs in {folder}", hint="end it with `tkdb lab down`, or give another --folder")
    ours = not folder.is_symlink() and folder.lstat().st_uid == os.getuid() and (folder / _MARK).is_file()
    if not ours:
        raise errors.ConfigurationError(f"{folder} exists, and isn't a lab's folder", hint="give another --folder")
    shutil.rmtree(folder, ignore_errors=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
