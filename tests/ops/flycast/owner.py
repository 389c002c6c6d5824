"""A program that owns a stand-in and waits to be killed. It prints the stand-in's folder once it is up."""

from __future__ import annotations

import asyncio
import sys

from tests.ops.flycast.stand_in import echo
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App


async def main(isolated: bool) -> None:
    async with Flycast({App("tkdb", ("iad",)): echo}, clients=["iad"], isolated=isolated) as flycast:
        sys.stdout.write(f"{flycast.folder}\n")
        sys.stdout.flush()
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] == "isolated"))
