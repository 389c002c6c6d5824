"""An object store that isn't fit for a lease is refused, by ``tkdb init`` and by every machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.regions import meddler as rules
from tests.regions.cluster import Cluster, until
from tests.regions.meddler import Meddler
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb_replication.bucket.settings import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.real_start]


UNFIT = pytest.mark.parametrize(
    ("rule", "fault"),
    [
        pytest.param(
            rules.ignore("if-match"),
            "If-Match with another ETag doesn't keep an object from being overwritten",
            id="without If-Match",
        ),
        pytest.param(
            rules.ignore("if-none-match"),
            "If-None-Match: * doesn't keep an object from being overwritten",
            id="without If-None-Match",
        ),
        pytest.param(rules.late_reads(), "a read right after a write doesn't see it", id="eventual reads"),
    ],
)


@pytest.fixture(scope="module")
def founded(s3_server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Meddler]]:
    """A cluster of one machine that isn't started, and what lies between it and the store."""
    bucket = make_bucket(s3_server)
    with Meddler(s3_server.port) as meddler:
        via = s3_server.bucket(bucket.name, meddler.url)
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), bucket, size=1, via=via)
        cluster.run("init")
        yield cluster, meddler


@UNFIT
def test_no_cluster_is_founded_on_it(
    empty_bucket: Bucket, tmp_path: Path, meddler: Meddler, rule: rules.Rule, fault: str
) -> None:
    meddler.rule = rule
    said = Cluster(tmp_path, empty_bucket, size=0).run("init", code=2, AWS_ENDPOINT_URL_S3=meddler.url)
    assert f"the object store is not fit for a lease: {fault}" in said
    assert "use a bucket with conditional writes and strong reads" in said


@UNFIT
def test_no_machine_leads_on_it_and_it_ends(founded: tuple[Cluster, Meddler], rule: rules.Rule, fault: str) -> None:
    cluster, meddler = founded
    meddler.rule, before = rule, cluster.head.read()
    with cluster.nodes["m1"] as node:
        until(lambda: node.process.poll() is not None)
        assert node.stop() == 2
    assert f"the object store is not fit for a lease: {fault}" in cluster.log("m1")
    assert cluster.head.read() == before
