"""Litestream under its supervisor: synced entries survive, and every failure of Litestream is repaired or reported."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.replication.faults import FaultyProxy, StoreFault
from tests.replication.replicated import LONG_TIMEOUTS, SHORT_TIMEOUTS, TIMEOUT_MS, restored, running_machine
from tests.replication.seaweed import CREDENTIALS
from tests.waiting import until
from tkdb import errors
from tkdb.database.database import Database
from tkdb_replication.bucket.paths import fresh_base
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream import supervisor
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.config import local_folder
from tkdb_replication.litestream.supervisor import Replication

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder / "tkdb.db"


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the private folders of one test, so that it doesn't see those of other tests."""
    folder = Path(tempfile.mkdtemp(prefix="tk"))  # short: a socket's path has room for 107 bytes
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def has_ended(pid: int) -> bool:
    """Return True if a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def only(folder: Path, pattern: str) -> Path:
    """Return the only file that matches ``pattern``."""
    [found] = folder.glob(pattern)
    return found


def modes(folder: Path) -> list[int]:
    """Return the modes of all files in a folder."""
    return [path.stat().st_mode & 0o777 for path in folder.iterdir()]


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_synced_entries_are_restored(bucket: Bucket, path: Path, tmp_path: Path) -> None:
    async def trial() -> None:
        async with running_machine(bucket, path) as machine:
            for _ in range(3):
                await machine.write()
                synced = await machine.replication.sync(timeout_ms=TIMEOUT_MS)
                assert synced.replicated_txid >= synced.txid >= 1
            again = await machine.replication.sync(timeout_ms=TIMEOUT_MS)
            assert again.txid == synced.txid
            assert await restored(bucket, machine.replication.base, tmp_path / "copy.db") == machine.scribe.entries

    asyncio.run(trial())


def test_synced_entries_survive_the_loss_of_process_and_disk_and_litestream_ends(
    bucket: Bucket, path: Path, tmp_path: Path, folders: Path
) -> None:
    environment = {
        **os.environ,
        "TMPDIR": str(folders),
        "BUCKET_NAME": bucket.name,
        "AWS_ENDPOINT_URL_S3": str(bucket.endpoint),
        "AWS_ACCESS_KEY_ID": CREDENTIALS.access_key_id,
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_access_key,
        "AWS_CA_BUNDLE": "/nonexistent",  # stops Litestream's S3 client, if it sees it
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-m", "tests.replication.replicated", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write("write\n")
            process.stdin.flush()
            base, pid, seq = process.stdout.readline().split()
        process.kill()
    until(lambda: has_ended(int(pid)))
    shutil.rmtree(path.parent)
    entries = asyncio.run(restored(bucket, base, tmp_path / "copy.db"))
    assert [entry.seq for entry in entries] == list(range(1, int(seq) + 1))


def test_a_killed_litestream_is_restarted_and_continues(bucket: Bucket, path: Path, tmp_path: Path) -> None:
    async def trial() -> None:
        async with running_machine(bucket, path) as machine:
            for _ in range(3):
                await machine.write()
                old_pid = machine.pid
                os.kill(old_pid, signal.SIGKILL)
                await machine.wait_for_restart(old_pid)
                await machine.sync()
            assert await restored(bucket, machine.replication.base, tmp_path / "copy.db") == machine.scribe.entries

    asyncio.run(trial())


def test_a_hanging_litestream_is_killed_and_restarted(bucket: Bucket, path: Path, tmp_path: Path) -> None:
    async def trial() -> None:
        async with running_machine(bucket, path, timing=SHORT_TIMEOUTS) as machine:
            await machine.write()
            old_pid = machine.pid
            os.kill(old_pid, signal.SIGSTOP)
            with pytest.raises(errors.Unavailable, match="within 50 ms"):
                await machine.replication.sync(timeout_ms=50)
            await machine.wait_for_restart(old_pid)
            assert has_ended(old_pid)
            await machine.sync()
            assert await restored(bucket, machine.replication.base, tmp_path / "copy.db") == machine.scribe.entries

    asyncio.run(trial())


def test_a_missing_control_socket_causes_a_restart(bucket: Bucket, path: Path, folders: Path) -> None:
    async def trial() -> None:
        async with running_machine(bucket, path, timing=SHORT_TIMEOUTS) as machine:
            old_pid = machine.pid
            control = only(folders, "*/control")
            control.unlink()
            with pytest.raises(errors.Unavailable, match="control socket can't be used"):
                await machine.replication.sync(timeout_ms=1_000)
            await machine.wait_for_restart(old_pid)
            await machine.sync()

    asyncio.run(trial())


def test_another_process_on_the_control_socket_is_refused_and_causes_a_restart(
    bucket: Bucket, path: Path, folders: Path
) -> None:
    async def trial() -> None:
        async with running_machine(bucket, path, timing=SHORT_TIMEOUTS) as machine:
            old_pid = machine.pid
            control = only(folders, "*/control")
            control.unlink()
            with socket.socket(socket.AF_UNIX) as other_process:
                other_process.bind(str(control))
                other_process.listen()
                with pytest.raises(errors.Unavailable, match="another process"):
                    await machine.replication.sync(timeout_ms=1_000)
                await machine.wait_for_restart(old_pid)
            await machine.sync()

    asyncio.run(trial())


@pytest.mark.parametrize("fault", [StoreFault.STALL, StoreFault.CUT, StoreFault.ERROR, StoreFault.LOSE_ANSWER])
def test_during_a_store_fault_nothing_counts_as_synced_and_afterwards_everything_does(
    fault: StoreFault, bucket: Bucket, faulty_bucket: Bucket, proxy: FaultyProxy, path: Path, tmp_path: Path
) -> None:
    async def trial() -> None:
        async with running_machine(faulty_bucket, path) as machine:
            await machine.sync()
            proxy.fault = fault
            await machine.write()
            with pytest.raises(errors.Unavailable):
                await machine.replication.sync(timeout_ms=300)
            await machine.write()  # the journal accepts writes during the fault
            proxy.fault = StoreFault.NONE
            await machine.sync()
            assert await restored(bucket, machine.replication.base, tmp_path / "copy.db") == machine.scribe.entries

    asyncio.run(trial())


def test_replication_starts_and_stops_while_the_store_is_stalled(
    faulty_bucket: Bucket, proxy: FaultyProxy, path: Path
) -> None:
    async def trial() -> None:
        proxy.fault = StoreFault.STALL
        async with running_machine(faulty_bucket, path, timing=replace(LONG_TIMEOUTS, stop_ms=300)) as machine:
            with pytest.raises(errors.Unavailable, match="within 100 ms"):
                await machine.replication.sync(timeout_ms=100)
            pid = machine.pid
        assert has_ended(pid)

    asyncio.run(trial())


def test_a_litestream_that_waits_on_a_dead_connection_is_restarted(
    bucket: Bucket, faulty_bucket: Bucket, proxy: FaultyProxy, path: Path, tmp_path: Path
) -> None:
    async def trial() -> None:
        proxy.fault = StoreFault.STALL
        async with running_machine(faulty_bucket, path, timing=replace(LONG_TIMEOUTS, stuck_ms=600)) as machine:
            old_pid, chunks = machine.pid, proxy.chunks
            async with asyncio.timeout(TIMEOUT_MS / 1000):
                while proxy.chunks == chunks:  # noqa: ASYNC110 -- the first attempt has no timeout, and must be in flight
                    await asyncio.sleep(0.01)
            await machine.write()
            with pytest.raises(errors.Unavailable, match="within 100 ms"):
                await machine.replication.sync(timeout_ms=100)
            proxy.fault = StoreFault.FORSAKE
            await machine.wait_for_restart(old_pid)
            await machine.sync()
            assert await restored(bucket, machine.replication.base, tmp_path / "copy.db") == machine.scribe.entries

    asyncio.run(trial())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk can't be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_on_a_full_disk_nothing_counts_as_synced_until_there_is_room(
    bucket: Bucket, small_disk: Path, tmp_path: Path
) -> None:
    async def trial() -> None:
        async with running_machine(bucket, small_disk / "tkdb.db") as machine:
            await machine.sync()
            os.kill(machine.pid, signal.SIGSTOP)  # so that it can't sync before the disk is full
            await machine.write()
            fill(small_disk / "ballast")
            os.kill(machine.pid, signal.SIGCONT)
            with pytest.raises(errors.Unavailable):
                await machine.replication.sync(timeout_ms=2_000)
            (small_disk / "ballast").unlink()
            await machine.sync()
            assert await restored(bucket, machine.replication.base, tmp_path / "copy.db") == machine.scribe.entries

    asyncio.run(trial())


async def _replicate_again(bucket: Bucket, path: Path, epoch: int) -> None:
    """Replicate the existing database at ``path``, and sync once."""
    async with await Database.open(path, checkpoints=False):
        base = fresh_base(epoch, random_bytes=secrets.token_bytes)
        replication = await Replication.begin(
            await Program.find(), bucket, path, base, random_bytes=secrets.token_bytes, timing=LONG_TIMEOUTS
        )
        try:
            await replication.sync(timeout_ms=TIMEOUT_MS)
        finally:
            await replication.stop()


async def _leave_old_folder(bucket: Bucket, path: Path) -> None:
    """Leave Litestream's folder of an earlier replication, without its first transaction, which it soon deletes."""
    async with running_machine(bucket, path) as machine:
        for _ in range(3):
            await machine.write()
            await machine.sync()
    only(local_folder(path), "ltx/0/0000000000000001-*.ltx").unlink()


def test_a_new_path_starts_without_the_old_paths_local_folder(bucket: Bucket, path: Path) -> None:
    async def trial() -> None:
        await _leave_old_folder(bucket, path)
        await _replicate_again(bucket, path, epoch=2)

    asyncio.run(trial())


def test_with_the_old_local_folder_a_new_path_would_not_sync(
    bucket: Bucket, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the previous test: the old folder isn't deleted."""

    async def trial() -> None:
        await _leave_old_folder(bucket, path)
        monkeypatch.setattr(supervisor, "local_folder", lambda database: database.with_name("nothing"))
        with pytest.raises(errors.Unavailable, match="it reports: sync database"):
            await _replicate_again(bucket, path, epoch=2)

    asyncio.run(trial())


def test_no_two_replications_share_a_path(bucket: Bucket, path: Path, tmp_path: Path) -> None:
    bases = {fresh_base(7, random_bytes=secrets.token_bytes) for _ in range(1_000)}
    assert len(bases) == 1_000

    async def trial() -> None:
        async with running_machine(bucket, path) as machine, running_machine(bucket, tmp_path / "other.db") as other:
            assert machine.replication.base != other.replication.base

    asyncio.run(trial())


def test_stopping_leaves_no_process_and_no_folder(bucket: Bucket, path: Path, folders: Path) -> None:
    async def trial() -> None:
        async with running_machine(bucket, path) as machine:
            pid = machine.pid
            assert modes(folders) == [0o700]
        await machine.replication.stop()
        assert has_ended(pid)
        assert modes(folders) == []
        with pytest.raises(errors.Unavailable, match="isn't running"):
            await machine.replication.sync(timeout_ms=100)

    asyncio.run(trial())


def processes_in(folder: Path) -> list[str]:
    """Return the command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_text().replace("\0", " "))
    return [line for line in found if str(folder) in line]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("after_ms", [0, 1, 3, 10, 30, 60, 100])
def test_a_cancelled_start_leaves_no_process_and_no_folder(
    after_ms: int, times: int, bucket: Bucket, path: Path, folders: Path
) -> None:
    async def trial() -> None:
        program = await Program.find()
        async with await Database.open(path, checkpoints=False):
            base = fresh_base(1, random_bytes=secrets.token_bytes)
            starting = asyncio.create_task(
                Replication.begin(program, bucket, path, base, random_bytes=secrets.token_bytes, timing=LONG_TIMEOUTS)
            )
            for _ in range(times):
                await asyncio.sleep(after_ms / 1000)
                starting.cancel()
            await asyncio.wait([starting])
            if not starting.cancelled():
                await starting.result().stop()
            assert (processes_in(folders), modes(folders)) == ([], [])

    asyncio.run(trial())


def test_only_the_first_sync_has_a_timeout_that_grows_with_the_database(
    bucket: Bucket, faulty_bucket: Bucket, proxy: FaultyProxy, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_SYNC_BYTES_PER_MS", 1)  # its 100 KB get more than a minute

    async def trial() -> None:
        proxy.fault = StoreFault.STALL
        async with running_machine(faulty_bucket, path, timing=replace(LONG_TIMEOUTS, stuck_ms=100)) as machine:
            first_pid = machine.pid
            for _ in range(3):
                with pytest.raises(errors.Unavailable):
                    await machine.replication.sync(timeout_ms=200)
            assert machine.pid == first_pid
            proxy.fault = StoreFault.NONE
            await machine.sync()
            assert machine.pid == first_pid
            proxy.fault = StoreFault.STALL
            await machine.write()
            with pytest.raises(errors.Unavailable):
                await machine.replication.sync(timeout_ms=200)
            await machine.wait_for_restart(first_pid)

    asyncio.run(trial())


def test_no_secret_is_in_the_configuration_the_command_line_or_the_log(
    bucket: Bucket, path: Path, folders: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TKDB_SEAL_KEYS", "ours-alone")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent")
    monkeypatch.setattr(logging.getLogger("tkdb"), "propagate", True)

    async def trial() -> None:
        async with running_machine(bucket, path) as machine:
            await machine.sync()
            configuration = only(folders, "*/litestream.json").read_text()
            command = await asyncio.to_thread(Path(f"/proc/{machine.pid}/cmdline").read_text)
            environment = await asyncio.to_thread(Path(f"/proc/{machine.pid}/environ").read_text)
            assert CREDENTIALS.secret_access_key not in configuration + command
            assert "TKDB_SEAL_KEYS" not in environment
            assert "AWS_CA_BUNDLE" not in environment

    with caplog.at_level(logging.DEBUG, logger="tkdb"):
        asyncio.run(trial())
    lines = [json.dumps(vars(record), default=str) for record in caplog.records if record.msg == "litestream"]
    assert any("initialized db" in line for line in lines)
    assert not any(CREDENTIALS.secret_access_key in line for line in lines)


def test_a_program_that_ends_at_once_is_unavailable(bucket: Bucket, path: Path, tmp_path: Path) -> None:
    program = tmp_path / "litestream"
    program.write_text('#!/bin/sh\n[ "$1" = version ] && echo 0.5.17 && exit 0\necho no luck\nexit 3\n')
    program.chmod(0o755)

    async def trial() -> None:
        found = await Program.find(beside=tmp_path)
        timing = replace(SHORT_TIMEOUTS, start_ms=300)
        with pytest.raises(errors.Unavailable, match="didn't start within 300 ms"):
            await Replication.begin(found, bucket, path, "epochs/1", random_bytes=secrets.token_bytes, timing=timing)

    asyncio.run(trial())


@pytest.mark.parametrize("version", ["0.3.13", "0.5.16", "0.6.0", "1.0.0", "dev", ""])
def test_an_unknown_version_is_refused(version: str, tmp_path: Path) -> None:
    program = tmp_path / "litestream"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{version}'\n")
    program.chmod(0o755)
    with pytest.raises(errors.ConfigurationError, match="version"):
        asyncio.run(Program.find(beside=tmp_path))


def test_a_missing_or_broken_program_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="not found"):
        asyncio.run(Program.find(beside=tmp_path, search_path=str(tmp_path)))
    (tmp_path / "litestream").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "litestream").chmod(0o755)
    with pytest.raises(errors.ConfigurationError, match="can't be run"):
        asyncio.run(Program.find(beside=tmp_path))
