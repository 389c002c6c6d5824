"""Machines refuse a head that an attacker altered, deleted or put back, and report it until the head is correct."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.regions.cluster import REFUSAL_TIMEOUT_MS, Cluster, until
from tests.regions.ledger import Ledger
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb import errors

pytestmark = pytest.mark.slow

BOUND_MS = 3_000


@pytest.fixture(scope="module")
def running(s3_server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, make_bucket(s3_server), size=2, TKDB_BOUND_MS=str(BOUND_MS)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def older(running: Cluster) -> bytes:
    """An old head of this cluster: every machine has read a newer one."""
    body = running.head.read()
    rev = running.head.decode(body).rev
    until(lambda: all(running.status(name).cluster.rev > rev for name in running.nodes))
    return body


def flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def refused(cluster: Cluster, name: str, reason: str) -> bool:
    """Return True if a machine isn't ready, and gives the reason to proxies, to callers and in its log."""
    code, text = cluster.readyz(name)
    report = cluster.status(name)
    return (
        code == 503 and reason in text and report is not None and reason in report.fault and reason in cluster.log(name)
    )


def test_a_wrong_head_is_refused_until_the_correct_head_is_back(running: Cluster, older: bytes) -> None:
    right = running.head.replace(flipped)
    wrong = [
        (flipped(right), "the head was altered in the bucket"),
        (b"", "has another sealing secret, or isn't a head"),
        (bytes(200), "has another sealing secret, or isn't a head"),
        (running.head.of_another_journal(right), "the head belongs to journal 000000"),
        (older, "the head went back from rev"),
    ]
    for body, reason in wrong:
        running.head.put(body)
        for name in running.nodes:
            until(lambda name=name, reason=reason: refused(running, name, reason))
            with (
                running.nodes[name].client(timeout_ms=200) as client,
                pytest.raises((errors.Unavailable, errors.StaleAuthority)),
            ):
                client.create_organization("unacknowledged")
    running.head.put(right)
    for name in running.nodes:
        until(lambda name=name: running.readyz(name)[0] == 200)


def test_a_replica_without_a_head_serves_until_the_bound_and_recovers_with_the_head(running: Cluster) -> None:
    primary = running.settled()
    replica = next(name for name in running.nodes if name != primary)
    ledger = Ledger(running)
    with running.nodes[primary].client() as client:
        ledger.write(client, "acme")
        token = client.mint("acme")
    ledger.assert_kept()
    right = running.head.replace(flipped)
    running.head.wipe()
    with running.nodes[replica].client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
        until(lambda: "the bucket has no head" in running.log(replica))
        client.verify(token)
        until(lambda: refused(running, replica, "create one with `tkdb init`"))
        with pytest.raises(errors.StaleAuthority):
            client.verify(token)
    running.head.put(right)
    with running.nodes[running.settled()].client() as client:
        ledger.write(client, "beta")
    ledger.assert_kept()


def test_an_older_head_is_refused_after_a_restart(running: Cluster, older: bytes) -> None:
    running.settled()
    running.nodes["m2"].kill()
    right = running.head.replace(lambda _: older)
    running.nodes["m2"].start()
    until(lambda: refused(running, "m2", "the head went back from rev"))
    running.head.put(right)
    until(lambda: running.readyz("m2")[0] == 200)
