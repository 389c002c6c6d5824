"""The database: it keeps every acknowledged entry, and refuses writes cleanly if the disk fails."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.journal.scribe import OLD_RING, START_MS, Scribe, begin_journal, create_database, nonce_at, snapshot
from tkdb import api, errors
from tkdb.database import sqlite_errors
from tkdb.database.audit import audit
from tkdb.database.database import MEMORY, Database
from tkdb.database.migrations import MIGRATIONS
from tkdb.journal.entry import Origin

KID = b"k" * 16
REPOSITORY = Path(__file__).parents[2]


def lineages(count: int) -> api.Revoke:
    return api.Revoke(targets=[api.Lineage(kid=KID, nonce=nonce_at(START_MS + i)) for i in range(count)])


def test_appended_entries_are_there_after_reopening(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = await begin_journal(database)
            await scribe.rotate()
            await scribe.revoke(
                api.Lineage(kid=KID, nonce=nonce_at(START_MS)),
                api.Branch(kid=KID, nonce=nonce_at(START_MS), branch=KID),
                api.Branch(kid=KID, nonce=nonce_at(START_MS + 1), branch=KID),
                api.Before(organization="acme", subject="ann"),
            )
        async with await Database.open(path) as database:
            assert snapshot(await database.load()) == snapshot(scribe.state)
            assert await database.entries(0, 10) == scribe.entries
            assert await database.entries(1, 2) == scribe.entries[1:3]

    asyncio.run(run())


def test_entries_of_one_append_see_each_others_changes() -> None:
    async def run() -> None:
        ahead = Scribe()
        await ahead.begin()
        await ahead.create("acme")
        await ahead.rotate()
        await ahead.revoke(api.RetireKey(kid=ahead.state.signing_key("acme").kid))
        await ahead.delete()
        async with await Database.open(MEMORY) as database:
            state = await database.load()
            await database.append(state, ahead.entries)
            for entry in ahead.entries:
                state.apply(entry)
            assert snapshot(state) == snapshot(ahead.state) == snapshot(await database.load())

    asyncio.run(run())


def test_a_batch_with_one_invalid_entry_changes_nothing() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            scribe = await begin_journal(database)
            good = scribe.make(lineages(3))
            with pytest.raises(errors.BrokenJournal):
                await database.append(scribe.state, [good, scribe.make(lineages(1))])
            assert len(await database.entries(0, 10)) == 2
            await database.append(scribe.state, [good])

    asyncio.run(run())


def test_a_signers_request_is_found_by_its_id_and_never_written_twice() -> None:
    async def run() -> None:
        origin = Origin(signer=b"s" * 16, request_id=b"r" * 16, signed_ms=5, signature=b"g" * 64)
        async with await Database.open(MEMORY) as database:
            scribe = await begin_journal(database)
            entry = await scribe.write(lineages(1), origin=origin)
            assert await database.find_request(b"s" * 16, b"r" * 16) == entry
            assert await database.find_request(b"t" * 16, b"r" * 16) is None
            assert await database.find_request(b"", b"") is None
            with pytest.raises(errors.BrokenJournal):
                await database.append(scribe.state, [scribe.make(lineages(1), origin=origin)])
            await scribe.write(lineages(2))

    asyncio.run(run())


def test_a_revocation_keeps_the_position_of_its_first_entry() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            scribe = await begin_journal(database)
            first = await scribe.write(lineages(1))
            await scribe.write(lineages(2))
            assert await database._rows("SELECT seq FROM revocations ORDER BY nonce", ()) == [(first.seq,), (4,)]

    asyncio.run(run())


def test_a_second_writer_is_refused_and_readers_are_not(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = await begin_journal(database)
            with pytest.raises(errors.StoreError, match="another process writes"):
                await Database.open(path)
            async with await Database.open(path, read_only=True) as reader:
                assert snapshot(await reader.load()) == snapshot(scribe.state)
        async with await Database.open(path):
            pass

    asyncio.run(run())


def test_a_reader_never_loads_a_mixture_of_two_states(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database, await Database.open(path, read_only=True) as reader:
            scribe = await begin_journal(database)
            states = [await reader.load()]
            done = asyncio.Event()

            async def keep_writing() -> None:
                while not done.is_set():
                    await scribe.create(f"o{scribe.state.head.seq}")

            writer = asyncio.create_task(keep_writing())
            while states[-1].head.seq < states[0].head.seq + 30:
                states.append(await reader.load())
            done.set()
            await writer
            # Each entry after the first makes one organization.
            assert all(len(state.organizations) == len(state.keys) == state.head.seq - 1 for state in states)

    asyncio.run(run())


def test_only_the_owner_has_access_to_the_files(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            await begin_journal(database)
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
            assert len(modes) == 4
            assert set(modes.values()) == {0o600}

    asyncio.run(run())


def test_the_connection_syncs_every_commit_and_enforces_foreign_keys(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            assert await database._rows("PRAGMA synchronous", ()) == [(2,)]
            assert await database._rows("PRAGMA journal_mode", ()) == [("wal",)]
            assert await database._rows("PRAGMA foreign_keys", ()) == [(1,)]

    asyncio.run(run())


# --- disks that fail ----------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def _check_refused_then_writable(database: Database, scribe: Scribe, obstacle: Any) -> None:
    before = snapshot(scribe.state)
    with obstacle, pytest.raises(errors.StoreUnwritable) as caught:
        await scribe.write(lineages(1_000))
    assert caught.value.hint
    assert snapshot(await database.load()) == snapshot(scribe.state) == before
    await scribe.write(lineages(1_000))
    assert snapshot(await database.load()) == snapshot(scribe.state)


def test_a_file_that_cannot_grow_refuses_writes_and_nothing_else(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = await begin_journal(database)
            log = path.with_name(path.name + "-wal")
            await _check_refused_then_writable(database, scribe, file_size_limit(log.stat().st_size + 6_000))
        async with await Database.open(path, read_only=True) as database:
            await audit(database, OLD_RING, lambda entry: None)

    asyncio.run(run())


def test_a_full_disk_refuses_writes_and_nothing_else(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = await begin_journal(database)
            before = snapshot(scribe.state)
            await database._rows("PRAGMA max_page_count = 1", ())
            with pytest.raises(errors.StoreUnwritable, match="full"):
                await scribe.write(lineages(1_000))
            assert snapshot(await database.load()) == snapshot(scribe.state) == before
            await database._rows("PRAGMA max_page_count = 1000000", ())
            await scribe.write(lineages(1_000))
            assert snapshot(await database.load()) == snapshot(scribe.state)

    asyncio.run(run())


def test_a_database_locked_by_another_program_refuses_writes_until_it_is_released(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkdb.database.connection.BUSY_TIMEOUT_MS", 1)

    @contextmanager
    def held() -> Iterator[None]:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()

    async def run() -> None:
        async with await Database.open(path) as database:
            await _check_refused_then_writable(database, await begin_journal(database), held())

    asyncio.run(run())


def test_a_read_only_database_refuses_writes(path: Path) -> None:
    async def run() -> None:
        await create_database(path)
        async with await Database.open(path, read_only=True) as database:
            scribe = Scribe(database)
            scribe.state = await database.load()
            with pytest.raises(errors.StoreUnwritable):
                await scribe.write(lineages(1))

    asyncio.run(run())


def test_a_commit_that_fails_at_the_sync_has_an_unknown_outcome(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC

    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = await begin_journal(database)
            execute = database._connection.execute

            def fail(sql: str, *arguments: Any) -> Any:
                if sql == "COMMIT":
                    raise error
                return execute(sql, *arguments)

            with monkeypatch.context() as patch:
                patch.setattr(database._connection, "execute", fail)
                with pytest.raises(errors.OutcomeUnknown):
                    await scribe.write(lineages(1))
            await scribe.write(lineages(1))

    asyncio.run(run())


@pytest.mark.parametrize("code", [n for n in vars(sqlite3) if n.startswith("SQLITE_IOERR")])
def test_only_a_failed_write_leaves_no_doubt_about_a_commit(code: str) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = getattr(sqlite3, code)
    assert sqlite_errors.leaves_doubt(error) == (code != "SQLITE_IOERR_WRITE")


# --- cancelling, closing and crashing -----------------------------------------------------------------------


def test_a_cancelled_append_still_completes(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = await begin_journal(database)
            entry = scribe.make(lineages(500))
            task = asyncio.create_task(database.append(scribe.state, [entry]))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await database.entries(2, 1)) == [entry]

    asyncio.run(run())


def test_readers_never_see_half_a_transaction(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = await begin_journal(database)
            await database._rows("PRAGMA max_page_count = 1", ())
            failing = asyncio.create_task(database.append(scribe.state, [scribe.make(lineages(1_000))]))
            seen = []
            while not failing.done():
                seen += await database.entries(2, 1)
            with pytest.raises(errors.StoreUnwritable):
                await failing
            assert seen == []

    asyncio.run(run())


def test_closing_ends_the_thread_and_later_calls_fail_as_closed(path: Path) -> None:
    async def run() -> None:
        before = set(threading.enumerate())
        database = await Database.open(path)
        own = [each for each in set(threading.enumerate()) - before if "_connection_worker_thread" in each.name]
        scribe = await begin_journal(database)
        await database.close()
        await database.close()
        assert len(own) == 1
        _join(own)
        for use in (database.load(), database.entries(0, 1), scribe.write(lineages(1))):
            with pytest.raises(errors.StoreError, match="closed"):
                await use

    asyncio.run(run())


def _join(threads: Iterable[threading.Thread]) -> None:
    """Wait until the threads have ended. aiosqlite's thread reports that it closed the file just before it ends."""
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_a_failed_opening_leaves_no_thread_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    asyncio.run(create_database(path))
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    before = set(threading.enumerate())
    with pytest.raises(errors.ForeignDatabase):
        asyncio.run(Database.open(path))
    other.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    other.close()
    _join(set(threading.enumerate()) - before)
    asyncio.run(_open_read(path))


async def _open_read(path: Path) -> None:
    async with await Database.open(path) as database:
        await database.load()


def killed_writers(path: Path, starts: int, mode: str) -> Iterator[tuple[int, Any]]:
    """Start and kill ``starts`` writers. Yield the last position that each acknowledged, and the state after it."""
    draw = random.Random(7)
    for start in range(starts):
        command = [sys.executable, "-m", "tests.database.crash_writer", str(path), str(start), mode]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(draw.randrange(1, 12))]
            threading.Event().wait(draw.random() * 0.01)
            os.kill(writer.pid, signal.SIGKILL)
            lines += writer.stdout.read().splitlines(keepends=True)
        yield max(int(line) for line in lines if line.endswith(b"\n")), asyncio.run(_loaded(path))


def test_no_acknowledged_entry_is_lost_when_the_writer_is_killed(path: Path) -> None:
    for acknowledged, state in killed_writers(path, 12, "acknowledge"):
        assert state.head.seq >= acknowledged


def test_an_acknowledgement_before_the_commit_would_lose_entries(path: Path) -> None:
    assert any(state.head.seq < acknowledged for acknowledged, state in killed_writers(path, 12, "early"))


async def _loaded(path: Path) -> Any:
    async with await Database.open(path) as database:
        report = await audit(database, OLD_RING, lambda entry: None)
        state = await database.load()
        assert report.head == state.head
        return state


@pytest.mark.parametrize("checkpoints", [True, False])
def test_only_litestream_checkpoints_a_database_that_it_replicates(path: Path, *, checkpoints: bool) -> None:
    async def run() -> None:
        async with await Database.open(path, checkpoints=checkpoints) as database:
            scribe = await begin_journal(database)
            for turn in range(60):
                nonces = [nonce_at(START_MS + 1_000 * turn + i) for i in range(900)]
                await scribe.write(api.Revoke(targets=[api.Lineage(kid=KID, nonce=nonce) for nonce in nonces]))
            # By itself, SQLite checkpoints after 1,000 pages of 4 KiB, and then restarts the log.
            log_bytes = path.with_name(path.name + "-wal").stat().st_size
            assert (log_bytes < 5 << 20) is checkpoints

    asyncio.run(run())


def test_a_process_that_fails_with_its_database_open_exits(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from tkdb.database.database import Database\n"
        "async def main():\n"
        "    await Database.open(sys.argv[1])\n"
        "    raise RuntimeError('a fault')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tkdb.db")], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, "a fault" in done.stderr) == (1, True)
