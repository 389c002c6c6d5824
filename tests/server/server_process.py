"""A server in a separate process, which tests start and signal. It prints its address when it is ready."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.server.conftest import NAME, StandIn
from tkdb import logs
from tkdb.channel.keys import AuthoritySecret
from tkdb.journal.seal import SealKey, SealKeys
from tkdb.server.run import run
from tkdb.settings import Address, Settings
from tkdb.signers import Signers


async def open_stand_in(_: Settings) -> StandIn:
    return StandIn()


if __name__ == "__main__":
    settings = Settings(
        name=NAME,
        authority_keys=(AuthoritySecret.parse(os.environ["KEY"]),),
        seal_keys=SealKeys([SealKey(bytes(32))]),
        signers=Signers([]),
        database=Path("unused"),
        bind=Address.parse("127.0.0.1:0"),
        drain_ms=int(os.environ["DRAIN_MS"]),
    )
    logs.configure("info", sys.stderr)
    run(settings, open_service=open_stand_in, ready=lambda address: print(address, flush=True))  # noqa: T201  to the test
