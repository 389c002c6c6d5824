"""The lab's S3 server for tests: each test bucket gets a unique name."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from tkdb_ops.lab import object_store
from tkdb_ops.lab.object_store import CREDENTIALS, Seaweed, free_ports, now_ms, running, weed
from tkdb_replication.bucket.settings import Bucket

__all__ = ["CREDENTIALS", "Seaweed", "free_ports", "make_bucket", "now_ms", "running", "weed"]


def make_bucket(server: Seaweed) -> Bucket:
    """Return a new bucket once it accepts writes."""
    return asyncio.run(object_store.make_bucket(server, f"test-{uuid4().hex[:16]}"))
