"""Fuzz every reader of untrusted bytes.

    python -m tests.fuzz 300                          all targets, for 300 s, on every core
    python -m tests.fuzz 60 --target wire caveat      only these targets
    python -m tests.fuzz 60 --seed 7                  another sequence of inputs
    python -m tests.fuzz --again .fuzz/wire-1a2b3c    read one saved input again

The targets share the time evenly, and run in parallel on the cores. Each input is a mutation of a valid input, or of an
input that reached a new place (``engine.py``). A reader may refuse any bytes with its own classes of ``tkdb.errors``,
and must accept all other bytes as exactly what they are. Any other exception, a failed assertion, a hang or a huge
allocation is a finding. A finding ends the run with exit code 1, and its input is saved in ``.fuzz/``, under the name
of its target. Once the bug is fixed, move the input to ``tests/fuzz/corpus/TARGET/`` if it is small: every run, and the
tests, start with the inputs there.

The same seed gives the same inputs, for as long as the time lasts.
"""

# ruff: noqa: T201 - a program that prints for people

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.engine import Finding, Outcome, attempt
from tests.fuzz.targets import DEFAULT, TARGETS, fuzz_named


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seconds", nargs="?", type=float, help="total time of the run")
    parser.add_argument(
        "--target",
        nargs="+",
        choices=TARGETS,
        default=DEFAULT,
        metavar="NAME",
        help="the targets to fuzz. Default: all",
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed of the inputs. Default: 0")
    parser.add_argument(
        "--findings", type=Path, default=Path(".fuzz"), help="the folder for saved inputs. Default: .fuzz"
    )
    parser.add_argument("--again", type=Path, metavar="FILE", help="read one saved input again")
    given = parser.parse_args(arguments)
    if given.again:
        return again(given.again)
    if given.seconds is None:
        parser.error("name the number of seconds")
    return run(given.target, given.seconds, given.seed, given.findings)


def run(names: Sequence[str], seconds: float, seed: int, findings: Path) -> int:
    """Fuzz these targets, print the number of inputs of each, and return the exit code."""
    total = 0
    for name, outcome in outcomes(names, seconds, seed):
        total += outcome.inputs
        print(f"{name:<20} {outcome.inputs:>12,} inputs  {outcome.places:>5} places", flush=True)
        if outcome.finding is not None:
            report(outcome.finding, findings)
            return 1
    print(f"{'in all':<20} {total:>12,} inputs  no unexpected exception")
    return 0


def outcomes(names: Sequence[str], seconds: float, seed: int) -> Iterator[tuple[str, Outcome]]:
    """Yield each target's outcome when it ends. After a finding, no other target is started."""
    cores = min(os.cpu_count() or 1, len(names))
    share_s = seconds * cores / len(names)
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        running: dict[Future[Outcome], str] = {pool.submit(fuzz_named, name, share_s, seed): name for name in names}
        for done in as_completed(running):
            yield running[done], done.result()
            if done.result().finding is not None:
                pool.shutdown(cancel_futures=True)
                return


def report(finding: Finding, findings: Path) -> None:
    """Save the input of a finding, and print how to read it again."""
    findings.mkdir(parents=True, exist_ok=True)
    path = findings / f"{finding.target}-{sha256(finding.data).hexdigest()[:12]}"
    path.write_bytes(finding.data)
    print(f"\n{finding.target}: {finding.error}\n{finding.data[:200]!r}")
    print(f"read it again: python -m tests.fuzz --again {path}")


def again(path: Path) -> int:
    """Read one saved input, and raise the exception that it causes."""
    name = path.name.rpartition("-")[0]
    target = TARGETS[name]
    finding = attempt(target, path.read_bytes(), set())
    if finding is None:
        print(f"{name}: no unexpected exception")
        return 0
    target.read(path.read_bytes())
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
