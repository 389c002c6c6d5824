"""The two profiles of the test run: the nightly one tries at least as much as the other, and seeds are fresh."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings

from tests import profiles
from tkdb_replication.bucket.conformance import RACERS, ROUNDS, check_store


def test_the_nightly_profile_tries_at_least_as_much_as_the_landing_profile() -> None:
    landing, nightly = (dataclasses.asdict(profiles.PROFILES[name]) for name in ("landing", "nightly"))
    numbers = [name for name, value in landing.items() if isinstance(value, int | float) and name != "chaos_seed"]
    assert len(numbers) > 8
    assert [name for name in numbers if nightly[name] < landing[name]] == []


def test_properties_follow_the_current_profile() -> None:
    assert settings().max_examples == profiles.CURRENT.examples
    assert settings().deadline is None


def test_a_seed_is_fresh_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(profiles.SEED_VARIABLE, raising=False)
    assert len({profiles.fresh_seed() for _ in range(5)}) == 5
    monkeypatch.setenv(profiles.SEED_VARIABLE, "7")
    assert profiles.fresh_seed() == 7


def probe_settings() -> dict[str, int]:
    """Return the numbers with which this process probes object stores."""
    return dict(check_store.__kwdefaults__ or {})


def test_stores_are_probed_as_the_profile_specifies() -> None:
    assert probe_settings() == probe_settings() | dict(profiles.CURRENT.probe)


@pytest.mark.real_start
def test_the_marker_real_start_keeps_the_products_probe() -> None:
    assert (probe_settings()["rounds"], probe_settings()["racers"]) == (ROUNDS, RACERS)
