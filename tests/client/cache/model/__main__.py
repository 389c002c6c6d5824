"""Search for a schedule that violates a guarantee of the cache, or print one schedule.

python -m tests.client.cache.model 60                            run as many schedules as possible in 60 s
python -m tests.client.cache.model --seed 7 [--calm]             print the steps of one schedule
python -m tests.client.cache.model --seed 7 --control "never stale"
"""

# ruff: noqa: T201 - a command that prints its results

from __future__ import annotations

import argparse
import itertools
import sys
import time

from tests.client.cache.model.controls import CONTROLS
from tests.client.cache.model.world import Parts, World


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.client.cache.model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("seconds", nargs="?", type=float, default=60, help="the time to search. Default: 60")
    parser.add_argument("--seed", type=int, help="print the steps of the schedule with this seed")
    parser.add_argument("--calm", action="store_true", help="run without cuts and failovers")
    parser.add_argument(
        "--control",
        choices=CONTROLS,
        metavar="NAME",
        help="the negative control to use: the cache runs without one rule",
    )
    given = parser.parse_args()
    parts = CONTROLS[given.control].parts if given.control else Parts()
    if given.seed is not None:
        world = World(given.seed, parts, calm=given.calm, log=lambda at_ms, text: print(f"{at_ms:8} {text}")).run()
        return bool(world.violations)
    ends_s = time.monotonic() + given.seconds
    for seed in itertools.count():
        if time.monotonic() > ends_s:
            print(f"{seed} schedules, no violation")
            return 0
        if violations := World(seed, parts, calm=given.calm).run().violations:
            print(f"seed {seed}: {violations[0].kind} ({violations[0].why})")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
