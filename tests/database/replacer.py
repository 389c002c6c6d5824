"""A process that kills itself: it replaces the database at argv[1] by the one at argv[2], or sets it aside ("aside").

A step removes or renames a file, or opens a database. The process kills itself before step argv[3], counted from 0. If
there are fewer steps, it prints "done". A second connection reads the database, so that the log outlives the writer's
connection. With argv[4] = "naive", the process only renames the file, as a program that ignores logs would.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path

from tkdb.database.database import Database
from tkdb.database.file_replacement import FileReplacement

STEPS = ("os.remove", "os.rename", "sqlite3.connect")


async def main() -> None:
    path, left = Path(sys.argv[1]), int(sys.argv[3])
    database = await Database.open(path, checkpoints=False)
    reader = sqlite3.connect(path)
    reader.execute("SELECT count(*) FROM journal").fetchone()

    def step(event: str, _: object) -> None:
        nonlocal left
        if event in STEPS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if sys.argv[4] == "naive":
        FileReplacement.settle = lambda files: files.successor.replace(files.path)  # type: ignore[method-assign, return-value]
    sys.addaudithook(step)
    if sys.argv[2] == "aside":
        await database.set_aside("damaged")
    else:
        await database.replace(Path(sys.argv[2]))
    os.write(1, b"done\n")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main())
