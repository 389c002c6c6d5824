"""The lab's S3 server for tests: each test bucket gets a unique name."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from uuid import uuid4

from tkdb_ops.lab import object_store
from tkdb_ops.lab.object_store import CREDENTIALS, Seaweed, free_ports, now_ms, running, weed
from tkdb_replication.bucket.credentials import Credentials
from tkdb_replication.bucket.settings import Bucket

__all__ = ["CREDENTIALS", "Seaweed", "free_ports", "make_bucket", "now_ms", "replace_key", "running", "weed"]


def make_bucket(server: Seaweed) -> Bucket:
    """Return a new bucket once it accepts writes."""
    return asyncio.run(object_store.make_bucket(server, f"test-{uuid4().hex[:16]}"))


def replace_key(server: Seaweed, folder: Path, new: Credentials) -> None:
    """Replace the only key of a server that runs in ``folder``. Soon afterwards, it refuses the old one."""
    path = folder / "s3.json"
    configuration = json.loads(path.read_text())
    key = {"accessKey": new.access_key_id, "secretKey": new.secret_access_key}
    configuration["identities"][0]["credentials"] = [key]
    path.write_text(json.dumps(configuration))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGHUP)
