"""What a machine must not forget, in a small file beside its database: never replicated, never restored.

>>> import tempfile
>>> from tkdb_replication.head import Place
>>> path = Path(tempfile.mkdtemp()) / "tkdb.db"
>>> file = VolumeFile(path)
>>> file.write(Volume(journal=b"j" * 16, rev=7, place=Place(3, b"h" * 32), owner=b"o" * 16))
>>> file.read(journal=b"j" * 16).rev
7
>>> file.read(journal=None).rev
-1
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from tkdb import errors
from tkdb.server import logs
from tkdb.store.place import sync_to_disk
from tkdb_replication.reader import Volume

_CHECK_BYTES: Final = 4
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Volume)


class VolumeFile:
    """The file ``NAME.machine`` beside the database ``NAME``, which one process at a time has locked.

    Args:
        database: the database's path.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(f"{database.name}.machine")

    def read(self, *, journal: bytes | None) -> Volume:
        """Return what the volume says: nothing of a new machine, or of another journal than the one that is there.

        A damaged file is as good as none, as a lost disk is.

        Args:
            journal: the id of the journal in the database beside it; None where there is none.

        Raises:
            StoreError: it can't be read.
        """
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return Volume(journal=journal)
        except OSError as error:
            raise errors.StoreError(f"{self._path} can't be read: {error.strerror}") from None
        check, content = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        try:
            volume = _decoder.decode(content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            volume = None
        if volume is None or check != crc32(content).to_bytes(_CHECK_BYTES):
            logs.event(logging.WARNING, "volume file damaged", path=str(self._path))
            volume = None
        return volume if volume is not None and volume.journal == journal else Volume(journal=journal)

    def write(self, volume: Volume) -> None:
        """Keep this on the disk: when it returns it is there, and until then what was there before.

        Raises:
            StoreUnwritable: the disk is full, read-only or failing.
        """
        content = _encoder.encode(volume)
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(crc32(content).to_bytes(_CHECK_BYTES) + content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            sync_to_disk(self._path.parent)
        except OSError as error:
            raise errors.StoreUnwritable(
                f"{self._path} can't be written: {error.strerror}", hint="make room on the disk"
            ) from None
