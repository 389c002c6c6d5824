"""Restores a database from a path in the bucket into a new file.

    await restore(program, bucket, head.base, Path("/data/tkdb.db.new"), timeout_ms=60_000)

The result is as new as the path's last sync, or newer. The journal cuts it back to an exact point, because Litestream's
``-txid`` and ``-timestamp`` aren't exact.
"""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from typing import Final

from tkdb import errors
from tkdb.database.file_replacement import sync_to_disk
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.config import configuration

MAX_SAID_BYTES: Final = 65_536
_MAX_TEXT: Final = 300


async def restore(program: Program, bucket: Bucket, base: str, target: Path, *, timeout_ms: int) -> None:
    """Restore the latest state of ``base`` into a new file. The file is checked for integrity, and is on the disk.

    Args:
        program: Litestream.
        bucket: the bucket with the backup.
        base: the path in the bucket.
        target: the new file. The folder ``.NAME-restore`` next to it is used, and an earlier attempt's files there
            deleted.
        timeout_ms: the timeout of the whole restore. Litestream alone would retry for minutes.

    Raises:
        NoBackup: the path is empty.
        RestoreFailed: the path isn't empty, but doesn't give a valid database.
        StoreUnwritable: the new file can't be written.
        Unavailable: the object store doesn't answer, or not in time.
    """
    target = await asyncio.to_thread(target.resolve)
    folder = target.with_name(f".{target.name}-restore")
    try:
        await asyncio.to_thread(_prepare, bucket, base, target, folder)
        await _run(program, bucket, folder, target, timeout_ms)
        await asyncio.to_thread(_move, folder / target.name, target)
    except OSError as error:
        raise errors.StoreUnwritable(
            f"{target} can't be written: {error.strerror}", hint="check its folder, and the free space on the disk"
        ) from None
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def failure(said: str) -> errors.TkdbError:
    """Return the error for Litestream's last output.

    >>> type(failure("Error: no matching backup files available")).__name__
    'NoBackup'
    >>> type(failure("Error: integrity check failed: row 1 missing from index")).__name__
    'RestoreFailed'
    """
    last = (said.strip().splitlines() or ["nothing"])[-1][-_MAX_TEXT:]
    if "no matching backup files available" in said:
        return errors.NoBackup("the bucket holds no backup at that path", hint="check the path and the bucket")
    if "no space left on device" in said:
        return errors.StoreUnwritable("the disk is full", hint="make room, and restore again")
    if any(sign in said for sign in _STORE_SIGNS):
        return errors.Unavailable(f"the object store can't be read: {last}", hint="try again")
    return errors.RestoreFailed(f"the backup can't be restored: {last}", hint="restore from another path")


_STORE_SIGNS: Final = ("operation error S3", "connection reset", "connection refused", "i/o timeout", "no such host")


def _prepare(bucket: Bucket, base: str, target: Path, folder: Path) -> None:
    if target.exists():
        raise errors.StoreError(f"{target} exists", hint="restore into a new file")
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    (folder / _CONFIGURATION).write_text(configuration(bucket, base, target))


async def _run(program: Program, bucket: Bucket, folder: Path, target: Path, timeout_ms: int) -> None:
    process = await program.run(
        *("restore", "-no-expand-env", "-config", str(folder / _CONFIGURATION)),
        *("-integrity-check", "full", "-o", str(folder / target.name), str(target)),
        credentials=bucket.credentials,
    )
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            said = await _last_said(process)
            code = await process.wait()
    except TimeoutError:
        raise errors.Unavailable(f"the restore didn't end within {timeout_ms} ms", hint="try again") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code != 0:
        raise failure(bucket.credentials.redact(said))


async def _last_said(process: Process) -> str:
    assert process.stdout is not None  # noqa: S101 -- the program is run with a pipe
    said = b""
    while chunk := await process.stdout.read(MAX_SAID_BYTES):
        said = (said + chunk)[-MAX_SAID_BYTES:]
    return said.decode(errors="replace")


def _move(restored: Path, target: Path) -> None:
    restored.chmod(0o600)
    for path in (restored, restored.parent):
        sync_to_disk(path)
    restored.rename(target)
    sync_to_disk(target.parent)


_CONFIGURATION: Final = "litestream.json"
