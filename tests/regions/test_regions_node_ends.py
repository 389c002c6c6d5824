"""A node that fails, or is closed at an awkward moment, ends, and every waiting write gets an error."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.node import NAME, Keys
from tests.regions import rule_proxy as rules
from tests.regions.cluster import Cluster
from tests.regions.rule_proxy import RuleProxy
from tests.replication.seaweed import Seaweed, now_ms
from tkdb import api, errors
from tkdb.authority.methods import Profile
from tkdb.bootstrap import system_clock
from tkdb.database.database import Database
from tkdb.journal.seal import SealKeys
from tkdb.ports import Caller
from tkdb.signers import Signer
from tkdb_replication.bucket.paths import fresh_base
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.node.journal_steps import Steps
from tkdb_replication.node.node import Node
from tkdb_replication.node.replicator import Replicator
from tkdb_replication.node.volume_file import VolumeFile
from tkdb_replication.protocol.settings import ProtocolSettings

pytestmark = pytest.mark.slow

TIMEOUT_S = 30


@pytest.fixture
def cluster(s3_server: Seaweed, empty_bucket: Bucket, store_proxy: RuleProxy, tmp_path: Path) -> Cluster:
    """A cluster that is created and has no machines yet. They reach the store through the proxy."""
    cluster = Cluster(tmp_path, empty_bucket, size=0, via=s3_server.bucket(empty_bucket.name, store_proxy.url))
    cluster.run("init")
    return cluster


@pytest.fixture
def bucket(s3_server: Seaweed, empty_bucket: Bucket, store_proxy: RuleProxy) -> Bucket:
    return s3_server.bucket(empty_bucket.name, store_proxy.url)


async def open_node(cluster: Cluster, bucket: Bucket) -> Node:
    """Open a machine of the cluster, in this process."""
    profile = Profile(NAME, SealKeys([cluster.keys.seal]))
    settings = ProtocolSettings(machine="m1", lease_ms=3_000)
    return await Node.open(
        cluster.folder / "tkdb.db", profile, bucket, settings, clock=system_clock(), random=secrets.token_bytes
    )


async def until_primary(node: Node) -> None:
    """Wait until the node is primary and fresh."""
    while True:
        report: api.StatusReport = await node.answer(api.Status(), caller(None, api.Status()))
        if report.role == "primary" and not report.fault:
            return
        await asyncio.sleep(0.02)


def caller(keys: Keys | None, call: api.Call[Any]) -> Caller:
    signer = keys and Signer("operator", keys.signer.public, frozenset({"*"}), frozenset({"organizations"}))
    return Caller(signer, api.WRITE, os.urandom(16), now_ms(), bytes(64), api.encode(call))


def create(node: Node, keys: Keys, name: str) -> asyncio.Task[Any]:
    call = api.CreateOrganization(name)
    return asyncio.create_task(node.answer(call, caller(keys, call)))


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await test()

    asyncio.run(bounded())


def test_a_committed_write_that_cannot_be_served_has_an_unknown_outcome_and_ends_the_machine(
    cluster: Cluster, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(*_: object) -> None:
        raise errors.StoreError("the disk is gone")

    async def test() -> None:
        node = await open_node(cluster, bucket)
        await until_primary(node)
        monkeypatch.setattr(Steps, "serve", serve)
        with pytest.raises(errors.OutcomeUnknown, match="this machine has stopped"):
            await create(node, cluster.keys, "acme")
        with pytest.raises(errors.StoreError, match="the disk is gone"):
            await node.ended()
        # A later write doesn't wait either.
        with pytest.raises(errors.NoPrimary, match="this machine has stopped"):
            await create(node, cluster.keys, "beta")
        await node.close()

    run(test)


def test_a_waiting_write_gets_unavailable_when_its_machine_is_closed(
    cluster: Cluster, bucket: Bucket, store_proxy: RuleProxy
) -> None:
    async def test() -> None:
        node = await open_node(cluster, bucket)
        await until_primary(node)
        store_proxy.rule = rules.refuse_writes(503)
        writing = create(node, cluster.keys, "acme")
        await asyncio.sleep(0)
        await node.close()
        with pytest.raises(errors.Unavailable):
            await writing

    run(test)


def test_a_machine_that_cannot_write_its_volume_file_ends_when_it_is_drained(
    cluster: Cluster, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def write(*_: object) -> None:
        tried.set()
        raise errors.StoreUnwritable("the disk is full")

    async def test() -> None:
        node = await open_node(cluster, bucket)
        await until_primary(node)
        monkeypatch.setattr(VolumeFile, "write", write)
        writing = create(node, cluster.keys, "acme")
        await asyncio.to_thread(tried.wait)
        node.drain()
        with pytest.raises(errors.OutcomeUnknown):
            await writing
        with pytest.raises(errors.StoreUnwritable):
            await node.ended()
        await node.close()

    run(test)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_machine_can_be_closed_right_after_its_start(
    cluster: Cluster, bucket: Bucket, store_proxy: RuleProxy, *, reachable: bool
) -> None:
    async def test() -> None:
        for waits in range(0, 200, 40):
            store_proxy.rule = rules.honest if reachable else rules.unreachable
            node = await open_node(cluster, bucket)
            await asyncio.sleep(waits / 1000)
            await node.close()

    run(test)


@asynccontextmanager
async def replicator(bucket: Bucket, path: Path) -> AsyncIterator[Replicator]:
    async with await Database.open(path) as database:
        fit = asyncio.get_running_loop().create_future()
        fit.set_result(None)
        yield Replicator(await Program.find(), bucket, database, path, random_bytes=secrets.token_bytes, fit=fit)


def test_a_stop_that_is_cancelled_raises_and_litestream_can_still_be_stopped(
    empty_bucket: Bucket, tmp_path: Path
) -> None:
    async def test() -> None:
        async with replicator(empty_bucket, tmp_path / "tkdb.db") as one:
            await one.start(fresh_base(1, random_bytes=secrets.token_bytes))
            await one.sync(timeout_ms=10_000)
            stopping = asyncio.create_task(one.stop())
            await asyncio.sleep(0)
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            await one.stop()
            with pytest.raises(errors.Unavailable, match="isn't running"):
                await one.sync(timeout_ms=10_000)

    run(test)


def test_litestream_stops_even_if_the_disk_is_full(
    empty_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def let_checkpoint(_: object, on: bool) -> None:
        if on:
            raise errors.StoreUnwritable("the disk is full")

    async def test() -> None:
        async with replicator(empty_bucket, tmp_path / "tkdb.db") as one:
            monkeypatch.setattr(Database, "let_checkpoint", let_checkpoint)
            await one.start(fresh_base(1, random_bytes=secrets.token_bytes))
            await one.stop()

    run(test)
