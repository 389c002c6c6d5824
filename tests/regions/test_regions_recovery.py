"""A cluster recovers from the loss of its head or base: revoked tokens stay revoked, and old volumes are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.node import Node
from tests.regions.cluster import Cluster, until
from tests.replication.operator import delete
from tkdb import errors
from tkdb_replication.bucket.settings import Bucket


def kill_all(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.kill()


@pytest.mark.slow
def test_after_the_loss_of_the_head_machines_restore_themselves_and_revoked_tokens_stay_revoked(
    empty_bucket: Bucket, tmp_path: Path
) -> None:
    with Cluster(tmp_path, empty_bucket, size=2) as cluster:
        primary = cluster.nodes[cluster.settled()]  # its disk has every entry: a replica's disk may be a moment late
        with primary.client() as client:
            client.create_organization("acme")
            revoked, alive = client.mint("acme"), client.mint("acme")
            client.revoke(revoked)
        kill_all(cluster)
        cluster.head.wipe()
        cluster.run("recover", code=1)
        cluster.run("recover", "--from", "volume", "--accept-loss", TKDB_DB=str(primary.database))
        for node in cluster.nodes.values():
            for left in node.database.parent.glob("tkdb.db*"):
                left.unlink()
            node.start()
        with cluster.nodes[cluster.settled()].client() as client:
            client.verify(alive)
            with pytest.raises(errors.RevokedToken):
                client.verify(revoked)
            until(lambda: client.create_organization("initech"))


@pytest.mark.slow
def test_after_the_loss_of_its_base_a_cluster_continues_at_the_same_position(
    empty_bucket: Bucket, tmp_path: Path
) -> None:
    with Cluster(tmp_path, empty_bucket, size=2) as cluster:
        primary = cluster.nodes[cluster.settled()]
        with primary.client() as client:
            client.create_organization("acme")
            revoked = client.mint("acme")
            client.revoke(revoked)
        kill_all(cluster)
        lost = cluster.head.head()
        delete(empty_bucket, lost.base)
        cluster.run("recover", "--from", "volume", TKDB_DB=str(primary.database))
        assert cluster.head.head().place == lost.place
        for node in cluster.nodes.values():
            node.start()
        with cluster.nodes[cluster.settled()].client() as client, pytest.raises(errors.RevokedToken):
            client.verify(revoked)


@pytest.mark.slow
def test_a_volume_from_before_the_recovery_is_refused(empty_bucket: Bucket, tmp_path: Path) -> None:
    with Cluster(tmp_path, empty_bucket, size=1) as cluster:
        kill_all(cluster)
        cluster.head.wipe()
        cluster.run("recover", "--accept-loss")
        cluster.nodes["m1"].start()
        until(lambda: "this machine's volume to another" in cluster.log("m1"))
        assert cluster.readyz("m1")[0] == 503


@pytest.mark.slow
def test_a_single_machine_becomes_a_cluster_with_the_same_tokens_and_revocations(
    empty_bucket: Bucket, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, empty_bucket, size=2)
    database = cluster.nodes["m1"].database
    with Node(database, cluster.keys) as alone, alone.client() as client:
        client.create_organization("acme")
        token, revoked = client.mint("acme"), client.mint("acme")
        client.revoke(revoked)
    cluster.run("init", TKDB_DB=str(database))
    try:
        for node in cluster.nodes.values():
            node.start()
        cluster.settled()
        for node in cluster.nodes.values():
            with node.client() as client:
                client.verify(token)
                with pytest.raises(errors.RevokedToken):
                    client.verify(revoked)
        assert cluster.run("gc", "--yes").count("kept: the head names it") == 1
    finally:
        kill_all(cluster)
