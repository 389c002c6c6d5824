"""The two profiles of the test run: each night runs at least what every change runs, and seeds are fresh."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings

from tests import profiles
from tkdb_replication.bucket.conformance import RACERS, ROUNDS, check_store


def test_each_night_tries_at_least_as_much_as_a_change_that_lands() -> None:
    landing, nightly = (dataclasses.asdict(profiles.PROFILES[name]) for name in ("landing", "nightly"))
    numbers = [name for name, value in landing.items() if isinstance(value, int | float) and name != "chaos_seed"]
    assert len(numbers) > 8
    assert [name for name in numbers if nightly[name] < landing[name]] == []


def test_properties_follow_the_current_profile() -> None:
    assert settings().max_examples == profiles.CURRENT.examples
    assert settings().deadline is None


def test_a_seed_is_new_unless_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(profiles.SEED_VARIABLE, raising=False)
    assert len({profiles.fresh_seed() for _ in range(5)}) == 5
    monkeypatch.setenv(profiles.SEED_VARIABLE, "7")
    assert profiles.fresh_seed() == 7


def probed() -> dict[str, int]:
    """Return how this process probes object stores."""
    return dict(check_store.__kwdefaults__ or {})


def test_stores_are_probed_as_the_profile_says() -> None:
    assert probed() == probed() | dict(profiles.CURRENT.probe)


@pytest.mark.real_start
def test_a_test_of_the_probe_has_the_products_own() -> None:
    assert (probed()["rounds"], probed()["racers"]) == (ROUNDS, RACERS)
