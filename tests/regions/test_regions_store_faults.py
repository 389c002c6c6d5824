"""A machine whose object store fails: its reads stay correct, its writes happen once, and it reports the fault."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tests.regions import rule_proxy as rules
from tests.regions.cluster import REFUSAL_TIMEOUT_MS, Cluster, until
from tests.regions.ledger import Ledger
from tests.regions.rule_proxy import RuleProxy
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb import errors

pytestmark = pytest.mark.slow

BOUND_MS = 2_000


@pytest.fixture(scope="module")
def store(s3_server: Seaweed) -> Iterator[RuleProxy]:
    with RuleProxy(s3_server.port) as store_proxy:
        yield store_proxy


@pytest.fixture(scope="module")
def running(s3_server: Seaweed, store: RuleProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    bucket = make_bucket(s3_server)
    via = s3_server.bucket(bucket.name, store.url)
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, bucket, size=1, via=via, TKDB_BOUND_MS=str(BOUND_MS)) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster, store: RuleProxy) -> Iterator[Cluster]:
    """One machine, m1, which is primary and fresh. Its store is healthy until a test sets a rule."""
    running.settled()
    yield running
    store.rule = rules.honest


def test_without_the_store_reads_continue_until_the_bound_and_are_then_refused(
    cluster: Cluster, store: RuleProxy
) -> None:
    ledger = Ledger(cluster)
    with cluster.nodes["m1"].client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
        ledger.write(client, "unreachable")
        token = client.mint("unreachable")
        store.rule = rules.unreachable
        client.verify(token)
        until(lambda: cluster.readyz("m1")[0] == 503)
        with pytest.raises(errors.StaleAuthority, match="can't prove that it is up to date"):
            client.verify(token)
        with pytest.raises((errors.Unavailable, errors.StaleAuthority)):
            client.create_organization("unacknowledged")
        for text in (cluster.readyz("m1")[1], client.status().fault):
            assert "can't prove that it is up to date" in text
            assert "couldn't be reached" in text
        until(lambda: not client.status().cluster.is_current)
    store.rule = rules.honest
    cluster.settled()
    ledger.assert_kept()


def test_a_machine_that_starts_without_the_store_reports_it_and_recovers_with_the_store(
    cluster: Cluster, store: RuleProxy
) -> None:
    ledger = Ledger(cluster)
    with cluster.nodes["m1"].client() as client:
        ledger.write(client, "before")
        token = client.mint("before")
    cluster.nodes["m1"].kill()
    store.rule = rules.unreachable
    cluster.nodes["m1"].start()
    until(lambda: "couldn't be reached" in cluster.readyz("m1")[1])
    assert cluster.readyz("m1")[0] == 503
    with cluster.nodes["m1"].client(timeout_ms=REFUSAL_TIMEOUT_MS) as client, pytest.raises(errors.StaleAuthority):
        client.verify(token)
    store.rule = rules.honest
    cluster.settled()
    ledger.assert_kept()


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rules.slow(0.3), id="slow"),
        pytest.param(rules.failing(3), id="failing"),
        pytest.param(rules.lose_write_answers, id="answers cut"),
    ],
)
def test_every_write_is_done_once_while_the_store_partly_fails(
    cluster: Cluster, store: RuleProxy, rule: rules.Rule, request: pytest.FixtureRequest
) -> None:
    ledger = Ledger(cluster)
    name = request.node.callspec.id.replace(" ", "-")
    store.rule = rule
    with cluster.nodes["m1"].client(timeout_ms=30_000) as client:
        for number in range(3):
            # Each call repeats its request, with the same id, until it succeeds: it never gets a Conflict.
            ledger.write(client, f"{name}-{number}")
    ledger.assert_kept()
    assert cluster.status("m1").role == "primary"


def test_a_write_of_unknown_outcome_is_done_once_when_it_is_repeated_with_its_id(
    cluster: Cluster, store: RuleProxy
) -> None:
    node = cluster.nodes["m1"]
    store.rule = rules.refuse_writes(503)
    with (
        node.client(timeout_ms=REFUSAL_TIMEOUT_MS, random=Random(1).randbytes) as client,
        pytest.raises(errors.OutcomeUnknown),
    ):
        client.create_organization("once")
    store.rule = rules.honest
    with node.client(random=Random(1).randbytes) as client:
        made = client.create_organization("once")
        with pytest.raises(errors.Conflict):
            client.create_organization("once")
        assert [each for each in client.list_organizations() if each.name == "once"] == [made]


def test_a_full_store_still_serves_reads_and_a_primary_that_cannot_write_steps_down(
    cluster: Cluster, store: RuleProxy
) -> None:
    ledger = Ledger(cluster)
    node = cluster.nodes["m1"]
    with node.client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
        ledger.write(client, "room")
        store.rule = rules.refuse_writes(507)
        with pytest.raises(errors.OutcomeUnknown):
            client.create_organization("no-room")
        until(lambda: (report := cluster.status("m1")) and report.role == "replica" and not report.fault)
        ledger.assert_kept()
        with pytest.raises(errors.NoPrimary):
            client.create_organization("no-room-either")
    assert "507" in cluster.log("m1")
    store.rule = rules.honest
    cluster.settled()
    with node.client() as client:
        assert "no-room" not in {each.name for each in client.list_organizations()}
        ledger.write(client, "room-again")
    ledger.assert_kept()
