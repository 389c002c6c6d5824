"""The report of a run, as text or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Report:
    """The injected faults and their effects. Times with ``_ms`` are in milliseconds.

    Attributes:
        seed: the seed of the schedule.
        control: the rule that was switched off, if any.
        seconds: the duration of the run, until the last check.
        storms: the number of storms.
        faults: the number of faults of each kind.
        epochs: the last epoch. Each takeover begins one.
        writes: the number of acknowledged writes.
        repeated: the number of writes that needed more than one attempt.
        answers: the number of verified tokens by result.
        gap_in_faults_ms: the longest time without an acknowledged write in a storm and the recovery after it.
        gap_outside_ms: the longest time without an acknowledged write while all machines were healthy.
        healed_ms: the longest time from a storm's end until writes were acknowledged and every machine was fresh.
        unexpected_ends: how often a machine's process ended although no fault ended it. It was started again.
        lost, stale: the number of violations of these kinds.
        violations: all violations, as text.
        evidence: the folder with the logs, the volumes and the bucket of a run with violations.
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
    unexpected_ends: int = 0
    lost: int = 0
    stale: int = 0
    violations: list[str] = field(default_factory=list)
    evidence: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""
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
