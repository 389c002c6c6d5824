"""The schedule of faults, drawn from a seed. Pure.

>>> print(*next(storms(14))[:2], sep="; ")
m3 its store answers 503 for 3.4 s; m3 its store answers 503 for 1.9 s
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

PRIMARY: Final = "primary"
ALL: Final = "all"
MACHINES: Final = ("m1", "m2", "m3")


class Kind(StrEnum):
    """The kinds of faults."""

    PAUSE = "paused"
    FREEZE = "paused with its Litestream"
    KILL = "killed"
    LOSE_DISK = "killed, its disk lost"
    STOP = "stopped by plan"
    PAUSE_LITESTREAM = "its Litestream paused"
    KILL_LITESTREAM = "its Litestream killed"
    STALL = "its store stalls"
    CUT = "its store unreachable"
    ERROR = "its store answers 503"
    LOSE_ANSWER = "its store's answers lost"
    FORSAKE = "its store's open connections dead"
    HAND_OVER = "hands over"
    PROMOTE = "promoted"
    ALL_DISKS = "all disks lost"
    UNSYNCED_DISKS = "all disks lost after a stalled Litestream, with the other machines cut off"
    TAKEOVER_DISKS = "all disks lost after a takeover"
    STALLED_TAKEOVER_DISKS = "all disks lost after a takeover with a stalled Litestream"


class _Odds(NamedTuple):
    """The relative frequency of a kind, and its shortest and longest duration."""

    weight: int
    least_ms: int
    most_ms: int


_ODDS: Final[Mapping[Kind, _Odds]] = {
    Kind.PAUSE: _Odds(6, 50, 12_000),
    Kind.FREEZE: _Odds(2, 500, 12_000),
    Kind.KILL: _Odds(4, 0, 5_000),
    Kind.LOSE_DISK: _Odds(3, 0, 5_000),
    Kind.STOP: _Odds(3, 0, 2_000),
    Kind.PAUSE_LITESTREAM: _Odds(2, 500, 8_000),
    Kind.KILL_LITESTREAM: _Odds(2, 0, 0),
    Kind.STALL: _Odds(3, 200, 10_000),
    Kind.CUT: _Odds(3, 200, 10_000),
    Kind.ERROR: _Odds(2, 200, 8_000),
    Kind.LOSE_ANSWER: _Odds(3, 200, 8_000),
    Kind.FORSAKE: _Odds(1, 0, 0),
    Kind.HAND_OVER: _Odds(2, 0, 0),
    Kind.PROMOTE: _Odds(2, 0, 0),
    Kind.ALL_DISKS: _Odds(1, 0, 500),
    Kind.UNSYNCED_DISKS: _Odds(1, 5_000, 9_000),
    Kind.TAKEOVER_DISKS: _Odds(1, 0, 800),
    Kind.STALLED_TAKEOVER_DISKS: _Odds(1, 0, 800),
}
STORE_KINDS: Final = frozenset({Kind.STALL, Kind.CUT, Kind.ERROR, Kind.LOSE_ANSWER, Kind.FORSAKE})
_STORM_MS: Final = (4_000, 18_000)


class Fault(NamedTuple):
    """One fault: ``kind`` happens to ``target``, ``at_ms`` after its storm began, for ``for_ms``.

    ``target`` is a machine, ``PRIMARY`` (the primary at that time) or ``ALL``. ``other`` is a move's second machine.
    """

    kind: Kind
    target: str
    at_ms: int
    for_ms: int
    other: str

    def __str__(self) -> str:
        lasts = f" for {self.for_ms / 1000:.1f} s" if self.for_ms else ""
        return f"{self.target} {self.kind}{lasts}"


def storms(seed: int, kinds: frozenset[Kind] = frozenset(Kind), faults_most: int = 6) -> Iterator[list[Fault]]:
    """Yield storms without end, each as a list of its faults, the earliest first.

    Args:
        seed: the seed of the storms.
        kinds: the kinds that may be drawn.
        faults_most: the largest number of faults in a storm.
    """
    draw = random.Random(seed)
    drawn = sorted(kinds)
    weights = [_ODDS[kind].weight for kind in drawn]
    while True:
        storm_ms = draw.randint(*_STORM_MS)
        count = draw.randint(1, faults_most)
        faults = [_fault(draw, kind, storm_ms) for kind in draw.choices(drawn, weights, k=count)]
        yield sorted(faults, key=lambda fault: fault.at_ms)


def _fault(draw: random.Random, kind: Kind, storm_ms: int) -> Fault:
    odds = _ODDS[kind]
    # Mix short and long faults: those about as long as a lease or the bound matter most.
    for_ms = round(odds.least_ms + (odds.most_ms - odds.least_ms) * draw.random() ** 1.5)
    target = draw.choice((PRIMARY, PRIMARY, PRIMARY, *MACHINES))
    if kind in STORE_KINDS and draw.random() < 0.2:
        target = ALL
    return Fault(kind, target, draw.randrange(storm_ms), for_ms, draw.choice(MACHINES))
