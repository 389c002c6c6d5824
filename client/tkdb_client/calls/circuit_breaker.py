"""A circuit breaker: it decides whether a region gets calls (Nygard, "Release It!", 2007). Pure.

::

    closed ──── one silent attempt, or three failures in a row ───────▶ open
      ▲                                                                │ for 1 s, then twice as long each time
      └───────── any answer ───────── half-open ◀──────────────────────┘
                                          one trial; if that fails, open again

Silence counts more than a refusal: silence costs a call seconds, and a refusal only a round trip.

>>> breaker = CircuitBreaker()
>>> breaker.failed(now_ms=0, began_ms=0, at_once=True)
>>> [str(breaker.state(now_ms)) for now_ms in (999, 1_000)]
['open', 'half-open']
>>> breaker.answered(now_ms=1_050)
>>> str(breaker.state(1_050))
'closed'
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

FAILURES: Final = 3
"""This many quick failures in a row open it."""
OPEN_MS: Final = 1_000
OPEN_MAX_MS: Final = 5_000
"""Less than a call's default timeout, so that a call can wait for the breaker to close."""


class BreakerState(StrEnum):
    """The state of a breaker: it lets through all calls, one trial, or none."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class CircuitBreaker:
    """One region's breaker, closed at first. Times are monotonic, in ms."""

    __slots__ = ("_closed_ms", "_failures", "_open_ms", "_until_ms")

    def __init__(self) -> None:
        self._failures = 0
        self._open_ms = OPEN_MS
        self._until_ms: int | None = None
        self._closed_ms: int | None = None

    def state(self, now_ms: int) -> BreakerState:
        """Return its state now."""
        if self._until_ms is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_ms < self._until_ms else BreakerState.HALF_OPEN

    def answered(self, now_ms: int) -> None:
        """Record an answer: the region works, whatever happened before."""
        if self._until_ms is not None:
            self._until_ms, self._closed_ms = None, now_ms
        self._failures, self._open_ms = 0, OPEN_MS

    def failed(self, now_ms: int, began_ms: int, *, at_once: bool) -> None:
        """Record a failed attempt.

        Args:
            now_ms: when it failed.
            began_ms: when it began. An attempt from before the region recovered proves nothing about it now.
            at_once: whether this failure alone is enough.
        """
        if self._closed_ms is not None and began_ms < self._closed_ms:
            return
        state = self.state(now_ms)
        if state is BreakerState.OPEN:
            return  # attempts that began together count as one
        self._failures += 1
        if state is BreakerState.HALF_OPEN:
            self._open_ms = min(2 * self._open_ms, OPEN_MAX_MS)
        elif not at_once and self._failures < FAILURES:
            return
        self._until_ms = now_ms + self._open_ms

    def try_once(self, now_ms: int) -> None:
        """Take the single trial of a half-open breaker. Other calls see it open for a while."""
        self._until_ms = now_ms + self._open_ms
