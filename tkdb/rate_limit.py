"""How often something may be done for one key: a token bucket for each, the least recently used forgotten.

>>> now = [0]
>>> rate = Rate(burst=2, every_ms=1_000, monotonic_ms=lambda: now[0])
>>> rate.take(b"a"), rate.take(b"a"), rate.take(b"a")
(0, 0, 1000)
>>> now[0] = 1_000; rate.take(b"a")
0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

KEYS_MAX: Final = 65_536


class Rate:
    """Token buckets by key. Not safe for threads by itself.

    Args:
        burst: how many may be taken at once.
        every_ms: how long until one more may be.
        monotonic_ms: the clock.
    """

    def __init__(self, *, burst: int, every_ms: int, monotonic_ms: Callable[[], int]) -> None:
        self._full_ms = burst * every_ms
        self._every_ms = every_ms
        self._monotonic_ms = monotonic_ms
        # For each key, when its bucket is full again. A dict keeps the order of insertion: the oldest is first.
        self._full_at_ms: dict[bytes, int] = {}

    def take(self, key: bytes) -> int:
        """Take one for ``key``; return 0, or how many milliseconds to wait until one is there."""
        now_ms = self._monotonic_ms()
        full_at_ms = max(self._full_at_ms.pop(key, now_ms), now_ms) + self._every_ms
        wait_ms = full_at_ms - now_ms - self._full_ms
        self._full_at_ms[key] = full_at_ms if wait_ms <= 0 else full_at_ms - self._every_ms
        if len(self._full_at_ms) > KEYS_MAX:
            del self._full_at_ms[next(iter(self._full_at_ms))]
        return max(wait_ms, 0)

    def give_back(self, key: bytes) -> None:
        """What was taken last for ``key`` wasn't its own doing."""
        if key in self._full_at_ms:
            self._full_at_ms[key] -= self._every_ms
