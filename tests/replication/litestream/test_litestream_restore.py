"""A restore gives a valid database in a new file, or an error of the right kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.replication.conftest import now_ms
from tests.replication.faults import FaultyProxy, StoreFault
from tests.replication.replicated import TIMEOUT_MS, restored, running_machine
from tkdb import errors
from tkdb_replication.bucket.credentials import Credentials, CredentialSource
from tkdb_replication.bucket.objects import Found, Listed, Stored
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.restore import failure, restore


async def backed_up(bucket: Bucket, path: Path, writes: int = 1) -> str:
    """Back up a new database with ``writes`` entries, and return its path in the bucket."""
    async with running_machine(bucket, path) as machine:
        for _ in range(writes):
            await machine.write()
            await machine.sync()
        return machine.replication.base


async def restore_into(bucket: Bucket, base: str, target: Path, timeout_ms: int = TIMEOUT_MS) -> None:
    await restore(await Program.find(), bucket, base, target, timeout_ms=timeout_ms)


def test_a_restored_file_is_private_and_no_other_file_remains(bucket: Bucket, tmp_path: Path) -> None:
    target = tmp_path / "new" / "tkdb.db"
    target.parent.mkdir()
    leftover = target.parent / ".tkdb.db-restore"
    leftover.mkdir()
    (leftover / "tkdb.db").write_bytes(b"left by an earlier restore that was killed")

    async def trial() -> None:
        await restore_into(bucket, await backed_up(bucket, tmp_path / "tkdb.db"), target)

    asyncio.run(trial())
    assert [path.name for path in target.parent.iterdir()] == ["tkdb.db"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_restoring_a_path_without_a_backup_raises_no_backup(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(errors.NoBackup):
        asyncio.run(restore_into(bucket, "epochs/00000009-none", tmp_path / "tkdb.db"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(bucket: Bucket, tmp_path: Path) -> None:
    target = tmp_path / "tkdb.db"
    target.write_bytes(b"precious")
    with pytest.raises(errors.StoreError, match="exists"):
        asyncio.run(restore_into(bucket, "epochs/1", target))
    assert target.read_bytes() == b"precious"


def _zeroed(body: bytes) -> bytes:
    return bytes(len(body))


def _shortened(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _altered(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]


@pytest.mark.parametrize("damage", [_zeroed, _shortened, _altered])
def test_a_damaged_backup_is_refused_and_leaves_no_file(
    damage: Callable[[bytes], bytes], bucket: Bucket, tmp_path: Path
) -> None:
    async def trial() -> None:
        base = await backed_up(bucket, tmp_path / "tkdb.db")
        async with S3Objects(bucket, now_ms=now_ms) as objects:
            listed = await objects.list(base, timeout_ms=TIMEOUT_MS)
            assert isinstance(listed, Listed)
            for listing in listed.objects:
                found = await objects.get(listing.key, timeout_ms=TIMEOUT_MS)
                assert isinstance(found, Found)
                assert isinstance(await objects.put(listing.key, damage(found.body), timeout_ms=TIMEOUT_MS), Stored)
        with pytest.raises(errors.RestoreFailed):
            await restore_into(bucket, base, tmp_path / "copy.db")

    asyncio.run(trial())
    assert not (tmp_path / "copy.db").exists()
    assert not (tmp_path / ".copy.db-restore").exists()


@pytest.mark.parametrize("fault", [StoreFault.STALL, StoreFault.CUT, StoreFault.ERROR])
def test_during_a_store_fault_a_restore_times_out_and_the_next_one_is_complete(
    fault: StoreFault, bucket: Bucket, faulty_bucket: Bucket, proxy: FaultyProxy, tmp_path: Path
) -> None:
    async def trial() -> None:
        base = await backed_up(bucket, tmp_path / "tkdb.db")
        proxy.fault = fault
        with pytest.raises(errors.Unavailable, match="within 300 ms"):
            await restore_into(faulty_bucket, base, tmp_path / "copy.db", timeout_ms=300)
        proxy.fault = StoreFault.NONE
        assert len(await restored(faulty_bucket, base, tmp_path / "copy.db")) == 2

    asyncio.run(trial())


def test_wrong_credentials_are_unavailable_and_are_not_shown(bucket: Bucket, tmp_path: Path) -> None:
    wrong = replace(bucket, source=CredentialSource.fixed(Credentials("AKIDSECRET", "verysecretkey")))
    with pytest.raises(errors.Unavailable, match="403") as caught:
        asyncio.run(restore_into(wrong, "epochs/1", tmp_path / "copy.db"))
    assert "SECRET" not in str(caught.value).upper()


def test_a_restore_into_a_missing_folder_raises_store_unwritable(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(errors.StoreUnwritable):
        asyncio.run(restore_into(bucket, "epochs/1", tmp_path / "none" / "tkdb.db"))


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("Error: no matching backup files available", errors.NoBackup),
        ("Error: write page: write /x: no space left on device", errors.StoreUnwritable),
        ("Error: s3: operation error S3: GetObject, exceeded maximum number of attempts", errors.Unavailable),
        ("Error: decode page: checksum mismatch", errors.RestoreFailed),
        ("", errors.RestoreFailed),
        ("panic: \x00\ngoroutine 1 [running]:", errors.RestoreFailed),
    ],
)
def test_litestreams_last_output_decides_the_error(output: str, kind: type[errors.TkdbError]) -> None:
    error = failure(output)
    assert type(error) is kind
    assert error.hint
