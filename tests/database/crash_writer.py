"""A process for a test to kill: it appends to the journal at argv[1] until then.

It prints the position of each entry once the entry is acknowledged. With argv[3] = "early", it prints the position
before it writes the entry, as a broken authority would.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.journal.scribe import START_MS, Scribe, nonce_at
from tkdb import api
from tkdb.database.database import Database
from tkdb.journal.seal import ChainKey


async def main() -> None:
    early = sys.argv[3] == "early"
    async with await Database.open(Path(sys.argv[1])) as database:
        scribe = Scribe(database, seed=int(sys.argv[2]))
        scribe.chain_key = ChainKey(b"\x03" * 32)
        scribe.state = await database.load()
        if not scribe.state.head.seq:
            await scribe.begin()
        scribe.journal = scribe.state.journal
        name = f"life-{scribe.state.head.seq}"
        kid = await scribe.create(name)
        while True:
            nonces = [nonce_at(START_MS, scribe.random.randbytes(10)) for _ in range(scribe.random.randrange(1, 60))]
            seq = scribe.state.head.seq + 1
            if early:
                os.write(1, b"%d\n" % seq)
            await scribe.write(api.Revoke(targets=[api.Lineage(kid=kid, nonce=nonce) for nonce in nonces]))
            if not early:
                os.write(1, b"%d\n" % seq)


if __name__ == "__main__":
    asyncio.run(main())
