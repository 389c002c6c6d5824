"""Litestream's configuration: one database, and one path in the bucket that only it writes to. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tkdb_replication.bucket.settings import Bucket

SNAPSHOT_INTERVAL: Final = "6h"
SNAPSHOT_RETENTION: Final = "168h"


def local_folder(database: Path) -> Path:
    """Return the folder in which Litestream keeps its own state, next to the database."""
    return database.with_name(f".{database.name}-litestream")


def configuration(bucket: Bucket, base: str, database: Path, *, socket: Path | None = None) -> str:
    """Return the configuration file, without any credentials. It is JSON, which is also YAML, so nothing needs
    quoting.

    Args:
        bucket: the bucket to replicate to.
        base: the path in the bucket.
        database: the database's file, as an absolute path.
        socket: the control socket, or None for none.
    """
    replica = {
        "type": "s3",
        "bucket": bucket.name,
        "path": base,
        "endpoint": f"{bucket.endpoint}",
        "region": bucket.region,
        "force-path-style": True,
        "sign-payload": True,
    }
    return json.dumps(
        {
            "logging": {"level": "info", "type": "json"},
            "socket": {"enabled": socket is not None, "path": str(socket or "")},
            "snapshot": {"interval": SNAPSHOT_INTERVAL, "retention": SNAPSHOT_RETENTION},
            # A caller that needs the last entries in the store has already synced, so the shutdown needn't wait for
            # them.
            "shutdown-sync-timeout": "0s",
            "dbs": [{"path": str(database), "replica": replica}],
        },
        indent=1,
    )
