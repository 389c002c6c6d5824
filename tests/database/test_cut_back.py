"""Cutting back a journal: the tables match the remaining journal, and the cut is atomic."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.database.test_audit import tamper, write_journal
from tests.journal.scribe import BOTH_RING, DAY_MS, OLD_RING, START_MS, Scribe, begin_journal, nonce_at, snapshot
from tkdb import api, errors
from tkdb.database import tables
from tkdb.database.database import MEMORY, Database
from tkdb.database.proof import prove
from tkdb.journal.entry import START
from tkdb.journal.state import State

REPOSITORY = Path(__file__).parents[2]
KID = b"k" * 16

CUTTER = """
import asyncio, os, signal, sys
from contextlib import asynccontextmanager
from pathlib import Path
from tkdb.database.database import Database

async def main():
    path, left, atomic = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "atomic"
    async with await Database.open(path) as database:
        connection = database._connection
        def counted(method):
            def step(sql, *arguments):
                nonlocal left
                if sql.startswith(("BEGIN", "DELETE", "INSERT", "COMMIT")):
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return method(sql, *arguments)
            return step
        connection.execute, connection.executemany = counted(connection.execute), counted(connection.executemany)
        @asynccontextmanager
        async def no_transaction():
            yield connection
        if not atomic:
            await connection.execute("PRAGMA foreign_keys = OFF")
            database._transaction = no_transaction
        await database.cut_back(5)
        os.write(1, b"done")
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def write_every_kind(path: Path) -> Scribe:
    """Write a journal with every kind of entry, including entries that later ones undo or purge."""
    async with await Database.open(path) as database:
        s = Scribe(database)
        await s.begin()
        kid = await s.create("acme")
        await s.create("evil")
        await s.revoke(*(api.Lineage(kid, nonce_at(START_MS + i)) for i in range(3)))
        await s.revoke(api.Branch(kid, nonce_at(START_MS), KID), api.Lineage(kid, nonce_at(START_MS)))
        await s.revoke(
            api.Branch(kid, nonce_at(START_MS + 1), KID),
            api.Before(organization="evil", subject="eve"),
            api.Before(organization="acme"),
        )
        await s.rotate("evil")
        await s.revoke(api.RetireKey(kid))
        s.now_ms += DAY_MS
        await s.purge()
        await s.revoke(api.Lineage(kid, nonce_at(START_MS)))
        await s.reseal(BOTH_RING, limit=2)
        await s.reseal(BOTH_RING)
        await s.configure("evil", 7_200)
        await s.delete("acme")
        return s


async def state_at(scribe: Scribe, seq: int) -> State:
    state = State()
    for entry in scribe.entries[:seq]:
        state.apply(entry)
    return state


def test_a_cut_at_any_entry_leaves_tables_that_match_the_remaining_journal(path: Path) -> None:
    async def run() -> None:
        scribe = await write_every_kind(path)
        for seq in range(len(scribe.entries)):
            copy = path.with_name(f"{seq}.db")
            await asyncio.to_thread(shutil.copy, path, copy)
            async with await Database.open(copy) as database:
                state = await database.cut_back(seq)
                expected = await state_at(scribe, seq)
                assert snapshot(state) == snapshot(expected) == snapshot(await database.load())
                assert snapshot((await prove(database, BOTH_RING)).state) == snapshot(expected)
                assert await database.end() == expected.head
                assert await database.hash_at(seq + 1) is None
                # The entries that were cut off can be written again.
                await database.append(state, scribe.entries[seq:])
                assert snapshot((await prove(database, BOTH_RING)).state) == snapshot(scribe.state)

    asyncio.run(run())


def test_hash_at_returns_the_hash_of_each_entry(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            assert (await database.end(), await database.hash_at(0)) == (START, bytes(32))
            assert await database.hash_at(1) is None
        scribe = await write_every_kind(path)
        async with await Database.open(path) as database:
            assert await database.end() == scribe.state.head
            for entry in scribe.entries:
                assert await database.hash_at(entry.seq) == entry.hash

    asyncio.run(run())


def test_a_cut_at_the_tip_or_beyond_writes_nothing(path: Path) -> None:
    async def run() -> None:
        scribe = await write_every_kind(path)
        async with await Database.open(path) as database:
            connection = database._connection
            before = connection.total_changes
            for seq in (len(scribe.entries), len(scribe.entries) + 1):
                assert await database.cut_back(seq) is None
            assert connection.total_changes == before
            assert path.with_name("tkdb.db-wal").stat().st_size == 0

    asyncio.run(run())


def test_a_cut_repairs_altered_tables(path: Path) -> None:
    asyncio.run(write_journal(path))
    tamper(path, "DELETE FROM revocations; UPDATE organizations SET max_lifetime_s = 1; DELETE FROM subjects")

    async def run() -> None:
        async with await Database.open(path) as database:
            with pytest.raises(errors.BrokenJournal):
                await prove(database, OLD_RING)
            await database.cut_back(7)
            await prove(database, OLD_RING)

    asyncio.run(run())


def test_a_cut_writes_only_differing_rows() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            scribe = await begin_journal(database)
            await scribe.revoke(*(api.Lineage(KID, nonce_at(START_MS + i)) for i in range(1_000)))
            await scribe.revoke(api.Lineage(KID, nonce_at(START_MS + 5_000)))
            before = database._connection.total_changes
            await database.cut_back(3)
            assert database._connection.total_changes - before == 2, "a cut writes an entry and a revocation"

    asyncio.run(run())


def test_a_cut_of_a_broken_journal_is_refused_and_changes_nothing(path: Path) -> None:
    scribe = asyncio.run(write_journal(path))
    tamper(path, "UPDATE journal SET previous = zeroblob(32) WHERE seq = 4")

    async def run() -> None:
        async with await Database.open(path) as database:
            with pytest.raises(errors.BrokenJournal, match="entry 4"):
                await database.cut_back(6)
            assert (await database.end()).seq == len(scribe.entries)
            assert snapshot(await database.load()) == snapshot(scribe.state)

    asyncio.run(run())


def test_a_cut_on_a_full_disk_is_refused_and_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scribe = asyncio.run(write_every_kind(path))

    def many(kind: type[Any], pairs: Any) -> Any:
        return [("INSERT INTO subjects VALUES ('acme', randomblob(16), ?)", [(i,) for i in range(5_000)])]

    async def run() -> None:
        async with await Database.open(path) as database:
            await database._rows("PRAGMA max_page_count = 1", ())
            with monkeypatch.context() as patch:
                patch.setattr(tables, "corrections", many)
                with pytest.raises(errors.StoreUnwritable, match="full"):
                    await database.cut_back(3)
            assert snapshot(await database.load()) == snapshot(scribe.state)

    asyncio.run(run())


def test_a_cancelled_cut_still_completes_and_does_not_block_other_tasks(path: Path) -> None:
    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = Scribe(database)
            await scribe.begin()
            for turn in range(20):
                await scribe.revoke(*(api.Lineage(KID, nonce_at(START_MS + turn * 1_000 + i)) for i in range(1_000)))
            cutting = asyncio.create_task(database.cut_back(15))
            await asyncio.sleep(0)
            cutting.cancel()
            turns = 0
            reading = asyncio.create_task(database.end())
            while not reading.done():
                turns += 1
                await asyncio.sleep(0)
            assert (await reading).seq == 15
            assert turns > 15
            assert cutting.cancelled()

    asyncio.run(run())


def kill_cuts(folder: Path, path: Path, mode: str) -> list[Any]:
    """Kill a cut to entry 5 before each step in turn. Return the state after each, None if the proof fails."""
    states = []
    for step in range(40):
        copy = folder / f"{mode}-{step}.db"
        shutil.copy(path, copy)
        command = [sys.executable, "-c", CUTTER, str(copy), str(step), mode]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False)
        assert done.stderr == ""
        states.append(asyncio.run(_proven_state(copy)))
        if done.stdout == "done":
            assert step > 5
            return states
    raise AssertionError("the cut didn't complete within 40 steps")


async def _proven_state(path: Path) -> Any:
    async with await Database.open(path) as database:
        try:
            return snapshot((await prove(database, BOTH_RING)).state)
        except errors.BrokenJournal:
            return None


@pytest.mark.slow
def test_a_crash_at_any_step_leaves_the_cut_completed_or_not_begun(tmp_path: Path, path: Path) -> None:
    scribe = asyncio.run(write_every_kind(path))
    before = snapshot(scribe.state)
    after = snapshot(asyncio.run(state_at(scribe, 5)))
    states = kill_cuts(tmp_path, path, "atomic")
    assert all(state in (before, after) for state in states)
    assert states[0] == before
    assert states[-1] == after


@pytest.mark.slow
def test_without_one_transaction_a_crash_leaves_tables_that_contradict_the_journal(tmp_path: Path, path: Path) -> None:
    asyncio.run(write_every_kind(path))
    assert None in kill_cuts(tmp_path, path, "piecewise")
