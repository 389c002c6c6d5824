"""The client's cache in a world with lag, cuts and failovers. No schedule ends in a stale accept or a false denial.
Without one rule of the cache, some schedule does.

Print one schedule: ``python -m tests.client.cache.model --seed 7 [--control "never stale"]``.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests import profiles
from tests.client.cache.model.controls import CONTROLS
from tests.client.cache.model.world import World

SCHEDULES = 40
"""The seeds below this number run each time, so their counts are certain. Each run also has new seeds."""


def fresh(count: int) -> range:
    """Return `count` new seeds."""
    first = SCHEDULES + profiles.fresh_seed()
    return range(first, first + count)


def test_no_schedule_ends_in_a_stale_accept_or_a_false_denial() -> None:
    counts: Counter[str] = Counter()
    for seed in (*range(SCHEDULES), *fresh(profiles.CURRENT.cache_schedules)):
        world = World(seed).run()
        assert not world.violations, f"print it: python -m tests.client.cache.model --seed {seed}"
        if seed < SCHEDULES:
            counts.update(world.counts)
    # Otherwise the schedules had too few faults to prove anything.
    assert counts["accepted"] > 20 * SCHEDULES
    assert counts["RevokedToken"] > 10 * SCHEDULES
    assert counts["StaleAuthority"] > SCHEDULES
    assert counts["journals"] > SCHEDULES / 10


def test_without_faults_no_valid_token_is_denied() -> None:
    hits = 0
    for seed in (*range(SCHEDULES // 2), *fresh(profiles.CURRENT.calm_cache_schedules)):
        world = World(seed, calm=True).run()
        assert not world.violations, f"print it: python -m tests.client.cache.model --seed {seed} --calm"
        assert not world.counts.keys() & {"StaleAuthority", "Unavailable", "DeadlineExceeded"}
        hits += seed < SCHEDULES and sum(caller.cache.info().hits for caller in world.callers)
    assert hits > 15 * SCHEDULES


@pytest.mark.slow
@pytest.mark.timeout(400 + profiles.CURRENT.cache_control_schedules // 5)
@pytest.mark.parametrize("name", CONTROLS)
def test_a_cache_without_one_rule_violates_a_guarantee(name: str) -> None:
    control = CONTROLS[name]
    first = profiles.fresh_seed() if profiles.CURRENT.cache_controls_start_fresh else control.first
    for seed in range(first, first + profiles.CURRENT.cache_control_schedules):
        kinds = {violation.kind for violation in World(seed, control.parts).run().violations}
        if kinds & control.harm:
            return
    pytest.fail(f"no schedule from seed {first} on shows the harm that the rule prevents")
