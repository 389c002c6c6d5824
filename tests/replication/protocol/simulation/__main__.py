"""Simulate machines that share a head, and look for a violation of what they guarantee.

    python -m tests.replication.protocol.simulation 600                    schedules for 600 s, on every core
    python -m tests.replication.protocol.simulation 600 --first 1000000    other schedules
    python -m tests.replication.protocol.simulation --seed 7               one schedule, step by step
    python -m tests.replication.protocol.simulation --seed 7 --control "412 taken as success"
    python -m tests.replication.protocol.simulation --controls 300         each negative control, in 300 schedules

A schedule follows from its seed alone: the machines run the production rules
(``tkdb_replication.protocol.state_machine``), and the seed draws everything else. The exit code is 1 if a violation was
found, or if a negative control wasn't.
"""

# ruff: noqa: T201 - a program that people read

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

from tests.replication.protocol.simulation.controls import CONTROLS, SAFE
from tests.replication.protocol.simulation.schedules import Counts, run_control, run_for
from tests.replication.protocol.simulation.world import World


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.replication.protocol.simulation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("seconds", nargs="?", type=float, help="for how long")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="tell this one schedule")
    parser.add_argument("--control", choices=CONTROLS, metavar="NAME", help="with this rule switched off")
    parser.add_argument("--controls", type=int, metavar="SEEDS", help="run each negative control in so many schedules")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return tell(given.seed, given.control)
    if given.controls:
        return find(given.controls)
    if given.seconds is None:
        parser.error("how many seconds?")
    return simulate(given.seconds, given.first)


def tell(seed: int, control: str | None) -> int:
    """Print one schedule, step by step."""
    world = World(seed, CONTROLS[control] if control else SAFE, tell=lambda at_ms, text: print(f"{at_ms:6} {text}"))
    world.run()
    print(f"{len(world.judge.violations)} violations")
    return bool(world.judge.violations)


def simulate(seconds: float, first: int) -> int:
    """Run schedules on every core; print what was run, and the first violation on each core."""
    cores = os.cpu_count() or 1
    counts, code = Counts(), 0
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_for, first + core, cores, seconds) for core in range(cores)]
        for done in running:
            ours, finding = done.result()
            counts.add(ours)
            if finding is not None:
                code = 1
                print(f"seed {finding.seed}: {finding.violation.kind} ({finding.violation.why})")
                print(f"see it: python -m tests.replication.protocol.simulation --seed {finding.seed}")
    for name, count in asdict(counts).items():
        print(f"{name:<12} {count:>14,}")
    return code


def find(seeds: int) -> int:
    """Run every negative control; print in how many schedules each is found, and how first."""
    code = 0
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_control, name, seeds) for name in CONTROLS]
        for done in running:
            name, counts, finding = done.result()
            how = f"seed {finding.seed}: {finding.violation.kind}" if finding else "not found"
            print(f"{name:<40} {counts.violating:>5} of {seeds}   {how}", flush=True)
            code |= finding is None
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
