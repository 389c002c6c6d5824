"""The facts that a machine must keep, in a small file next to its database. The file is never replicated or
restored.

>>> import tempfile
>>> from tkdb_replication.protocol.head import Checkpoint
>>> path = Path(tempfile.mkdtemp()) / "tkdb.db"
>>> file = VolumeFile(path)
>>> file.write(Volume(journal=b"j" * 16, rev=7, place=Checkpoint(3, b"h" * 32), owner=b"o" * 16))
>>> VolumeFile(path).read(journal=b"j" * 16).rev
7
>>> VolumeFile(path).read(journal=None).rev
-1

It is written before anything new is served, so one write must be enough. The file has two slots, which are written
alternately. A write that is cut short damages one of them, and the other still has the values from before.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from tkdb import errors, logs
from tkdb.database.file_replacement import sync_to_disk
from tkdb_replication.protocol.reader import Volume

SLOT_BYTES: Final = 512
_SLOTS: Final = 2
_CHECK_BYTES: Final = 4
_TURN_BYTES: Final = 8
_LENGTH_BYTES: Final = 2
_HEADER_BYTES: Final = _CHECK_BYTES + _TURN_BYTES + _LENGTH_BYTES

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Volume)


class _Slot(NamedTuple):
    """A volume, and the number of its write: the higher number counts."""

    turn: int
    volume: Volume


class VolumeFile:
    """The file ``NAME.machine`` next to the database ``NAME``. One process at a time holds the database's lock.

    Args:
        database: the database's path.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(f"{database.name}.machine")
        self._turn: int | None = None

    def read(self, *, journal: bytes | None) -> Volume:
        """Return the stored values, or empty ones for a new machine, or for another journal than the one in the
        database.

        A damaged file counts as missing, like a lost disk.

        Args:
            journal: the id of the journal in the database next to it; None if there is none.

        Raises:
            StoreError: the file can't be read.
        """
        volume = self._last().volume
        return volume if volume.journal == journal else Volume(journal=journal)

    def write(self, volume: Volume) -> None:
        """Write the values to the disk. When it returns they are on the disk; until then, the earlier values are.

        Raises:
            StoreUnwritable: the disk is full, read-only or failing.
            StoreError: the file can't be read.
        """
        turn = (self._last().turn if self._turn is None else self._turn) + 1
        try:
            descriptor = self._open()
            try:
                os.pwrite(descriptor, _encode(_Slot(turn, volume)), turn % _SLOTS * SLOT_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise errors.StoreUnwritable(
                f"{self._path} can't be written: {error.strerror}", hint="make room on the disk"
            ) from None
        self._turn = turn

    def _open(self) -> int:
        """Open the file for synchronous writes. Create it first, at its full size, if it doesn't exist."""
        if not self._path.exists():
            new = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(new, bytes(SLOT_BYTES * _SLOTS))
                os.fsync(new)
            finally:
                os.close(new)
            sync_to_disk(self._path.parent)
        return os.open(self._path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)

    def _last(self) -> _Slot:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return _Slot(0, Volume())
        except OSError as error:
            raise errors.StoreError(f"{self._path} can't be read: {error.strerror}") from None
        slots = [_decode(raw[at : at + SLOT_BYTES]) for at in range(0, SLOT_BYTES * _SLOTS, SLOT_BYTES)]
        sound = [slot for slot in slots if slot is not None]
        if not sound:
            logs.event(logging.WARNING, "volume file damaged", path=str(self._path))
            return _Slot(0, Volume())
        return max(sound, key=lambda slot: slot.turn)


def _encode(slot: _Slot) -> bytes:
    content = _encoder.encode(slot.volume)
    body = slot.turn.to_bytes(_TURN_BYTES) + len(content).to_bytes(_LENGTH_BYTES) + content
    return (crc32(body).to_bytes(_CHECK_BYTES) + body).ljust(SLOT_BYTES, b"\0")


def _decode(raw: bytes) -> _Slot | None:
    """Return the slot in ``raw``, or None if it is damaged or was never written."""
    length = int.from_bytes(raw[_HEADER_BYTES - _LENGTH_BYTES : _HEADER_BYTES])
    body, content = raw[_CHECK_BYTES : _HEADER_BYTES + length], raw[_HEADER_BYTES : _HEADER_BYTES + length]
    if len(content) != length or raw[:_CHECK_BYTES] != crc32(body).to_bytes(_CHECK_BYTES):
        return None
    try:
        return _Slot(int.from_bytes(body[:_TURN_BYTES]), _decoder.decode(content))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
