"""How much of what is drawn at random a test run tries: less for each change that lands, all of it each night.

    make test       the profile `landing`, the default
    make nightly    the profile `nightly`

All numbers are here, for both profiles. Property tests read `examples` and its neighbours, through Hypothesis's own
profile if they say nothing; simulations, models, chaos and fuzzers read the rest.

Rules:

- Seeds are fresh in each run, so each run tries something that none has tried. A failure prints its seed, or
  Hypothesis's `@reproduce_failure`; TESTS_SEED=n makes a run start at that seed.
- A smaller number never applies to a negative control alone: each control must still be found. Its limits are chosen
  by measurement, so that the chance of a miss is below 1e-4, or it starts at a seed that is known to show it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE: Final = "TESTS_PROFILE"
SEED_VARIABLE: Final = "TESTS_SEED"
SEEDS: Final = 1 << 31
"""Below this all fresh seeds are. No recorded seed of a negative control is near them."""


@dataclass(frozen=True)
class Profile:
    """The numbers of one profile.

    Args:
        name: what TESTS_PROFILE calls it.
        examples: of a property, by default.
        many_examples: of a property in simulated time, whose cases are rare.
        few_examples: of a property that opens a database or runs a command for each.
        lives: examples of a state machine, each of up to 40 steps on a real database.
        schedules: of the machines that share a head, with every rule on.
        cache_schedules: of the clients' caches, with every rule on, apart from those that every run repeats.
        calm_cache_schedules: the same, while nothing fails.
        cache_controls_start_fresh: True if each control of the cache is looked for from a fresh seed on.
        cache_control_schedules: how many schedules may pass until a control is found.
        chaos_s: how long real machines may take for the storms.
        chaos_storms: how many storms.
        chaos_seed: the storms' seed; None draws it anew.
        fuzz_s: how long the readers of untrusted bytes are fuzzed, on each core.
        probe: how an object store is probed by each machine that starts and by each `tkdb init`, if that isn't what a
            test is about. The product races 8 writers in 6 rounds, which costs a second of CPU.
    """

    name: str
    examples: int
    many_examples: int
    few_examples: int
    lives: int
    schedules: int
    cache_schedules: int
    calm_cache_schedules: int
    cache_controls_start_fresh: bool
    cache_control_schedules: int
    chaos_s: float
    chaos_storms: int
    chaos_seed: int | None
    fuzz_s: float
    probe: Mapping[str, int]


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile(
            "landing",
            examples=30, many_examples=60, few_examples=20, lives=10,
            schedules=300, cache_schedules=12, calm_cache_schedules=6,
            cache_controls_start_fresh=False, cache_control_schedules=1_000,
            chaos_s=60, chaos_storms=1, chaos_seed=14, fuzz_s=1,
            probe={"rounds": 1, "racers": 2},
        ),
        Profile(
            "nightly",
            examples=200, many_examples=500, few_examples=200, lives=50,
            schedules=2_000, cache_schedules=400, calm_cache_schedules=100,
            cache_controls_start_fresh=True, cache_control_schedules=10_000,
            chaos_s=300, chaos_storms=5, chaos_seed=None, fuzz_s=60,
            probe={},
        ),
    )
}  # fmt: skip

CURRENT: Final = PROFILES[os.environ.get(VARIABLE, "landing")]


def fresh_seed() -> int:
    """Return a seed that no run had before, or TESTS_SEED if it is set."""
    given = os.environ.get(SEED_VARIABLE)
    return int(given) if given is not None else int.from_bytes(os.urandom(8)) % SEEDS


def shorten_probe(name: str, *, whole: bool = False) -> None:
    """Make this process probe object stores as the profile `name` does, or as the product does."""
    from tkdb_replication.bucket.conformance import RACERS, ROUNDS, check_store

    defaults: Any = check_store.__kwdefaults__  # From outside: production has no switch.
    defaults.update({"rounds": ROUNDS, "racers": RACERS} | ({} if whole else dict(PROFILES[name].probe)))


def load() -> None:
    """Make Hypothesis use the current profile."""
    from hypothesis import HealthCheck, settings

    for profile in PROFILES.values():
        # What is drawn is judged, not how long it took: the machine may be busy.
        settings.register_profile(
            profile.name, deadline=None, max_examples=profile.examples, print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        )  # fmt: skip
    settings.load_profile(CURRENT.name)
