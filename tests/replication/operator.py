"""A bucket and the environment of an operator beside it: what the tests of the commands on a cluster stand on."""

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
    """Return the environment of ``tkdb serve`` in a cluster, with new keys in ``folder``."""
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
    """Writes entries of an epoch to a journal, as its primary does."""

    epoch = 1

    @classmethod
    async def of(cls, database: Database, env: Mapping[str, str]) -> Self:
        """Return the writer of a database, whose journal is begun if there is none."""
        writer = cls(database, seed=random.getrandbits(32), ring=SealKeys.parse(env["TKDB_SEAL_KEYS"]))
        writer.state = await begin(database, env["TKDB_NAME"], writer.ring, system_clock(), os.urandom)
        writer.now_ms, writer.chain_key = now_ms(), chain_key_of(writer.state, writer.ring)
        writer.journal = writer.state.journal
        return writer

    def make(self, call: api.WriteCall | None, made: Made | None = None, origin: Origin | None = None) -> Entry:
        """As the scribe's, in this writer's epoch."""
        entry = super().make(call, made, origin)
        asked = Origin(entry.signer, entry.request_id, entry.signed_ms, entry.signature)
        state, chain_key = self.state, self.chain_key
        return link(
            state.head, chain_key, now_ms=self.now_ms, epoch=self.epoch, made=made, body=entry.body, origin=asked
        )

    async def write_some(self, count: int) -> list[Entry]:
        """Write so many entries, and return them."""
        for _ in range(count):
            await self.create(f"org-{self.state.head.seq + 1}")
        return self.entries[-count:] if count else []


def single_machine(env: Mapping[str, str], organizations: int = 1) -> int:
    """Have a single machine make a journal at TKDB_DB; return how many entries it has."""

    async def live() -> int:
        async with await Database.open(Path(env["TKDB_DB"])) as database:
            writer = await Writer.of(database, env)
            await writer.write_some(organizations)
            return writer.state.head.seq

    return asyncio.run(live())


async def lead(
    bucket: Bucket, env: Mapping[str, str], database: Path, *, synced: int, unsynced: int = 0, unnamed: int = 0
) -> Head:
    """Be primary for a while, with ``database`` as this machine's own; return the head that is left.

    Args:
        bucket: the bucket.
        env: the operator's environment, for the secrets.
        database: where the base that the head names is restored to.
        synced: how many entries are written, synced and named.
        unsynced: how many more are written and named; only these are in the head's ``recent``.
        unnamed: how many more are only committed.
    """
    program, keys = await Program.find(), head_keys(env)
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        old = await read_head(objects, keys)
        assert isinstance(old, Sound)
        await restore(program, bucket, old.head.base, database, timeout_ms=TIMEOUT_MS)
        async with await Database.open(database, checkpoints=False) as opened:
            writer = await Writer.of(opened, env)
            for entry in old.head.after(Checkpoint(writer.state.head.seq, writer.state.head.hash)) or ():
                await opened.append(writer.state, [entry])
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
async def cluster_of(bucket: Bucket, env: Mapping[str, str]) -> AsyncIterator[Cluster]:
    """Give the cluster of that environment."""
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        seal_keys, program = SealKeys.parse(env["TKDB_SEAL_KEYS"]), await Program.find()
        yield Cluster(
            env["TKDB_NAME"], seal_keys, head_keys(env), lambda entry: None, bucket, objects, program, os.urandom
        )


def founded(bucket: Bucket, env: Mapping[str, str]) -> Head:
    """Make a cluster, and return its head."""

    async def run() -> Head:
        async with cluster_of(bucket, env) as cluster:
            # However busy the machine is: what a try that was cut short has left is garbage.
            return (await eventually(lambda: found(cluster, Path(env["TKDB_DB"]), system_clock()))).head

    return asyncio.run(run())


def alter(database: Path) -> None:
    """Alter the journal's second entry, as whoever can write the file could."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE journal SET time_ms = time_ms + 1 WHERE seq = 2")
        connection.commit()


def head_keys(env: Mapping[str, str]) -> HeadKeys:
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


def head_in(bucket: Bucket, env: Mapping[str, str]) -> Head:
    """Return the head."""
    return decode_head(read(bucket, HEAD_KEY), head_keys(env))
