"""Unexpected files at the database's path: of another program or version, incomplete, or damaged."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journal.scribe import create_database
from tkdb import errors
from tkdb.database.database import Database
from tkdb.database.migrations import APPLICATION_ID, MIGRATIONS


def foreign_files(folder: Path) -> Iterator[Path]:
    text = folder / "notes.txt"
    text.write_text("not a database, " * 20)
    yield text
    short = folder / "short"
    short.write_bytes(b"x")
    yield short
    other = folder / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    yield other
    busy = folder / "busy.db"
    with sqlite3.connect(busy) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    yield busy
    newer = folder / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    yield newer


@pytest.mark.parametrize("read_only", [False, True])
def test_a_foreign_file_is_refused_and_left_unchanged(tmp_path: Path, read_only: bool) -> None:
    for path in foreign_files(tmp_path):
        content, names = path.read_bytes(), set(tmp_path.iterdir())
        with pytest.raises(errors.ForeignDatabase) as caught:
            asyncio.run(Database.open(path, read_only=read_only))
        assert caught.value.hint
        assert path.read_bytes() == content
        assert set(tmp_path.iterdir()) == names


def test_a_newer_version_recorded_only_in_the_log_is_refused(path: Path) -> None:
    asyncio.run(create_database(path))
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    with pytest.raises(errors.ForeignDatabase, match="version 99"):
        asyncio.run(Database.open(path))
    other.close()


def test_an_interrupted_creation_is_completed(path: Path) -> None:
    path.touch()
    asyncio.run(create_database(path))
    other = path.with_name("half.db")
    with sqlite3.connect(other) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.close()
    asyncio.run(create_database(other))


def test_a_missing_folder_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.StoreUnwritable):
        asyncio.run(Database.open(tmp_path / "none" / "tkdb.db"))
    for read_only in (False, True):
        with pytest.raises(errors.StoreError):
            asyncio.run(Database.open(tmp_path, read_only=read_only))
    with pytest.raises(errors.StoreError):
        asyncio.run(Database.open(tmp_path / "tkdb.db", read_only=True))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_raises_only_tkdb_errors(path: Path) -> None:
    asyncio.run(create_database(path))
    whole = path.read_bytes()
    draw = random.Random(1)

    async def use() -> None:
        async with await Database.open(path) as database:
            await database.load()
            await database.entries(0, 10)

    broken = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(40):
            damaged[draw.randrange(100, len(whole))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            asyncio.run(use())
        except errors.TkdbError:
            broken += 1
    assert broken > 10
