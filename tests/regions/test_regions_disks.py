"""A disk is full, under the primary or a replica: others lead and serve, and nothing acknowledged is lost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.end_to_end.node import Node
from tests.regions.cluster import TOLD_MS, Cluster, until
from tests.regions.ledger import Ledger
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb import errors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only on Linux: its kernel limits another process's files"),
]

ROOM_FOR_SMALL_FILES = 4_096


@pytest.fixture(scope="module")
def running(s3_server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), make_bucket(s3_server), size=2, TKDB_BOUND_MS="3000") as cluster:
        yield cluster


@contextmanager
def full(node: Node, room: int = 0) -> Iterator[None]:
    """Let a machine's process write no file beyond ``room`` bytes, as on a full disk. Its log ends there, too."""
    pid = node.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, most))
    try:
        yield
    finally:
        if node.process.poll() is None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


def others(cluster: Cluster, name: str) -> str:
    return next(other for other in cluster.nodes if other != name)


@pytest.mark.parametrize("room", [0, ROOM_FOR_SMALL_FILES])
def test_a_primary_whose_disk_is_full_lets_another_lead_and_follows_when_there_is_room(
    running: Cluster, ledger: Ledger, room: int
) -> None:
    primary = running.settled()
    node, other = running.nodes[primary], running.nodes[others(running, primary)]
    with full(node, room):
        with node.client(timeout_ms=300) as client:

            def refused() -> bool:
                with pytest.raises((errors.Unavailable, errors.StaleAuthority)):
                    client.create_organization("unacknowledged")
                said = running.status(others(running, primary))
                return said is not None and said.role == "primary"

            until(refused)
        with other.client() as client:
            ledger.write(client, f"elsewhere-{room}")
        ledger.assert_kept(others(running, primary))
    running.settled()
    with other.client() as client:
        assert "unacknowledged" not in {each.name for each in client.list_organizations()}
    ledger.assert_kept()
    assert node.process.poll() is None


def test_a_replica_whose_disk_is_full_grows_stale_and_comes_back_when_there_is_room(
    running: Cluster, ledger: Ledger
) -> None:
    primary = running.settled()
    name = others(running, primary)
    node = running.nodes[name]
    with full(node, ROOM_FOR_SMALL_FILES):
        with running.nodes[primary].client() as client:
            ledger.write(client, "unheard")
        until(lambda: running.readyz(name)[0] == 503)
        with node.client(timeout_ms=TOLD_MS) as client, pytest.raises(errors.StaleAuthority):
            client.verify(ledger.token)
        ledger.assert_kept(primary)
    ledger.assert_kept()
    assert node.process.poll() is None


def test_a_machine_with_a_full_disk_can_be_stopped(running: Cluster, ledger: Ledger) -> None:
    primary = running.settled()
    node = running.nodes[primary]
    with full(node), node.client(timeout_ms=300) as client:
        with pytest.raises(errors.Unavailable):
            client.create_organization("unacknowledged")
        node.stop()
    node.start()
    running.settled()
    ledger.assert_kept()
