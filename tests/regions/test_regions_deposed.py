"""A primary that stands still for longer than its lease, and wakes: it acknowledges nothing, and follows another."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.regions import meddler as rules
from tests.regions.cluster import Cluster, until
from tests.regions.ledger import Ledger
from tests.regions.meddler import Meddler
from tests.replication.seaweed import Seaweed
from tkdb import errors
from tkdb.database.database import Database
from tkdb.journal.entry import Entry
from tkdb_replication.bucket.settings import Bucket

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(s3_server: Seaweed, empty_bucket: Bucket, meddler: Meddler, tmp_path: Path) -> Iterator[Cluster]:
    """Two machines: m1, which is primary, reaches the store through the meddler."""
    cluster = Cluster(tmp_path, empty_bucket, size=1)
    cluster.nodes["m1"] = cluster.node("m1", s3_server.bucket(empty_bucket.name, meddler.url))
    with cluster:
        cluster.nodes["m2"] = cluster.node("m2", empty_bucket)
        cluster.nodes["m2"].start()
        cluster.settled()
        yield cluster


def test_a_primary_that_wakes_acknowledges_nothing_and_follows_the_new_one(cluster: Cluster, meddler: Meddler) -> None:
    old, new = cluster.nodes["m1"], cluster.nodes["m2"]
    ledger = Ledger(cluster)
    with old.client() as client:
        ledger.write(client, "before")
    # A write is committed there, and no head comes to name it.
    meddler.rule = rules.refuse_writes(503)
    before = asyncio.run(journal(old.database))
    with (
        ThreadPoolExecutor(1) as thread,
        old.client(attempt_timeout_ms=10_000, random=Random(7).randbytes) as client,
    ):
        writing = thread.submit(client.create_organization, "in-flight")
        until(lambda: len(asyncio.run(journal(old.database))) > len(before))
        old.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: (said := cluster.status("m2")) and said.role == "primary")
            with new.client() as other:
                ledger.write(other, "after")
        finally:
            old.process.send_signal(signal.SIGCONT)
        meddler.rule = rules.honest
        # The old one tells that it isn't known; the call is repeated by its id, and finds no primary there any more.
        with pytest.raises((errors.OutcomeUnknown, errors.NoPrimary)):
            writing.result()
    ledger.assert_kept()
    assert cluster.status("m1").role == "replica"
    with new.client(random=Random(7).randbytes) as client:
        assert client.create_organization("in-flight").name == "in-flight"
        with pytest.raises(errors.Conflict):
            client.create_organization("in-flight")
        ledger.write(client, "more")
    ledger.assert_kept()
    position = cluster.status("m2").position
    until(lambda: cluster.status("m1").position == position)
    assert asyncio.run(journal(old.database)) == asyncio.run(journal(new.database))


async def journal(path: Path) -> list[Entry]:
    async with await Database.open(path, read_only=True) as database:
        return await database.entries(0, 1_000)
