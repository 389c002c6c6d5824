"""A machine whose clock is far from the object store's clock reports it, and refuses calls that depend on the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.regions import rule_proxy as rules
from tests.regions.cluster import REFUSAL_TIMEOUT_MS, Cluster, until
from tests.regions.ledger import Ledger
from tests.regions.rule_proxy import RuleProxy
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
def test_a_clock_within_the_allowance_of_the_stores_clock_is_trusted(clock: Clock, apart_ms: int) -> None:
    clock.heard_ms(NOW_MS - apart_ms, within_ms=WITHIN_MS)
    assert clock.steady_ms(not_before_ms=0) == NOW_MS


@pytest.mark.parametrize("apart_ms", [-MAX_JUMP_MS - 1, MAX_JUMP_MS + WITHIN_MS + 1, -(2**40), 2**40])
def test_a_clock_outside_the_allowance_is_not_trusted_until_both_clocks_agree_again(
    clock: Clock, apart_ms: int
) -> None:
    clock.heard_ms(NOW_MS - apart_ms, within_ms=WITHIN_MS)
    with pytest.raises(errors.Unavailable, match=r"this machine's clock is -?\d+ s from the object store's"):
        clock.steady_ms(not_before_ms=0)
    assert clock.reckoned_ms() == NOW_MS
    clock.heard_ms(NOW_MS, within_ms=WITHIN_MS)
    assert clock.steady_ms(not_before_ms=0) == NOW_MS


@pytest.fixture
def cluster(s3_server: Seaweed, empty_bucket: Bucket, store_proxy: RuleProxy, tmp_path: Path) -> Iterator[Cluster]:
    via = s3_server.bucket(empty_bucket.name, store_proxy.url)
    with Cluster(tmp_path, empty_bucket, size=1, via=via) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_machine_with_a_wrong_clock_verifies_and_revokes_but_does_not_mint_or_create(
    cluster: Cluster, store_proxy: RuleProxy
) -> None:
    ledger = Ledger(cluster)
    with cluster.nodes["m1"].client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
        ledger.write(client, "acme")
        token, to_revoke = client.mint("acme"), client.mint("acme")
        store_proxy.rule = rules.clock_offset(-3_600)
        reason = until(lambda: refusal(cluster))
        assert "this machine's clock is 360" in reason
        assert "s from the object store's" in reason
        status, alarm = cluster.replicating("m1")
        assert (status, "s from the object store's" in alarm) == (503, True)
        assert cluster.readyz("m1")[0] == 200
        with pytest.raises(errors.Unavailable, match="from the object store's"):
            client.create_organization("dated")
        client.verify(token)
        client.revoke(to_revoke)
        with pytest.raises(errors.RevokedToken):
            client.verify(to_revoke)
        store_proxy.rule = rules.honest
        until(lambda: not refusal(cluster))
        ledger.write(client, "beta")
    ledger.assert_kept()


def refusal(cluster: Cluster) -> str:
    """Return the reason why m1 doesn't mint, or an empty string if it mints."""
    with cluster.nodes["m1"].client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
        try:
            client.mint("acme")
        except errors.Unavailable as error:
            return str(error)
    return ""
