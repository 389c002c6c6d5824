"""A rate limit for each key: a token bucket for each, of which the least recently used ones are forgotten.

>>> now = [0]
>>> rate = RateLimiter(burst=2, every_ms=1_000, monotonic_ms=lambda: now[0])
>>> rate.take(b"a"), rate.take(b"a"), rate.take(b"a")
(0, 0, 1000)
>>> now[0] = 1_000; rate.take(b"a")
0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

KEYS_MAX: Final = 65_536


class RateLimiter:
    """Token buckets by key. Not safe for threads without a lock.

    Args:
        burst: how many may be taken at once.
        every_ms: the time until one more may be taken.
        monotonic_ms: the clock.
    """

    def __init__(self, *, burst: int, every_ms: int, monotonic_ms: Callable[[], int]) -> None:
        self._full_ms = burst * every_ms
        self._every_ms = every_ms
        self._monotonic_ms = monotonic_ms
        # For each key, the time when its bucket is full again. A dict keeps the order of insertion: the oldest is
        # first.
        self._full_at_ms: dict[bytes, int] = {}

    def take(self, key: bytes) -> int:
        """Take one for ``key``. Return 0, or the number of milliseconds until one can be taken."""
        now_ms = self._monotonic_ms()
        full_at_ms = max(self._full_at_ms.pop(key, now_ms), now_ms) + self._every_ms
        wait_ms = full_at_ms - now_ms - self._full_ms
        self._full_at_ms[key] = full_at_ms if wait_ms <= 0 else full_at_ms - self._every_ms
        if len(self._full_at_ms) > KEYS_MAX:
            del self._full_at_ms[next(iter(self._full_at_ms))]
        return max(wait_ms, 0)

    def give_back(self, key: bytes) -> None:
        """Return the one that was taken last for ``key``: it wasn't the key's own doing."""
        if key in self._full_at_ms:
            self._full_at_ms[key] -= self._every_ms
