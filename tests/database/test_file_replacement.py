"""Replacing a database file, or setting it aside: an interruption at any step leaves one complete database."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journal.scribe import OLD_RING, START_MS, Scribe, nonce_at, snapshot
from tkdb import api, errors
from tkdb.database.database import MEMORY, Database
from tkdb.database.migrations import APPLICATION_ID, MIGRATIONS
from tkdb.database.proof import prove
from tkdb.journal.entry import START
from tkdb.journal.state import State

REPOSITORY = Path(__file__).parents[2]
KID = b"k" * 16


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "restored.db"


async def fill(path: Path, seed: int, count: int) -> State:
    """Write a journal that differs for each seed, so that a mixture of two files is detected."""
    async with await Database.open(path) as database:
        scribe = Scribe(database, seed=seed)
        await scribe.begin()
        for index in range(count):
            await scribe.create(f"o{seed}-{index}")
            await scribe.revoke(*(api.Lineage(KID, nonce_at(START_MS + i)) for i in range(100)))
        return scribe.state


def create_file(path: Path, seed: int, count: int) -> State:
    state = asyncio.run(fill(path, seed, count))
    path.with_name(path.name + ".lock").unlink()
    return state


async def proven_state(database: Database) -> dict[str, Any]:
    return snapshot((await prove(database, OLD_RING)).state)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def damage(path: Path) -> None:
    """Overwrite the pages of tables, but not the header and the schema, which opening reads."""
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xaa" * (path.stat().st_size - 8 * 4096))


# --- replacing a file ---------------------------------------------------------------------------------------


def test_a_replacement_puts_the_new_file_in_place_and_keeps_the_lock(path: Path, new: Path) -> None:
    old, restored = create_file(path, 1, 5), create_file(new, 2, 3)

    async def run() -> None:
        async with await Database.open(path) as database:
            assert snapshot(await database.load()) == snapshot(old)
            await database.replace(new)
            assert await proven_state(database) == snapshot(restored)
            with pytest.raises(errors.StoreError, match="another process writes"):
                await Database.open(path)
            scribe = Scribe(database, seed=3)
            scribe.state = await database.load()
            await scribe.create("later")
        async with await Database.open(path) as database:
            assert snapshot(await database.load()) == snapshot(scribe.state)

    asyncio.run(run())
    assert names(path.parent) == {"tkdb.db", "tkdb.db.lock"}


def test_calls_in_flight_finish_before_a_replacement_and_later_calls_see_the_new_file(path: Path, new: Path) -> None:
    create_file(path, 1, 3)
    restored = create_file(new, 2, 3)

    async def run() -> None:
        async with await Database.open(path) as database:
            scribe = Scribe(database)
            scribe.state = await database.load()
            before = scribe.state.head.seq
            writing = asyncio.create_task(database.append(scribe.state, [scribe.make(api.RotateKey("o1-0"))]))
            writing.cancel()
            reading = asyncio.create_task(database.entries(before, 5))
            replacing = asyncio.create_task(database.replace(new))
            await asyncio.sleep(0)
            later = asyncio.create_task(database.end())
            replacing.cancel()
            await asyncio.gather(writing, reading, replacing, return_exceptions=True)
            assert await later == restored.head
            assert await proven_state(database) == snapshot(restored)

    asyncio.run(run())


def test_a_replacement_includes_the_log_of_the_new_file(path: Path, new: Path) -> None:
    create_file(path, 1, 2)
    restored = create_file(new, 2, 3)
    copy = new.with_name("copy.db")

    async def run() -> None:
        async with await Database.open(new) as other:
            scribe = Scribe(other, seed=2)
            scribe.state = restored
            await scribe.configure("o2-0", 5)
            for suffix in ("", "-wal"):
                shutil.copy(f"{new}{suffix}", f"{copy}{suffix}")
        async with await Database.open(path) as database:
            await database.replace(copy)
            assert snapshot(await database.load()) == snapshot(scribe.state)

    asyncio.run(run())


def test_a_replacement_migrates_an_older_version(path: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_file(path, 1, 1)
    restored = create_file(new, 2, 1)
    later = (*MIGRATIONS, "CREATE TABLE later (a INTEGER) STRICT;")

    async def run() -> None:
        async with await Database.open(path) as database:
            with monkeypatch.context() as patch:
                patch.setattr("tkdb.database.connection.MIGRATIONS", later)
                patch.setattr("tkdb.database.file.MIGRATIONS", later)
                await database.replace(new)
                assert await database._rows("SELECT * FROM later", ()) == []
                assert snapshot(await database.load()) == snapshot(restored)

    asyncio.run(run())


def test_a_foreign_file_is_not_put_in_place(path: Path, new: Path) -> None:
    old = create_file(path, 1, 1)
    newer = new.with_name("newer.db")
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    text = new.with_name("notes.txt")
    text.write_text("not a database, " * 20)

    async def run() -> None:
        async with await Database.open(path) as database:
            for foreign in (newer, text):
                with pytest.raises(errors.ForeignDatabase):
                    await database.replace(foreign)
                assert foreign.exists()
            with pytest.raises(errors.StoreError):
                await database.replace(new)
            assert await proven_state(database) == snapshot(old)

    asyncio.run(run())


def test_a_file_that_another_program_has_open_is_not_put_in_place(path: Path, new: Path) -> None:
    old = create_file(path, 1, 1)
    create_file(new, 2, 1)
    other = sqlite3.connect(new)
    other.execute("SELECT count(*) FROM journal").fetchone()

    async def run() -> None:
        async with await Database.open(path) as database:
            with pytest.raises(errors.StoreError, match="open"):
                await database.replace(new)
            assert await proven_state(database) == snapshot(old)

    asyncio.run(run())
    other.close()


def test_only_a_file_that_is_open_for_writing_is_replaced(path: Path, new: Path) -> None:
    create_file(path, 1, 1)
    create_file(new, 2, 1)

    async def run() -> None:
        async with await Database.open(MEMORY) as memory, await Database.open(path, read_only=True) as reader:
            for database in (memory, reader):
                with pytest.raises(errors.StoreUnwritable):
                    await database.replace(new)
                with pytest.raises(errors.StoreUnwritable):
                    await database.set_aside("damaged")
        with pytest.raises(errors.StoreError, match="closed"):
            await memory.replace(new)

    asyncio.run(run())
    assert new.exists()


def kill_at_each_step(folder: Path, prepare: Any, what: str, mode: str) -> Iterator[Path]:
    """Kill a process before each of its steps in turn, each in a new folder. Yield each database."""
    for step in range(40):
        step_folder = folder / str(step)
        step_folder.mkdir()
        prepare(step_folder)
        target = "aside" if what == "aside" else str(step_folder / what)
        path = step_folder / "tkdb.db"
        command = [sys.executable, "-m", "tests.database.replacer", str(path), target, str(step), mode]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        yield path
        if done.stdout == "done\n":
            assert step > 3
            return
    raise AssertionError("the process didn't complete within 40 steps")


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    """Return a function that puts two databases into a folder, and their states. Only a log has the newest entries."""
    old, restored = create_file(tmp_path / "old.db", 1, 12), create_file(tmp_path / "restored.db", 2, 6)

    async def write_into_the_log(path: Path) -> State:
        database = await Database.open(path, checkpoints=False)
        scribe = Scribe(database, seed=4)
        scribe.state = await database.load()
        scribe.chain_key = (await prove(database, OLD_RING)).chain_key or scribe.chain_key
        for _ in range(5):
            await scribe.rotate("o1-0")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{tmp_path / 'logged.db'}{suffix}")
        await database.close()
        return scribe.state

    state = asyncio.run(write_into_the_log(tmp_path / "old.db"))
    assert state.head.seq == old.head.seq + 5

    def prepare(folder: Path) -> None:
        shutil.copy(tmp_path / "logged.db", folder / "tkdb.db")
        shutil.copy(tmp_path / "logged.db-wal", folder / "tkdb.db-wal")
        shutil.copy(tmp_path / "restored.db", folder / "restored.db")

    return prepare, state, restored


def reopened(path: Path) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with await Database.open(path) as database:
            return await proven_state(database)

    return asyncio.run(run())


@pytest.mark.slow
def test_a_crash_at_any_step_of_a_replacement_leaves_the_old_file_or_the_new_one(tmp_path: Path, prepared: Any) -> None:
    prepare, old, restored = prepared
    seen = [reopened(path) for path in kill_at_each_step(tmp_path, prepare, "restored.db", "careful")]
    # The old state includes the log: the old file is unchanged until the new one is chosen.
    assert all(state in (snapshot(old), snapshot(restored)) for state in seen)
    assert seen[0] == snapshot(old)
    assert seen[-1] == snapshot(restored)


@pytest.mark.slow
def test_a_rename_alone_would_mix_one_file_with_the_log_of_the_other(tmp_path: Path, prepared: Any) -> None:
    prepare, old, restored = prepared
    mixed = 0
    for path in kill_at_each_step(tmp_path, prepare, "restored.db", "naive"):
        try:
            mixed += reopened(path) not in (snapshot(old), snapshot(restored))
        except errors.BrokenJournal:
            mixed += 1
    assert mixed


def test_readers_are_refused_until_a_writer_completes_an_interrupted_replacement(path: Path, new: Path) -> None:
    create_file(path, 1, 1)
    restored = create_file(new, 2, 1)
    new.rename(path.with_name("tkdb.db.successor"))
    for way in ({"read_only": True}, {"immutable": True}):
        with pytest.raises(errors.StoreError, match="being replaced"):
            asyncio.run(Database.open(path, **way))
    assert reopened(path) == snapshot(restored)


# --- setting a file aside -----------------------------------------------------------------------------------


def test_a_damaged_file_is_set_aside_and_an_empty_one_is_created(path: Path) -> None:
    state = create_file(path, 1, 40)
    damage(path)
    damaged = path.read_bytes()

    async def run() -> None:
        async with await Database.open(path, checkpoints=False) as database:
            with pytest.raises(errors.BrokenJournal):
                await database.load()
            assert await database.set_aside("damaged") == path.with_name("tkdb.db.damaged")
            assert await database.end() == START
            assert await database._rows("PRAGMA wal_autocheckpoint", ()) == [(0,)]
            scribe = Scribe(database)
            await scribe.begin()
            with pytest.raises(errors.StoreError, match="another process writes"):
                await Database.open(path)
            assert await proven_state(database) == snapshot(scribe.state)

    asyncio.run(run())
    assert path.with_name("tkdb.db.damaged").read_bytes() == damaged
    assert state.head.seq == 81


def test_a_file_too_damaged_to_open_is_set_aside_at_opening(path: Path) -> None:
    create_file(path, 1, 5)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xaa" * 4_000)
    with pytest.raises(errors.BrokenJournal):
        asyncio.run(Database.open(path))
    path.with_name("tkdb.db.damaged").write_bytes(b"of an earlier time")
    path.with_name("tkdb.db.damaged-wal").write_bytes(b"of an earlier time")

    async def run() -> None:
        async with await Database.open(path, set_aside="damaged", checkpoints=False) as database:
            assert await database.end() == START
            await Scribe(database).begin()

    asyncio.run(run())
    assert names(path.parent) == {"tkdb.db", "tkdb.db.damaged", "tkdb.db.lock"}
    assert path.with_name("tkdb.db.damaged").stat().st_size > 4_000


def test_an_undamaged_file_is_not_set_aside_at_opening(path: Path) -> None:
    state = create_file(path, 1, 2)

    async def run() -> None:
        async with await Database.open(path, set_aside="damaged") as database:
            assert snapshot(await database.load()) == snapshot(state)

    asyncio.run(run())
    assert names(path.parent) == {"tkdb.db", "tkdb.db.lock"}


def test_a_foreign_or_newer_file_is_never_set_aside(path: Path) -> None:
    def refused() -> None:
        with pytest.raises(errors.ForeignDatabase):
            asyncio.run(Database.open(path, set_aside="damaged"))

    path.write_text("not a database, " * 20)
    content = path.read_bytes()
    refused()
    assert path.read_bytes() == content
    path.unlink()
    create_file(path, 1, 1)
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")  # only in the log, while this connection is open
    refused()
    other.close()
    refused()
    assert not path.with_name("tkdb.db.damaged").exists()


def test_a_file_that_a_foreign_file_replaced_while_open_is_not_set_aside(path: Path) -> None:
    create_file(path, 1, 1)

    async def run() -> None:
        async with await Database.open(path) as database:
            foreign = path.with_name("foreign")
            foreign.write_text("not a database, " * 20)
            foreign.replace(path)
            with pytest.raises(errors.ForeignDatabase):
                await database.set_aside("damaged")

    asyncio.run(run())
    assert path.read_text().startswith("not a database")


@pytest.mark.slow
def test_a_crash_at_any_step_of_setting_aside_leaves_the_old_file_or_an_empty_one(
    tmp_path: Path, prepared: Any
) -> None:
    prepare, old, _ = prepared
    seen = [reopened(path) for path in kill_at_each_step(tmp_path, prepare, "aside", "careful")]
    assert all(state in (snapshot(old), snapshot(State())) for state in seen)
    assert seen[0] == snapshot(old)
    assert seen[-1] == snapshot(State())
    assert reopened(tmp_path / str(len(seen) - 1) / "tkdb.db.damaged") == snapshot(old)
