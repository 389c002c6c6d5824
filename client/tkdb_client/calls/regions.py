"""The choice of the region: the nearest healthy one, and the next one if it fails. Pure: times are arguments.

Regions are numbers here, in the given order. Each has a distance (the average round trip of calls and probes) and a
breaker. Calls go to the *home*: the nearest healthy region. Another one must be nearer by more than noise to become the
home, so that two similar regions don't alternate. The others follow by distance.

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

from tkdb_client.calls.circuit_breaker import BreakerState, CircuitBreaker

MARGIN_MS: Final = 10.0
MARGIN_SHARE: Final = 0.2
"""Another region must be nearer by both margins to become the home."""
PROBE_MS: Final = 10_000
"""The pause between probes of a region without calls: short enough to keep its connection."""
PROBE_FIRST_MS: Final = 1_000
FEW: Final = 4
"""A region with fewer measured round trips than this is probed more often."""
LEAST_TIMEOUT_MS: Final = 1_000
TIMEOUT_TIMES: Final = 4
"""A region may take this many times its usual time, and at least the minimum, before the next one is asked."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region's status. Unknown fields are empty or None.

    Attributes:
        url: the URL that was asked.
        region: its name.
        machine: the machine that answered.
        role: ``primary`` or ``replica``; empty if the machine hasn't read the head within its bound.
        rtt_ms: the average round trip to it.
        seq: the last entry of the journal that it serves.
        age_ms: the largest possible age of that data.
        fault: the reason why it can't answer calls now, or empty.
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
        """``ok``, or the reason why not."""
        return self.fault or "ok"


class Distance:
    """The round trips of one region: their moving average and mean deviation, as in TCP (RFC 6298, section 2).

    New values have more weight than in TCP, because probes are rare.
    """

    __slots__ = ("_deviation_ms", "count", "rtt_ms")

    def __init__(self) -> None:
        self.count = 0
        self.rtt_ms: float | None = None
        self._deviation_ms = 0.0

    def add(self, rtt_ms: float) -> None:
        """Record one round trip."""
        self.count += 1
        if self.rtt_ms is None:
            self.rtt_ms, self._deviation_ms = rtt_ms, rtt_ms / 2
            return
        self._deviation_ms += (abs(rtt_ms - self.rtt_ms) - self._deviation_ms) / 4
        self.rtt_ms += (rtt_ms - self.rtt_ms) / 4

    def usual_ms(self) -> int | None:
        """Return a time that about 19 of 20 round trips stay under, or None if there are few measurements.

        Twice the mean deviation is 1.6 standard deviations.
        """
        if self.rtt_ms is None or self.count < FEW:
            return None
        return max(1, round(self.rtt_ms + 2 * self._deviation_ms))


class Regions:
    """A client's data about its regions. Not safe for threads without a lock.

    Args:
        count: the number of regions. The first is the home until there are measurements.
    """

    def __init__(self, count: int) -> None:
        self._distances = [Distance() for _ in range(count)]
        self._breakers = [CircuitBreaker() for _ in range(count)]
        self._heard_ms = [-inf] * count
        self._writer: int | None = None
        self._in_use = False
        self.home = 0

    def order(self, now_ms: int, *, writing: bool = False) -> list[int]:
        """Return all regions in the order in which to ask them.

        Healthy regions come first, with the home before the more distant ones. For a write, the region that took the
        last write is in the place of the home.
        """
        first = self._writer if writing and self._writer is not None else self.home
        ranks = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

        def rank(region: int) -> tuple[int, bool, float, int]:
            return ranks[self._breakers[region].state(now_ms)], region != first, self._far(region), region

        return sorted(range(len(self._breakers)), key=rank)

    def is_well(self, region: int, now_ms: int) -> bool:
        """Return True if a region's breaker is closed."""
        return self._breakers[region].state(now_ms) is BreakerState.CLOSED

    def rtt_ms(self, region: int) -> float | None:
        """Return the average round trip to a region, or None if it is unknown."""
        return self._distances[region].rtt_ms

    def usual_ms(self, region: int) -> int | None:
        """Return a time that nearly all round trips to a region stay under, or None if there are few measurements."""
        return self._distances[region].usual_ms()

    def timeout_ms(self, region: int, at_most_ms: int) -> int:
        """Return how long to wait for a region while another one is healthy."""
        usual_ms = self.usual_ms(region)
        if usual_ms is None:
            return at_most_ms
        return min(at_most_ms, max(LEAST_TIMEOUT_MS, TIMEOUT_TIMES * usual_ms))

    def due(self, now_ms: int) -> int | None:
        """Return the region that a call should probe in the background, and record the probe as done. None if none
        is due.

        That is a half-open region, or the one without news for the longest time. None is due until a region has
        answered, because a client that makes only one call needs no second region.
        """
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
        """Record an answer, with its round trip if that shows the distance."""
        self._in_use = True
        self._breakers[region].answered(now_ms)
        if rtt_ms is not None:
            self._distances[region].add(rtt_ms)
            self._heard_ms[region] = now_ms
        self._settle(now_ms)

    def failed(self, region: int, now_ms: int, began_ms: int, *, at_once: bool) -> None:
        """Record a failed attempt. ``at_once``: this one failure is enough to ask other regions first."""
        self._breakers[region].failed(now_ms, began_ms, at_once=at_once)
        self._settle(now_ms)

    def wrote(self, region: int, *, well: bool) -> None:
        """Record whether a region took a write, itself or by passing it on."""
        if well:
            self._writer = region
        elif self._writer == region:
            self._writer = None

    def _far(self, region: int) -> float:
        rtt_ms = self.rtt_ms(region)
        return inf if rtt_ms is None else rtt_ms

    def _is_due(self, region: int, now_ms: int) -> bool:
        state = self._breakers[region].state(now_ms)
        if state is not BreakerState.CLOSED:
            return state is BreakerState.HALF_OPEN
        few = self._distances[region].count < FEW
        return now_ms - self._heard_ms[region] >= (PROBE_FIRST_MS if few else PROBE_MS)

    def _settle(self, now_ms: int) -> None:
        """Choose the home again."""
        well = [region for region in range(len(self._breakers)) if self.is_well(region, now_ms)]
        if not well:
            return
        nearest = min(well, key=self._far)
        if self.home not in well or self._is_nearer(nearest, self.home):
            self.home = nearest

    def _is_nearer(self, region: int, than: int) -> bool:
        """Return True if a region is nearer than another by more than noise."""
        there_ms, here_ms = self.rtt_ms(region), self.rtt_ms(than)
        if there_ms is None or here_ms is None:
            return False
        return there_ms < here_ms - max(MARGIN_MS, MARGIN_SHARE * here_ms)
