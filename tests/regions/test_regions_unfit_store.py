"""``tkdb init`` and every machine refuse an object store that isn't fit for a lease."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.regions import rule_proxy as rules
from tests.regions.cluster import Cluster, until
from tests.regions.rule_proxy import RuleProxy
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
        pytest.param(rules.eventual_reads(), "a read right after a write doesn't see it", id="eventual reads"),
    ],
)


@pytest.fixture(scope="module")
def initialized(s3_server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, RuleProxy]]:
    """A cluster of one machine that isn't started, and the proxy between it and the store."""
    bucket = make_bucket(s3_server)
    with RuleProxy(s3_server.port) as store_proxy:
        via = s3_server.bucket(bucket.name, store_proxy.url)
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), bucket, size=1, via=via)
        cluster.run("init")
        yield cluster, store_proxy


@UNFIT
def test_no_cluster_is_created_on_an_unfit_store(
    empty_bucket: Bucket, tmp_path: Path, store_proxy: RuleProxy, rule: rules.Rule, fault: str
) -> None:
    store_proxy.rule = rule
    output = Cluster(tmp_path, empty_bucket, size=0).run("init", code=2, AWS_ENDPOINT_URL_S3=store_proxy.url)
    assert f"the object store is not fit for a lease: {fault}" in output
    assert "use a bucket with conditional writes and strong reads" in output


@UNFIT
def test_a_machine_ends_on_an_unfit_store_and_leaves_the_head_unchanged(
    initialized: tuple[Cluster, RuleProxy], rule: rules.Rule, fault: str
) -> None:
    cluster, store_proxy = initialized
    store_proxy.rule, before = rule, cluster.head.read()
    with cluster.nodes["m1"] as node:
        until(lambda: node.process.poll() is not None)
        assert node.stop() == 2
    assert f"the object store is not fit for a lease: {fault}" in cluster.log("m1")
    assert cluster.head.read() == before
