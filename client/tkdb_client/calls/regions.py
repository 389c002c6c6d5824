"""Which region to ask: the nearest that is well, and the next one when it isn't. Pure: times come in as arguments.

Regions are numbers here, in the order that they were given. Each has a distance, the average round trip of calls and
probes, and a breaker. Calls go to one of them, the *home*: the nearest that is well. Another must be nearer by more
than noise before it becomes the home, so that two that are alike don't alternate. The rest follow by distance.

>>> regions = Regions(2)
>>> regions.answered(0, now_ms=0, rtt_ms=93.0), regions.answered(1, now_ms=0, rtt_ms=165.0)
(None, None)
>>> regions.order(now_ms=0)
[0, 1]
>>> regions.failed(0, now_ms=1_500, began_ms=0, at_once=True)
>>> regions.order(now_ms=1_500), regions.due(now_ms=2_500)
([1, 0], 0)
>>> regions.answered(0, now_ms=2_600, rtt_ms=93.0)
>>> regions.order(now_ms=2_600)
[0, 1]
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from tkdb_client.calls.circuit_breaker import Breaker, State

MARGIN_MS: Final = 10.0
MARGIN_SHARE: Final = 0.2
"""Another region must be nearer by both to become the home."""
PROBE_MS: Final = 10_000
"""How often a region is asked that gets no calls: often enough to keep its connection."""
PROBE_FIRST_MS: Final = 1_000
FEW: Final = 4
"""With fewer round trips than this, a region is asked more often."""
LEAST_TIMEOUT_MS: Final = 1_000
TIMEOUT_TIMES: Final = 4
"""A region may take this many times its usual time before the next one is asked, and the least in any case."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region as it answered. What it didn't tell is empty or None.

    Attributes:
        url: where it was asked.
        region: its name.
        machine: who answered there.
        role: ``primary`` or ``replica``.
        rtt_ms: the average round trip to it.
        seq: the last entry of the journal that it serves.
        age_ms: how old that may be at most.
        fault: why it can't answer calls now; empty where it can.
        serving: whether this client's reads go there.
    """

    url: str
    region: str = ""
    machine: str = ""
    role: str = ""
    rtt_ms: float | None = None
    seq: int | None = None
    age_ms: int | None = None
    fault: str = ""
    serving: bool = False

    @property
    def health(self) -> str:
        """``ok``, or why not."""
        return self.fault or "ok"


class Distance:
    """The round trips of one region: their moving average and mean deviation, as TCP keeps them (RFC 6298, section 2);
    with a heavier weight on what is new, as probes are rare."""

    __slots__ = ("_deviation_ms", "count", "rtt_ms")

    def __init__(self) -> None:
        self.count = 0
        self.rtt_ms: float | None = None
        self._deviation_ms = 0.0

    def add(self, rtt_ms: float) -> None:
        """Note one round trip."""
        self.count += 1
        if self.rtt_ms is None:
            self.rtt_ms, self._deviation_ms = rtt_ms, rtt_ms / 2
            return
        self._deviation_ms += (abs(rtt_ms - self.rtt_ms) - self._deviation_ms) / 4
        self.rtt_ms += (rtt_ms - self.rtt_ms) / 4

    def usual_ms(self) -> int | None:
        """Return what about 19 of 20 round trips stay under: twice the mean deviation is 1.6 standard ones. None while
        little is known."""
        if self.rtt_ms is None or self.count < FEW:
            return None
        return max(1, round(self.rtt_ms + 2 * self._deviation_ms))


class Regions:
    """What a client knows of its regions. Not safe for threads by itself.

    Args:
        count: how many there are; the first is the home until more is known.
    """

    def __init__(self, count: int) -> None:
        self._distances = [Distance() for _ in range(count)]
        self._breakers = [Breaker() for _ in range(count)]
        self._heard_ms = [-inf] * count
        self._writer: int | None = None
        self._in_use = False
        self.home = 0

    def order(self, now_ms: int, *, writing: bool = False) -> list[int]:
        """Return all regions, the one to ask first first: those that are well before the others, the home before those
        that are further. For a write, who took the last one comes first."""
        first = self._writer if writing and self._writer is not None else self.home
        ranks = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}

        def rank(region: int) -> tuple[int, bool, float, int]:
            return ranks[self._breakers[region].state(now_ms)], region != first, self._far(region), region

        return sorted(range(len(self._breakers)), key=rank)

    def is_well(self, region: int, now_ms: int) -> bool:
        """Return whether a region's breaker is closed."""
        return self._breakers[region].state(now_ms) is State.CLOSED

    def rtt_ms(self, region: int) -> float | None:
        """Return the average round trip to a region; None where nothing is known."""
        return self._distances[region].rtt_ms

    def usual_ms(self, region: int) -> int | None:
        """Return what nearly all round trips to a region stay under; None while little is known."""
        return self._distances[region].usual_ms()

    def patience_ms(self, region: int, at_most_ms: int) -> int:
        """Return how long to wait for a region while another one is well."""
        usual_ms = self.usual_ms(region)
        if usual_ms is None:
            return at_most_ms
        return min(at_most_ms, max(LEAST_TIMEOUT_MS, TIMEOUT_TIMES * usual_ms))

    def due(self, now_ms: int) -> int | None:
        """Return the region that a call should have probed beside it, and take that as done: one that is half-open,
        or that nothing was heard of for longest. None where none is due, and until any has answered: who asks once
        needs no second region."""
        if len(self._breakers) == 1 or not self._in_use:
            return None
        due = [region for region in range(len(self._breakers)) if self._is_due(region, now_ms)]
        if not due:
            return None
        region = min(due, key=lambda each: (self.is_well(each, now_ms), self._heard_ms[each]))
        self._heard_ms[region] = now_ms
        if not self.is_well(region, now_ms):
            self._breakers[region].try_once(now_ms)
        return region

    def answered(self, region: int, now_ms: int, rtt_ms: float | None = None) -> None:
        """Note an answer; with its round trip, where that tells the distance."""
        self._in_use = True
        self._breakers[region].answered(now_ms)
        if rtt_ms is not None:
            self._distances[region].add(rtt_ms)
            self._heard_ms[region] = now_ms
        self._settle(now_ms)

    def failed(self, region: int, now_ms: int, began_ms: int, *, at_once: bool) -> None:
        """Note an attempt that failed; ``at_once``: this one is enough to ask others first."""
        self._breakers[region].failed(now_ms, began_ms, at_once=at_once)
        self._settle(now_ms)

    def wrote(self, region: int, *, well: bool) -> None:
        """Note whether a region took a write, itself or by passing it on."""
        if well:
            self._writer = region
        elif self._writer == region:
            self._writer = None

    def _far(self, region: int) -> float:
        rtt_ms = self.rtt_ms(region)
        return inf if rtt_ms is None else rtt_ms

    def _is_due(self, region: int, now_ms: int) -> bool:
        state = self._breakers[region].state(now_ms)
        if state is not State.CLOSED:
            return state is State.HALF_OPEN
        few = self._distances[region].count < FEW
        return now_ms - self._heard_ms[region] >= (PROBE_FIRST_MS if few else PROBE_MS)

    def _settle(self, now_ms: int) -> None:
        """Choose the home anew."""
        well = [region for region in range(len(self._breakers)) if self.is_well(region, now_ms)]
        if not well:
            return
        nearest = min(well, key=self._far)
        if self.home not in well or self._is_nearer(nearest, self.home):
            self.home = nearest

    def _is_nearer(self, region: int, than: int) -> bool:
        """Return whether a region is nearer than another, by more than noise."""
        there_ms, here_ms = self.rtt_ms(region), self.rtt_ms(than)
        if there_ms is None or here_ms is None:
            return False
        return there_ms < here_ms - max(MARGIN_MS, MARGIN_SHARE * here_ms)
