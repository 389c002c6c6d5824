"""The number of random cases that a test run tries: fewer for each change, and all of them each night.

    make test       the profile `landing`, the default
    make nightly    the profile `nightly`

All numbers are here, for both profiles. A property test uses `examples`, through Hypothesis's profile, unless it names
another number. Simulations, models, chaos tests and fuzzers use the rest.

Rules:

- Seeds are fresh in each run, so each run tries new cases. A failure prints its seed, or Hypothesis's
  `@reproduce_failure`; TESTS_SEED=n makes a run start at that seed.
- Every negative control must still be found, also with the smaller numbers. Either its limits are chosen by
  measurement, so that the chance of a miss is below 1e-4, or it starts at a seed that is known to show it.
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
"""All fresh seeds are below this. No recorded seed of a negative control is near them."""


@dataclass(frozen=True)
class Profile:
    """The numbers of one profile.

    Args:
        name: the value of TESTS_PROFILE that selects the profile.
        examples: examples of a property, by default.
        many_examples: examples of a property in simulated time, in which the interesting cases are rare.
        few_examples: examples of a property that opens a database or runs a command for each example.
        lives: examples of a state machine, each of up to 40 steps on a real database.
        schedules: schedules of the machines that share a head, with every rule on.
        cache_schedules: schedules of the clients' caches, with every rule on. The schedules of fixed seeds, which every
            run repeats, aren't included.
        calm_cache_schedules: the same, without any failure.
        cache_controls_start_fresh: True if the search for each control of the cache starts at a fresh seed.
        cache_control_schedules: the limit of schedules until a control is found.
        chaos_s: the time limit for the storms on real machines.
        chaos_storms: the number of storms.
        chaos_seed: the storms' seed; None for a random one.
        fuzz_s: the time for fuzzing the readers of untrusted bytes, on each core.
        probe: how each machine that starts, and each `tkdb init`, probes its object store, unless a test is about the
            probe. The product races 8 writers in 6 rounds, which costs a second of CPU.
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
    """Return a random seed, or TESTS_SEED if it is set."""
    given = os.environ.get(SEED_VARIABLE)
    return int(given) if given is not None else int.from_bytes(os.urandom(8)) % SEEDS


def shorten_probe(name: str, *, whole: bool = False) -> None:
    """Make this process probe object stores as the profile `name` sets, or, if ``whole``, as the product does."""
    from tkdb_replication.bucket.conformance import RACERS, ROUNDS, check_store

    defaults: Any = check_store.__kwdefaults__  # Changed from outside, because production has no switch.
    defaults.update({"rounds": ROUNDS, "racers": RACERS} | ({} if whole else dict(PROFILES[name].probe)))


def load() -> None:
    """Make Hypothesis use the current profile."""
    from hypothesis import HealthCheck, settings

    for profile in PROFILES.values():
        # No deadline, because the machine may be busy: a test checks the result, not the time.
        settings.register_profile(
            profile.name, deadline=None, max_examples=profile.examples, print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        )  # fmt: skip
    settings.load_profile(CURRENT.name)
