"""Simulate machines that share a head, and look for violations of their guarantees.

    python -m tests.replication.protocol.simulation 600                    schedules for 600 s, on every core
    python -m tests.replication.protocol.simulation 600 --first 1000000    other schedules
    python -m tests.replication.protocol.simulation --seed 7               one schedule, step by step
    python -m tests.replication.protocol.simulation --seed 7 --control "412 taken as success"
    python -m tests.replication.protocol.simulation --controls 300         each negative control, in 300 schedules

The machines run the production rules (``tkdb_replication.protocol.state_machine``), and the seed determines
everything else in a schedule. The exit code is 1 if there is a violation, or if a negative control causes none.
"""

# ruff: noqa: T201 - it prints for people

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
    parser.add_argument("seconds", nargs="?", type=float, help="the duration of the run, in seconds")
    parser.add_argument("--first", type=int, default=0, help="the first seed. Default: 0")
    parser.add_argument("--seed", type=int, help="print this one schedule, step by step")
    parser.add_argument("--control", choices=CONTROLS, metavar="NAME", help="with --seed: the rule to switch off")
    parser.add_argument("--controls", type=int, metavar="SEEDS", help="run SEEDS schedules of each negative control")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return show(given.seed, given.control)
    if given.controls:
        return run_controls(given.controls)
    if given.seconds is None:
        parser.error("give the number of seconds")
    return simulate(given.seconds, given.first)


def show(seed: int, control: str | None) -> int:
    """Print one schedule, step by step."""
    world = World(seed, CONTROLS[control] if control else SAFE, log=lambda at_ms, text: print(f"{at_ms:6} {text}"))
    world.run()
    print(f"{len(world.checker.violations)} violations")
    return bool(world.checker.violations)


def simulate(seconds: float, first: int) -> int:
    """Run schedules on every core. Print the counts, and the first violation on each core."""
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
                print(f"to see it: python -m tests.replication.protocol.simulation --seed {finding.seed}")
    for name, count in asdict(counts).items():
        print(f"{name:<12} {count:>14,}")
    return code


def run_controls(seeds: int) -> int:
    """Run every negative control. Print the number of schedules that find it, and its first violation."""
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
