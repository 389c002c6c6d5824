"""The rate limit of requests about one lineage. It stops the holder of a token from flooding the authority through
a client, by attenuating the token again and again.

>>> now = [0]
>>> allowance = LineageRateLimit(monotonic_ms=lambda: now[0])
>>> {allowance.take(b"lineage") for _ in range(LINEAGE_BURST)}, allowance.take(b"lineage")
({0}, 16)
>>> allowance.give_back(b"lineage")
>>> allowance.take(b"lineage")
0
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from tkdb.rate_limit import RateLimiter

LINEAGE_BURST: Final = 256
"""How many requests may be sent at once."""
LINEAGE_EVERY_MS: Final = 16
"""How soon one more may be sent."""


class LineageRateLimit:
    """The rate limits of all lineages. Any number of threads may share it.

    Args:
        monotonic_ms: a monotonic clock.
    """

    def __init__(self, *, monotonic_ms: Callable[[], int]) -> None:
        self._lock = threading.Lock()
        self._rate = RateLimiter(burst=LINEAGE_BURST, every_ms=LINEAGE_EVERY_MS, monotonic_ms=monotonic_ms)

    def take(self, lineage: bytes) -> int:
        """Take one request. Return 0, or how many milliseconds to wait until one may be sent."""
        with self._lock:
            return self._rate.take(lineage)

    def give_back(self, lineage: bytes) -> None:
        """Give the request back: it was about a forgery, and a forger needs no token of this lineage."""
        with self._lock:
            self._rate.give_back(lineage)
