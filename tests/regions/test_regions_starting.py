"""Machines that start together, also before the cluster exists, and the rules that decide which one is primary."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.regions.cluster import LEASE_MS, REFUSAL_TIMEOUT_MS, Cluster, until
from tests.regions.ledger import Ledger
from tkdb import errors
from tkdb_replication.bucket.settings import Bucket

pytestmark = pytest.mark.slow


def roles(cluster: Cluster) -> list[str]:
    """Return the role that each running machine reports."""
    return [report.role if (report := cluster.status(name)) else "" for name in cluster.running()]


def test_machines_that_start_before_init_wait_for_it_and_then_one_becomes_primary(
    empty_bucket: Bucket, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, empty_bucket)
    try:
        for node in cluster.nodes.values():
            node.start()
        for name in cluster.nodes:
            until(lambda name=name: "create one with `tkdb init`" in cluster.readyz(name)[1])
            assert cluster.readyz(name)[0] == 503
            assert "the bucket has no head" in cluster.status(name).fault
        cluster.run("init")
        cluster.settled()
        assert sorted(roles(cluster)) == ["primary", "replica", "replica"]
        ledger = Ledger(cluster)
        with cluster.nodes[cluster.primary()].client() as client:
            ledger.write(client, "acme")
        ledger.assert_kept()
    finally:
        cluster.__exit__()


def test_the_order_of_regions_decides_which_machine_is_primary(empty_bucket: Bucket, tmp_path: Path) -> None:
    # Each place in the order adds half a second. 60 places give m2 enough time to become primary first.
    order = ",".join(["r2", *(f"x{number}" for number in range(60)), "r1"])
    with Cluster(tmp_path, empty_bucket, size=2, TKDB_PRIMARY_REGIONS=order) as cluster:
        assert cluster.primary() == "m2"


def test_with_manual_promotion_no_replica_takes_over_before_the_command(empty_bucket: Bucket, tmp_path: Path) -> None:
    with Cluster(tmp_path, empty_bucket, size=2, TKDB_PROMOTION="manual") as cluster:
        primary = cluster.settled()
        other = next(name for name in cluster.nodes if name != primary)
        ledger = Ledger(cluster)
        with cluster.nodes[primary].client() as client:
            ledger.write(client, "acme")
        ledger.assert_kept()
        cluster.nodes[primary].kill()
        until(lambda: cluster.status(other).cluster.unchanged_ms > LEASE_MS + 2_000)
        assert cluster.status(other).role == "replica"
        assert cluster.readyz(other)[0] == 200
        status, alarm = cluster.replicating(other)
        assert (status, "no machine is primary" in alarm) == (503, True)
        with cluster.nodes[other].client(timeout_ms=REFUSAL_TIMEOUT_MS) as client, pytest.raises(errors.NoPrimary):
            client.create_organization("unacknowledged")
        ledger.assert_kept()
        output = cluster.run("promote", "--take-over", "--yes", **operator(cluster, other))
        assert f"{other} is primary" in output
        with cluster.nodes[other].client() as client:
            ledger.write(client, "beta")
        until(lambda: cluster.replicating(other)[0] == 200)
        # The killed machine starts again, and doesn't become primary.
        cluster.nodes[primary].start()
        ledger.assert_kept()
        assert cluster.status(primary).role == "replica"


def operator(cluster: Cluster, name: str) -> dict[str, str]:
    """Return the environment of an operator who calls only this machine."""
    return {
        "TKDB_URL": cluster.nodes[name].url,
        "TKDB_AUTHORITY": cluster.keys.identity.text(),
        "TKDB_SIGNER": cluster.keys.signer.text(),
    }
