"""Helpers for commands on a cluster: its bucket and its secrets, from the environment of ``tkdb serve``.

>>> size(900), size(61_440), size(25_000_000)
('900 B', '61.4 kB', '25.0 MB')
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tkdb.cli import inputs

if TYPE_CHECKING:
    from tkdb.settings import Settings
    from tkdb_replication.bucket.objects import Objects
    from tkdb_replication.cluster.cluster import Cluster
    from tkdb_replication.protocol.head import HeadKeys


def now_ms() -> int:
    """Return the current time, in ms since 1970."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Cluster]:
    """Yield the cluster that the environment names. Litestream's warnings go to stderr.

    Raises:
        ConfigurationError: a variable of the bucket is invalid, or Litestream isn't installed.
    """
    from tkdb import logs
    from tkdb.database.audit import verifier
    from tkdb_replication.bucket.s3 import S3Objects
    from tkdb_replication.bucket.settings import Bucket
    from tkdb_replication.cluster.cluster import Cluster
    from tkdb_replication.litestream.binary import Program
    from tkdb_replication.protocol.head import HeadKeys

    logs.configure("warning", sys.stderr)
    bucket, program = Bucket.parse(os.environ), await Program.find()
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        yield Cluster(
            name=settings.name,
            seal_keys=settings.seal_keys,
            head_keys=HeadKeys(settings.seal_keys.keys),
            verify=verifier(settings.name, (signer.key for signer in settings.signers)),
            bucket=bucket,
            objects=objects,
            program=program,
            random_bytes=os.urandom,
        )


@asynccontextmanager
async def bucket_only() -> AsyncIterator[tuple[Objects, HeadKeys]]:
    """Yield the bucket that the environment names, and the keys that authenticate its head.

    Some commands need nothing else of the cluster.

    Raises:
        ConfigurationError, UsageError: a variable is missing or invalid.
    """
    from tkdb_replication.bucket.s3 import S3Objects
    from tkdb_replication.bucket.settings import Bucket
    from tkdb_replication.protocol.head import HeadKeys

    keys = HeadKeys(inputs.seal_keys().keys)
    async with S3Objects(Bucket.parse(os.environ), now_ms=now_ms) as objects:
        yield objects, keys


def size(count_bytes: int) -> str:
    """Return a size with its unit."""
    for unit, each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_bytes >= each:
            return f"{count_bytes / each:,.1f} {unit}"
    return f"{count_bytes} B"
