"""The budget that limits a client's retries. Pure.

Calls fill the budget and retries spend it. Apart from a reserve and a few retries for each second, an authority in
trouble therefore gets at most a fifth more requests than usual, and not a multiple (as in Finagle's ``RetryBudget``).

>>> budget = RetryBudget(share=0.2, floor_per_s=0, reserve=1)
>>> budget.withdraw(now_ms=0), budget.withdraw(now_ms=0)
(True, False)
"""

from __future__ import annotations


class RetryBudget:
    """A token bucket of retries, filled by calls and by time.

    In any interval, retries ≤ ``reserve + share · calls + floor_per_s · seconds``. Not safe for threads without a lock.

    Args:
        share: the retries earned by one call.
        floor_per_s: the retries earned in one second, so that a client with few calls can retry at all.
        reserve: the largest balance, which is also the first one.
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
        """Take one retry. Return True if there was one. ``now_ms`` is monotonic."""
        if self._filled_ms is not None:
            earned = self._floor_per_s * max(0, now_ms - self._filled_ms) / 1000
            self._balance = min(self._reserve, self._balance + earned)
        self._filled_ms = now_ms
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
