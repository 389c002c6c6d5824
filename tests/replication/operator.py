"""A bucket and an operator's environment, for the tests of the cluster commands."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from tests.cli.processes import quick
from tests.journal.scribe import Scribe
from tests.replication.replicated import eventually
from tests.replication.seaweed import CREDENTIALS, now_ms
from tkdb import api
from tkdb.authority.genesis import begin
from tkdb.authority.view import chain_key_of
from tkdb.bootstrap import system_clock
from tkdb.database.database import Database
from tkdb.journal.additions import Made
from tkdb.journal.entry import Entry, Origin, link
from tkdb.journal.seal import SealKeys
from tkdb_replication.bucket.objects import Deleted, Found, Listed, Objects, Stored
from tkdb_replication.bucket.paths import HEAD_KEY, fresh_base
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.cluster.cluster import Cluster
from tkdb_replication.cluster.head_object import Sound, put_head, read_head
from tkdb_replication.cluster.init import found
from tkdb_replication.litestream.binary import Program
from tkdb_replication.litestream.restore import restore
from tkdb_replication.litestream.supervisor import Replication
from tkdb_replication.protocol.head import Checkpoint, Head, HeadKeys, decode_head

T = TypeVar("T")

TIMEOUT_MS = 20_000


def environment(bucket: Bucket, folder: Path) -> dict[str, str]:
    """Return the environment of ``tkdb serve`` in a cluster. Its keys are in ``folder``, and are made if missing."""
    keys = folder / "keys"
    if not keys.exists():
        assert quick("keys", "generate", "--directory", str(keys)).code == 0
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


class Writer(Scribe):
    """Writes the entries of one epoch to a journal, as the epoch's primary does."""

    epoch = 1

    @classmethod
    async def for_database(cls, database: Database, env: Mapping[str, str]) -> Self:
        """Return a writer for ``database``. Begin its journal if it has none."""
        writer = cls(database, seed=random.getrandbits(32), ring=SealKeys.parse(env["TKDB_SEAL_KEYS"]))
        writer.state = await begin(database, env["TKDB_NAME"], writer.ring, system_clock(), os.urandom)
        writer.now_ms, writer.chain_key = now_ms(), chain_key_of(writer.state, writer.ring)
        writer.journal = writer.state.journal
        return writer

    def make(self, call: api.WriteCall | None, made: Made | None = None, origin: Origin | None = None) -> Entry:
        """Make an entry as the scribe does, but in this writer's epoch."""
        entry = super().make(call, made, origin)
        asked = Origin(entry.signer, entry.request_id, entry.signed_ms, entry.signature)
        state, chain_key = self.state, self.chain_key
        return link(
            state.head, chain_key, now_ms=self.now_ms, epoch=self.epoch, made=made, body=entry.body, origin=asked
        )

    async def write_some(self, count: int) -> list[Entry]:
        """Write ``count`` entries, and return them."""
        for _ in range(count):
            await self.create(f"org-{self.state.head.seq + 1}")
        return self.entries[-count:] if count else []


def single_machine(env: Mapping[str, str], organizations: int = 1) -> int:
    """Make the journal of a single machine at TKDB_DB, and return its number of entries."""

    async def live() -> int:
        async with await Database.open(Path(env["TKDB_DB"])) as database:
            writer = await Writer.for_database(database, env)
            await writer.write_some(organizations)
            return writer.state.head.seq

    return asyncio.run(live())


async def run_primary(
    bucket: Bucket, env: Mapping[str, str], database: Path, *, synced: int, unsynced: int = 0, unnamed: int = 0
) -> Head:
    """Act as the primary of a new epoch, with its data in ``database``. Return the last head that it puts.

    Args:
        bucket: the bucket.
        env: the operator's environment, which contains the secrets.
        database: the file into which the head's base is restored.
        synced: the number of entries that are written, synced and named by the head.
        unsynced: the number of further entries that are written and named. The head's ``recent`` contains only these.
        unnamed: the number of further entries that are only committed.
    """
    program, keys = await Program.find(), head_keys(env)
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        old = await read_head(objects, keys)
        assert isinstance(old, Sound)
        await restore(program, bucket, old.head.base, database, timeout_ms=TIMEOUT_MS)
        async with await Database.open(database, checkpoints=False) as primary_database:
            writer = await Writer.for_database(primary_database, env)
            for entry in old.head.after(Checkpoint(writer.state.head.seq, writer.state.head.hash)) or ():
                await primary_database.append(writer.state, [entry])
                writer.state.apply(entry)
            writer.epoch = old.head.epoch + 1
            base = fresh_base(writer.epoch, random_bytes=os.urandom)
            replication = await Replication.begin(program, bucket, database, base, random_bytes=os.urandom)
            await writer.write_some(synced)
            await replication.sync(timeout_ms=TIMEOUT_MS)
            await replication.stop()
            recent = await writer.write_some(unsynced)
            head = msgspec.structs.replace(
                old.head, rev=old.head.rev + 1, attempt=os.urandom(16), epoch=writer.epoch, owner=os.urandom(16),
                machine="m1", region="syd", lease_ms=200, base=base, seq=writer.state.head.seq,
                hash=writer.state.head.hash, recent=tuple(recent),
            )  # fmt: skip
            await writer.write_some(unnamed)
            await put_head(objects, head, keys, over=old)
    return head


@asynccontextmanager
async def open_cluster(bucket: Bucket, env: Mapping[str, str]) -> AsyncIterator[Cluster]:
    """Open the cluster that ``env`` describes."""
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        seal_keys, program = SealKeys.parse(env["TKDB_SEAL_KEYS"]), await Program.find()
        yield Cluster(
            env["TKDB_NAME"], seal_keys, head_keys(env), lambda entry: None, bucket, objects, program, os.urandom
        )


def make_cluster(bucket: Bucket, env: Mapping[str, str]) -> Head:
    """Make a cluster, and return its head."""

    async def run() -> Head:
        async with open_cluster(bucket, env) as cluster:
            # Retry, because a busy machine can exceed a timeout. A failed attempt leaves only garbage.
            return (await eventually(lambda: found(cluster, Path(env["TKDB_DB"]), system_clock()))).head

    return asyncio.run(run())


def alter(database: Path) -> None:
    """Alter the journal's second entry, as an attacker who can write the file could."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE journal SET time_ms = time_ms + 1 WHERE seq = 2")
        connection.commit()


def head_keys(env: Mapping[str, str]) -> HeadKeys:
    """Return the keys that authenticate the heads of that environment."""
    return HeadKeys(SealKeys.parse(env["TKDB_SEAL_KEYS"]).keys)


def with_objects(bucket: Bucket, work: Callable[[Objects], Awaitable[T]]) -> T:
    """Run ``work`` with the objects of a bucket, and return its result."""

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

    return with_objects(bucket, work)


def read(bucket: Bucket, key: str) -> bytes:
    """Return an object."""

    async def work(objects: Objects) -> bytes:
        found = await objects.get(key, timeout_ms=TIMEOUT_MS)
        assert isinstance(found, Found), (key, found)
        return found.body

    return with_objects(bucket, work)


def write(bucket: Bucket, key: str, body: bytes) -> None:
    """Write an object, and replace any existing one."""

    async def work(objects: Objects) -> None:
        assert isinstance(await objects.put(key, body, timeout_ms=TIMEOUT_MS), Stored)

    with_objects(bucket, work)


def delete(bucket: Bucket, prefix: str) -> None:
    """Delete all objects under a prefix. There must be at least one."""
    keys = keys_in(bucket, prefix)
    assert keys

    async def work(objects: Objects) -> None:
        for key in keys:
            assert isinstance(await objects.delete(key, timeout_ms=TIMEOUT_MS), Deleted)

    with_objects(bucket, work)


def head_in(bucket: Bucket, env: Mapping[str, str]) -> Head:
    """Return the head."""
    return decode_head(read(bucket, HEAD_KEY), head_keys(env))
