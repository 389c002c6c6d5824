"""If the disk of a primary or a replica is full, another machine is primary, and no acknowledged write is lost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.end_to_end.node import Node
from tests.regions.cluster import REFUSAL_TIMEOUT_MS, Cluster, until
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
    """Act as a full disk: a machine's process can't write beyond ``room`` bytes of a file. This includes its log."""
    pid = node.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, most))
    try:
        yield
    finally:
        if node.process.poll() is None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


def other_machine(cluster: Cluster, name: str) -> str:
    return next(other for other in cluster.nodes if other != name)


@pytest.mark.parametrize("room", [0, ROOM_FOR_SMALL_FILES])
def test_a_primary_with_a_full_disk_is_replaced_and_follows_once_there_is_room(
    running: Cluster, ledger: Ledger, room: int
) -> None:
    primary = running.settled()
    node, other = running.nodes[primary], running.nodes[other_machine(running, primary)]
    with full(node, room):
        with node.client(timeout_ms=300) as client:

            def refused() -> bool:
                with pytest.raises((errors.Unavailable, errors.StaleAuthority)):
                    client.create_organization("unacknowledged")
                report = running.status(other_machine(running, primary))
                return report is not None and report.role == "primary"

            until(refused)
        with other.client() as client:
            ledger.write(client, f"elsewhere-{room}")
        ledger.assert_kept(other_machine(running, primary))
    running.settled()
    with other.client() as client:
        assert "unacknowledged" not in {each.name for each in client.list_organizations()}
    ledger.assert_kept()
    assert node.process.poll() is None


def test_a_replica_with_a_full_disk_becomes_stale_and_recovers_once_there_is_room(
    running: Cluster, ledger: Ledger
) -> None:
    primary = running.settled()
    name = other_machine(running, primary)
    node = running.nodes[name]
    with full(node, ROOM_FOR_SMALL_FILES):
        with running.nodes[primary].client() as client:
            ledger.write(client, "while-full")
        until(lambda: running.readyz(name)[0] == 503)
        with node.client(timeout_ms=REFUSAL_TIMEOUT_MS) as client, pytest.raises(errors.StaleAuthority):
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
