"""A bucket and the environment of an operator beside it: what the tests of the commands on a cluster stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from tests.cli.processes import tkdb
from tests.replication.conftest import now_ms
from tests.replication.seaweed import CREDENTIALS
from tkdb.store.seal import SealKeys
from tkdb_replication.bucket import Bucket
from tkdb_replication.head import Head, HeadKeys, decode_head
from tkdb_replication.head_object import HEAD_KEY
from tkdb_replication.objects import Deleted, Found, Listed, Objects, Stored
from tkdb_replication.s3 import S3Objects

T = TypeVar("T")

TIMEOUT_MS = 20_000


def environment(bucket: Bucket, folder: Path) -> dict[str, str]:
    """Return the environment of ``tkdb serve`` in a cluster, with new keys in ``folder``."""
    keys = folder / "keys"
    if not keys.exists():
        assert tkdb("keys", "generate", "--directory", str(keys)).code == 0
    return {
        "TKDB_NAME": "tkdb.example",
        "TKDB_AUTHORITY_KEY_FILE": f"{keys}/authority.key",
        "TKDB_SEAL_KEYS": (keys / "seal.key").read_text().strip(),
        "TKDB_SIGNERS_FILE": f"{keys}/signers.toml",
        "TKDB_DB": f"{folder}/tkdb.db",
        "TKDB_BIND": "127.0.0.1:0",
        "TKDB_DRAIN_MS": "0",
        "BUCKET_NAME": bucket.name,
        "AWS_ENDPOINT_URL_S3": str(bucket.endpoint),
        "AWS_ACCESS_KEY_ID": CREDENTIALS.access_key_id,
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_access_key,
    }


def head_keys(env: dict[str, str]) -> HeadKeys:
    """Return what authenticates the heads of that environment."""
    return HeadKeys(SealKeys.parse(env["TKDB_SEAL_KEYS"]).keys)


def within(bucket: Bucket, work: Callable[[Objects], Awaitable[T]]) -> T:
    """Do something with the objects of a bucket."""

    async def run() -> T:
        async with S3Objects(bucket, now_ms=now_ms) as objects:
            return await work(objects)

    return asyncio.run(run())


def keys_in(bucket: Bucket, prefix: str = "") -> list[str]:
    """Return the keys of a bucket's objects."""

    async def work(objects: Objects) -> list[str]:
        listed = await objects.list(prefix, timeout_ms=TIMEOUT_MS)
        assert isinstance(listed, Listed)
        return [each.key for each in listed.objects]

    return within(bucket, work)


def read(bucket: Bucket, key: str) -> bytes:
    """Return an object."""

    async def work(objects: Objects) -> bytes:
        found = await objects.get(key, timeout_ms=TIMEOUT_MS)
        assert isinstance(found, Found), (key, found)
        return found.body

    return within(bucket, work)


def write(bucket: Bucket, key: str, body: bytes) -> None:
    """Write an object, whatever was there."""

    async def work(objects: Objects) -> None:
        assert isinstance(await objects.put(key, body, timeout_ms=TIMEOUT_MS), Stored)

    within(bucket, work)


def delete(bucket: Bucket, prefix: str) -> None:
    """Delete all objects under a prefix."""
    keys = keys_in(bucket, prefix)
    assert keys

    async def work(objects: Objects) -> None:
        for key in keys:
            assert isinstance(await objects.delete(key, timeout_ms=TIMEOUT_MS), Deleted)

    within(bucket, work)


def head_in(bucket: Bucket, env: dict[str, str]) -> Head:
    """Return the head."""
    return decode_head(read(bucket, HEAD_KEY), head_keys(env))
