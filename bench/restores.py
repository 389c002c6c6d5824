"""The time that a large database takes from the bucket to a new machine, and from a new primary to the bucket."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.filled import Secrets, fill
from bench.node import is_ready
from bench.rows import Row
from tests.end_to_end.node import NAME
from tests.regions.cluster import Cluster, variables
from tkdb.channel.keys import SignerSecret
from tkdb.database.database import Database
from tkdb.journal.seal import ChainKey, SealKey
from tkdb_replication.bucket.paths import fresh_base
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.cluster.backups import back_up
from tkdb_replication.cluster.head_object import Sound, read_head
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.config import configuration
from tkdb_replication.protocol.head import HeadKeys

ORGANIZATIONS_PER_MB = 566
REVOCATIONS_PER_MB = 10 * ORGANIZATIONS_PER_MB
"""The two numbers together fill 1,000,000 bytes of a database, including its indexes."""
READY_WITHIN_S = 120
LOOK_AGAIN_S = 0.01


class Founding(NamedTuple):
    """The instructions to make a database of ``size_mb``, and a cluster from it.
    They can be sent to another process."""

    database: Path
    size_mb: int
    signer: str
    environment: dict[str, str]

    def make(self) -> None:
        """Write the database as a machine that runs alone would leave it. Then let ``tkdb init`` make a cluster from
        it."""
        secrets = Secrets(
            SealKey.parse(self.environment["TKDB_SEAL_KEYS"]),
            ChainKey(os.urandom(32)),
            SignerSecret.parse(self.signer),
        )
        organizations, revocations = ORGANIZATIONS_PER_MB * self.size_mb, REVOCATIONS_PER_MB * self.size_mb
        asyncio.run(fill(self.database, NAME, secrets, organizations=organizations, revocations=revocations))
        command = [sys.executable, "-m", "tkdb.cli", "init"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class Founded:
    """A cluster with a large database.

    Args:
        cluster: the machines; none of them was ever started.
        bucket: the empty bucket of the cluster.
        size_mb: the size of the database.
    """

    def __init__(self, cluster: Cluster, bucket: Bucket, size_mb: int) -> None:
        self.cluster = cluster
        self.bucket = bucket
        self._size_mb = size_mb
        self._database = cluster.folder / "full.db"

    @property
    def founding(self) -> Founding:
        """The instructions that must be carried out before any measurement."""
        keys = self.cluster.keys
        environment = keys.environment(self._database, TKDB_LOG_LEVEL="warning", **variables(self.bucket))
        return Founding(self._database, self._size_mb, keys.signer.text(), environment)

    def restores(self, rounds: int) -> list[Row]:
        """Let new machines restore the database, in turns with Litestream alone. Return the medians."""
        base, ready_s, bare_s = asyncio.run(self._base()), [], []
        for number in range(1, rounds + 1):
            ready_s.append(self._ready_s(f"m{len(self.cluster.nodes) + number}"))
            bare_s.append(self._bare_s(base))
        return [
            Row("restore", self._size_mb, "tkdb", round(median(ready_s), 2), "s"),
            Row("restore", self._size_mb, "litestream restore", round(median(bare_s), 2), "s"),
        ]

    def _ready_s(self, name: str) -> float:
        # Promotion is manual so that the machine only restores, and doesn't take over afterwards.
        node = self.cluster.node(name, self.bucket, TKDB_PROMOTION="manual")
        began_s = time.perf_counter()
        with node:
            port = int(node.url.rpartition(":")[2])
            while not is_ready(port):
                assert time.perf_counter() < began_s + READY_WITHIN_S, node.log.read_text()
                time.sleep(LOOK_AGAIN_S)
            return time.perf_counter() - began_s

    def first_sync(self) -> Row:
        """Let Litestream put the database at a new path, as before a machine is primary. Return how long it took."""
        return Row("first sync", self._size_mb, "tkdb", round(asyncio.run(self._first_sync_s()), 2), "s")

    async def _first_sync_s(self) -> float:
        program, base = await Program.find(), fresh_base(0, random_bytes=os.urandom)
        async with await Database.open(self._database, checkpoints=False):
            began_s = time.perf_counter()
            await back_up(program, self.bucket, self._database, base, random_bytes=os.urandom)
            return time.perf_counter() - began_s

    async def _base(self) -> str:
        async with S3Objects(self.bucket, now_ms=lambda: time.time_ns() // 1_000_000) as objects:
            found = await read_head(objects, HeadKeys([self.cluster.keys.seal]))
        assert isinstance(found, Sound)
        return found.head.base

    def _bare_s(self, base: str) -> float:
        with tempfile.TemporaryDirectory(dir=self.cluster.folder) as folder:
            target, settings = Path(folder, "bare.db"), Path(folder, "litestream.json")
            settings.write_text(configuration(self.bucket, base, target))
            return asyncio.run(self._litestream_s("restore", "-no-expand-env", "-config", str(settings), str(target)))

    async def _litestream_s(self, *arguments: str) -> float:
        program = await Program.find()
        began_s = time.perf_counter()
        process = await program.run(*arguments, credentials=self.bucket.credentials)
        said, _ = await process.communicate()
        assert process.returncode == 0, said
        return time.perf_counter() - began_s
