"""The thread of a database connection never keeps a failed process from ending."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

from tkdb.database import connection as module
from tkdb.database.connection import connect


def test_the_thread_of_a_connection_is_a_daemon(tmp_path: Path) -> None:
    async def check() -> bool:
        connection = await connect(tmp_path / "tkdb.db", "write", checkpoints=True)
        try:
            thread: Thread = connection._thread
            return thread.daemon
        finally:
            await connection.close()

    assert asyncio.run(check())


def test_a_library_without_that_attribute_still_connects() -> None:
    for connection in (SimpleNamespace(), SimpleNamespace(_thread=None), SimpleNamespace(_thread="renamed")):
        anything: Any = connection
        module._never_hold_the_process(anything)
