"""A cluster that lost its head, or its base, lives on: what was revoked stays dead, old volumes are not believed."""

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
def test_after_the_head_was_lost_machines_restore_themselves_and_what_was_revoked_stays_dead(
    empty_bucket: Bucket, tmp_path: Path
) -> None:
    with Cluster(tmp_path, empty_bucket, size=2) as cluster:
        primary = cluster.nodes[cluster.settled()]  # its disk has all: a replica's may be a moment behind
        with primary.client() as client:
            client.create_organization("acme")
            dead, alive = client.mint("acme"), client.mint("acme")
            client.revoke(dead)
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
                client.verify(dead)
            until(lambda: client.create_organization("initech"))


@pytest.mark.slow
def test_after_its_base_was_lost_a_cluster_goes_on_where_it_was(empty_bucket: Bucket, tmp_path: Path) -> None:
    with Cluster(tmp_path, empty_bucket, size=2) as cluster:
        primary = cluster.nodes[cluster.settled()]
        with primary.client() as client:
            client.create_organization("acme")
            dead = client.mint("acme")
            client.revoke(dead)
        kill_all(cluster)
        lost = cluster.head.head()
        delete(empty_bucket, lost.base)
        cluster.run("recover", "--from", "volume", TKDB_DB=str(primary.database))
        assert cluster.head.head().place == lost.place
        for node in cluster.nodes.values():
            node.start()
        with cluster.nodes[cluster.settled()].client() as client, pytest.raises(errors.RevokedToken):
            client.verify(dead)


@pytest.mark.slow
def test_a_volume_of_before_the_recovery_is_not_believed(empty_bucket: Bucket, tmp_path: Path) -> None:
    with Cluster(tmp_path, empty_bucket, size=1) as cluster:
        kill_all(cluster)
        cluster.head.wipe()
        cluster.run("recover", "--accept-loss")
        cluster.nodes["m1"].start()
        until(lambda: "this machine's volume to another" in cluster.log("m1"))
        assert cluster.readyz("m1")[0] == 503


@pytest.mark.slow
def test_a_single_machine_becomes_a_cluster_that_serves_what_it_served(empty_bucket: Bucket, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, empty_bucket, size=2)
    database = cluster.nodes["m1"].database
    with Node(database, cluster.keys) as alone, alone.client() as client:
        client.create_organization("acme")
        token, dead = client.mint("acme"), client.mint("acme")
        client.revoke(dead)
    cluster.run("init", TKDB_DB=str(database))
    try:
        for node in cluster.nodes.values():
            node.start()
        cluster.settled()
        for node in cluster.nodes.values():
            with node.client() as client:
                client.verify(token)
                with pytest.raises(errors.RevokedToken):
                    client.verify(dead)
        assert cluster.run("gc").count("kept: the head names it") == 1
    finally:
        kill_all(cluster)
