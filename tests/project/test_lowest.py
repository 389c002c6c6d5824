"""The lower bounds of dependencies, without a network. ``make lowest`` installs them, and lives a token's life."""

from __future__ import annotations

import asyncio
import threading

import aiosqlite
import pytest

from tkdb.database import connection


def test_a_connection_of_aiosqlite_has_the_private_thread_that_we_use() -> None:
    """aiosqlite before 0.22 has none. See pyproject.toml."""
    thread = aiosqlite.connect(":memory:")._thread
    assert isinstance(thread, threading.Thread)


def test_without_the_private_thread_a_database_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = aiosqlite.connect

    class Hidden:
        """A connection as in another version of the library."""

        def __init__(self, *arguments: object, **given: object) -> None:
            self._inner = connect(*arguments, **given)  # type: ignore[arg-type]  # as given

        def __await__(self) -> object:
            return self._inner.__await__()

        def __getattr__(self, name: str) -> object:
            if name == "_thread":
                raise AttributeError(name)
            return getattr(self._inner, name)

    monkeypatch.setattr(aiosqlite, "connect", Hidden)

    async def test() -> None:
        opened = await connection.connect(None, "write", checkpoints=True)
        await opened.close()

    asyncio.run(test())
