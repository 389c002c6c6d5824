"""A primary that is paused for longer than its lease acknowledges nothing when it resumes, and follows the new one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.regions import rule_proxy as rules
from tests.regions.cluster import Cluster, until
from tests.regions.ledger import Ledger
from tests.regions.rule_proxy import RuleProxy
from tests.replication.seaweed import Seaweed
from tkdb import errors
from tkdb.database.database import Database
from tkdb.journal.entry import Entry
from tkdb_replication.bucket.settings import Bucket

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(s3_server: Seaweed, empty_bucket: Bucket, store_proxy: RuleProxy, tmp_path: Path) -> Iterator[Cluster]:
    """Two machines: m1, which is primary and reaches the store through the proxy, and m2."""
    cluster = Cluster(tmp_path, empty_bucket, size=1)
    cluster.nodes["m1"] = cluster.node("m1", s3_server.bucket(empty_bucket.name, store_proxy.url))
    with cluster:
        cluster.nodes["m2"] = cluster.node("m2", empty_bucket)
        cluster.nodes["m2"].start()
        cluster.settled()
        yield cluster


def test_a_primary_that_resumes_after_its_lease_acknowledges_nothing_and_follows_the_new_one(
    cluster: Cluster, store_proxy: RuleProxy
) -> None:
    old, new = cluster.nodes["m1"], cluster.nodes["m2"]
    ledger = Ledger(cluster)
    with old.client() as client:
        ledger.write(client, "before")
    # A write is committed on m1, and no head can name it.
    store_proxy.rule = rules.refuse_writes(503)
    before = asyncio.run(journal(old.database))
    with (
        ThreadPoolExecutor(1) as thread,
        old.client(attempt_timeout_ms=10_000, random=Random(7).randbytes) as client,
    ):
        writing = thread.submit(client.create_organization, "in-flight")
        until(lambda: len(asyncio.run(journal(old.database))) > len(before))
        old.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: (report := cluster.status("m2")) and report.role == "primary")
            with new.client() as other:
                ledger.write(other, "after")
        finally:
            old.process.send_signal(signal.SIGCONT)
        store_proxy.rule = rules.honest
        # The outcome is unknown, or the repeated request finds that m1 isn't primary any longer.
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
