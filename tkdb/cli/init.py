"""``tkdb init``: the making of a cluster, in a new bucket."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from tkdb.cli.cluster import now_ms, opened
from tkdb.cli.output import Output, Rows, good

if TYPE_CHECKING:
    from tkdb.settings import Settings
    from tkdb_replication.cluster.init import Founded


def init(output: Output) -> None:
    """Make a cluster: a bucket's head, and the journal of the cluster.

    This reads the environment of `tkdb serve`. If TKDB_DB contains a journal of this authority, a single machine
    becomes a cluster; otherwise, a new journal begins. The journal is backed up and restored once before the head is
    made. Do this once for each bucket: an existing head is never replaced.

    \b
    $ tkdb init
    the cluster is made
      authority  tkdb.example
      journal    a new one, b94d27b9934d3e08a52e52d7da7dabfa
      entries    1
      base       epochs/00000001-9f86d081884c7d65, which was restored and audited
    next: tkdb serve, on each machine
    """
    from tkdb.settings import Settings

    settings = Settings.parse(os.environ)
    founded = asyncio.run(_found(settings))
    head = founded.head
    document = {
        "authority": settings.name,
        "journal": head.journal.hex(),
        "begun": founded.begun,
        "epoch": head.epoch,
        "base": head.base,
        "head": {"seq": head.seq, "hash": head.hash.hex()},
        "next": "tkdb serve",
    }
    rows = [
        ("authority", settings.name),
        ("journal", f"{'a new one' if founded.begun else f'that of {settings.database}'}, {head.journal.hex()}"),
        ("entries", str(head.seq)),
        ("base", f"{head.base}, which was restored and audited"),
    ]
    output.result(document, good("the cluster is made"), Rows(rows, indent=2))
    output.note("next: tkdb serve, on each machine")


async def _found(settings: Settings) -> Founded:
    from pathlib import Path

    from tkdb.authority.clock import Clock
    from tkdb_replication.cluster.init import found

    clock = Clock(now_ms, lambda: time.monotonic_ns() // 1_000_000)
    async with opened(settings) as cluster:
        return await found(cluster, Path(settings.database), clock)
