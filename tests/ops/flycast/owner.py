"""A stand-in whose owner waits to be killed. Run as a script; it says when it is up, and where its files are."""

from __future__ import annotations

import asyncio
import sys

from tests.ops.flycast.standing import echo
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App


async def main(isolated: bool) -> None:
    async with Flycast({App("tkdb", ("iad",)): echo}, clients=["iad"], isolated=isolated) as flycast:
        sys.stdout.write(f"{flycast.folder}\n")
        sys.stdout.flush()
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] == "isolated"))
