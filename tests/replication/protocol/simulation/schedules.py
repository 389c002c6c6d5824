"""Runs of many schedules, with counts of their events and the first violation."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields

from tests.replication.protocol.simulation.checker import Violation
from tests.replication.protocol.simulation.controls import CONTROLS, SAFE, Control
from tests.replication.protocol.simulation.world import World


@dataclass
class Counts:
    """The number of schedules that ran, and of the events in them."""

    schedules: int = 0
    steps: int = 0
    writes: int = 0
    revocations: int = 0
    reads: int = 0
    epochs: int = 0
    crashes: int = 0
    restores: int = 0
    violating: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another run."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True)
class Finding:
    """The first schedule with a violation, and the violation."""

    seed: int
    violation: Violation


def run(seeds: Iterable[int], control: Control = SAFE, *, seconds: float = 1e9) -> tuple[Counts, Finding | None]:
    """Run the schedules of ``seeds`` that begin within ``seconds``. Return the counts and the first finding."""
    counts, first = Counts(), None
    end = time.monotonic() + seconds
    for seed in seeds:
        if time.monotonic() >= end:
            break
        world = World(seed, control)
        world.run()
        counts.add(
            Counts(
                schedules=1,
                steps=world.steps,
                writes=world.bucket.node.seq,
                revocations=len(world.checker.acknowledged),
                reads=world.checker.reads,
                epochs=world.bucket.head.epoch,
                crashes=world.crashes,
                restores=world.restores,
                violating=bool(world.checker.violations),
            )
        )
        if world.checker.violations and first is None:
            first = Finding(seed, world.checker.violations[0])
    return counts, first


def first_found(name: str, *, start: int, most: int) -> Finding | None:
    """Run at most ``most`` schedules of a negative control from seed ``start`` on. Return the first finding."""
    for seed in range(start, start + most):
        world = World(seed, CONTROLS[name])
        world.run()
        if world.checker.violations:
            return Finding(seed, world.checker.violations[0])
    return None


def run_seeds(first: int, end: int) -> tuple[Counts, Finding | None]:
    """Run the schedules from ``first`` up to, but not including, ``end``."""
    return run(range(first, end))


def run_for(first: int, stride: int, seconds: float) -> tuple[Counts, Finding | None]:
    """Run every ``stride``-th schedule from ``first`` on, for ``seconds``."""
    return run(range(first, 1 << 62, stride), seconds=seconds)


def run_control(name: str, seeds: int) -> tuple[str, Counts, Finding | None]:
    """Run the first ``seeds`` schedules of a negative control."""
    return (name, *run(range(seeds), CONTROLS[name]))
