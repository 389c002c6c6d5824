"""A machine whose clock is far from the object store's: it says so, and does nothing that depends on the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.regions import meddler as rules
from tests.regions.cluster import TOLD_MS, Cluster, until
from tests.regions.ledger import Ledger
from tests.regions.meddler import Meddler
from tests.replication.seaweed import Seaweed
from tkdb import errors
from tkdb.authority.clock import MAX_JUMP_MS, Clock
from tkdb_replication.bucket.settings import Bucket

NOW_MS = 1_000_000_000
WITHIN_MS = 2_500


@pytest.fixture
def clock() -> Clock:
    return Clock(lambda: NOW_MS, lambda: 0)


@pytest.mark.parametrize("apart_ms", [-MAX_JUMP_MS, 0, MAX_JUMP_MS, MAX_JUMP_MS + WITHIN_MS])
def test_a_clock_is_believed_as_far_from_the_stores_as_clocks_and_answers_may_be(clock: Clock, apart_ms: int) -> None:
    clock.heard_ms(NOW_MS - apart_ms, within_ms=WITHIN_MS)
    assert clock.steady_ms(not_before_ms=0) == NOW_MS


@pytest.mark.parametrize("apart_ms", [-MAX_JUMP_MS - 1, MAX_JUMP_MS + WITHIN_MS + 1, -(2**40), 2**40])
def test_a_clock_that_is_further_from_the_stores_is_not_believed_until_they_agree_again(
    clock: Clock, apart_ms: int
) -> None:
    clock.heard_ms(NOW_MS - apart_ms, within_ms=WITHIN_MS)
    with pytest.raises(errors.Unavailable, match=r"this machine's clock is -?\d+ s from the object store's"):
        clock.steady_ms(not_before_ms=0)
    assert clock.reckoned_ms() == NOW_MS
    clock.heard_ms(NOW_MS, within_ms=WITHIN_MS)
    assert clock.steady_ms(not_before_ms=0) == NOW_MS


@pytest.fixture
def cluster(s3_server: Seaweed, empty_bucket: Bucket, meddler: Meddler, tmp_path: Path) -> Iterator[Cluster]:
    via = s3_server.bucket(empty_bucket.name, meddler.url)
    with Cluster(tmp_path, empty_bucket, size=1, via=via) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_machine_far_from_the_stores_time_verifies_and_revokes_and_neither_mints_nor_dates(
    cluster: Cluster, meddler: Meddler
) -> None:
    ledger = Ledger(cluster)
    with cluster.nodes["m1"].client(timeout_ms=TOLD_MS) as client:
        ledger.write(client, "acme")
        token, doomed = client.mint("acme"), client.mint("acme")
        meddler.rule = rules.dated(-3_600)
        said = until(lambda: refusal(cluster))
        assert "this machine's clock is 360" in said
        assert "s from the object store's" in said
        status, why = cluster.replicating("m1")
        assert (status, "s from the object store's" in why) == (503, True)
        assert cluster.readyz("m1")[0] == 200
        with pytest.raises(errors.Unavailable, match="from the object store's"):
            client.create_organization("dated")
        client.verify(token)
        client.revoke(doomed)
        with pytest.raises(errors.RevokedToken):
            client.verify(doomed)
        meddler.rule = rules.honest
        until(lambda: not refusal(cluster))
        ledger.write(client, "beta")
    ledger.assert_kept()


def refusal(cluster: Cluster) -> str:
    """Why m1 doesn't mint; empty where it does."""
    with cluster.nodes["m1"].client(timeout_ms=TOLD_MS) as client:
        try:
            client.mint("acme")
        except errors.Unavailable as error:
            return str(error)
    return ""
