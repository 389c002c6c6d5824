"""What a run comes to, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Report:
    """What was done to the machines, and what they made of it. Times are in milliseconds.

    Attributes:
        seed: what the schedule followed from.
        seconds: how long it took, from the first write to the last check.
        storms: how many there were.
        faults: how many there were of each kind.
        epochs: how many epochs began: takeovers.
        writes: how many were acknowledged.
        repeated: how many of them were asked more than once.
        answers: what came of each token that was asked about.
        gap_in_faults_ms: the longest time without an acknowledged write in a storm, until all was well after it.
        gap_outside_ms: the longest one while all was well.
        healed_ms: the longest time from a storm's end until writes were acknowledged and every machine was fresh.
        ended_by_itself: how often a machine's process ended without being told to; it was started again.
        lost, stale: violations of these kinds.
        violations: all of them, as text.
        evidence: where logs, volumes and the bucket of a run with violations are kept.
    """

    seed: int
    control: str | None = None
    seconds: float = 0.0
    storms: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    epochs: int = 0
    writes: int = 0
    repeated: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    gap_in_faults_ms: int = 0
    gap_outside_ms: int = 0
    healed_ms: int = 0
    ended_by_itself: int = 0
    lost: int = 0
    stale: int = 0
    violations: list[str] = field(default_factory=list)
    evidence: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield it as lines to read."""
        for name, value in asdict(self).items():
            if name != "violations":
                yield from _lines(name, value)
        yield f"{'violations':<18} {len(self.violations)}"
        yield from (f"  {each}" for each in self.violations[:20])


def _lines(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name:<18} {'' if value is None else value}"
        return
    yield f"{name:<18} {sum(value.values()):,}"
    yield from (f"  {count:>9,}  {kind}" for kind, count in sorted(value.items()))
