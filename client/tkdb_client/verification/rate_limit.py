"""The allowance: how often the authority may be asked about tokens of one lineage, so that who holds a token can't turn
a client on the authority by attenuating it.

>>> now = [0]
>>> allowance = Allowance(monotonic_ms=lambda: now[0])
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

from tkdb.rate_limit import Rate

LINEAGE_BURST: Final = 256
"""How many questions may be asked at once,"""
LINEAGE_EVERY_MS: Final = 16
"""and how soon one more."""


class Allowance:
    """What may still be asked about each lineage. Any number of threads may share one.

    Args:
        monotonic_ms: a clock that only goes forward.
    """

    def __init__(self, *, monotonic_ms: Callable[[], int]) -> None:
        self._lock = threading.Lock()
        self._rate = Rate(burst=LINEAGE_BURST, every_ms=LINEAGE_EVERY_MS, monotonic_ms=monotonic_ms)

    def take(self, lineage: bytes) -> int:
        """Take one question; return 0, or how many milliseconds to wait until one may be asked."""
        with self._lock:
            return self._rate.take(lineage)

    def give_back(self, lineage: bytes) -> None:
        """The question was about a forgery: whoever made it needs no token of this lineage."""
        with self._lock:
            self._rate.give_back(lineage)
