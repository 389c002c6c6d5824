"""How long to wait before the next attempt, and whether there may be one. Pure.

Waits are exponential with full jitter: uniform between nothing and a ceiling that doubles with each retry, so
that callers who failed together don't come back together (Brooker, "Exponential Backoff and Jitter", AWS
Architecture Blog, 2015). Retries are paid from a budget that calls fill, so that an authority in trouble sees at
most a fifth more requests than usual, and not a multiple (as in Finagle's ``RetryBudget``).

>>> Backoff().wait_ms(3, jitter=0.5)
200
>>> budget = RetryBudget(share=0.2, floor_per_s=0, reserve=1)
>>> budget.withdraw(now_ms=0), budget.withdraw(now_ms=0)
(True, False)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between the attempts of one call.

    Args:
        base_ms: the ceiling of the first wait; it doubles with each retry.
        cap_ms: the highest ceiling.
        floor_cap_ms: the most that an answer's own "retry after" is honoured.
    """

    base_ms: int = 50
    cap_ms: int = 2_000
    floor_cap_ms: int = 5_000

    def wait_ms(self, retry: int, *, jitter: float, at_least_ms: int = 0) -> int:
        """Return how long to wait before a retry.

        Args:
            retry: 0 for the first retry.
            jitter: uniform in [0, 1).
            at_least_ms: what the last answer asked for; the jitter comes on top, or all who were told the same
                would return at once.
        """
        # Beyond 2**32 every ceiling is the cap; the bound keeps the power small.
        ceiling_ms = min(self.cap_ms, self.base_ms << min(retry, 32))
        return min(max(at_least_ms, 0), self.floor_cap_ms) + int(ceiling_ms * jitter)


class RetryBudget:
    """How many retries a client has left: a token bucket that its calls and the time fill.

    In any span, retries ≤ ``reserve + share · calls + floor_per_s · seconds``. Not safe for threads by itself.

    Args:
        share: retries earned by one call.
        floor_per_s: retries earned by one second, so that a client that calls rarely can retry at all.
        reserve: the most that can be saved, and what there is at first.
    """

    def __init__(self, *, share: float = 0.2, floor_per_s: float = 10.0, reserve: float = 100.0) -> None:
        self._share = share
        self._floor_per_s = floor_per_s
        self._reserve = reserve
        self._balance = reserve
        self._filled_ms: int | None = None

    def deposit(self) -> None:
        """Count one call (not one attempt)."""
        self._balance = min(self._reserve, self._balance + self._share)

    def withdraw(self, *, now_ms: int) -> bool:
        """Take one retry, and say whether there was one to take. ``now_ms`` is monotonic."""
        if self._filled_ms is not None:
            earned = self._floor_per_s * max(0, now_ms - self._filled_ms) / 1000
            self._balance = min(self._reserve, self._balance + earned)
        self._filled_ms = now_ms
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
