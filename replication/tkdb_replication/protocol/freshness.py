"""Freshness: the latest time for which this machine is known to have every acknowledged entry.

If a read sent at some time returns a head, this head was the newest at that time or later. A machine that serves the
head's position then has every entry acknowledged before that time. The arrival of the answer proves nothing, because
the answer may have been delayed.

>>> freshness = Freshness()
>>> freshness.named(Checkpoint(7, b"h" * 32), sent_ms=1000)
>>> freshness.age_ms(1300) is None
True
>>> freshness.served(Checkpoint(7, b"h" * 32))
>>> freshness.age_ms(1300)
300
"""

from __future__ import annotations

from collections import deque
from typing import Final

from tkdb.errors import StaleAuthority
from tkdb_replication.protocol.head import Checkpoint

HEADS_MAX: Final = 64
"""The largest number of heads that are kept until their points are served."""


class Freshness:
    """The points that the last heads named, the time of the request for each head, and the served point."""

    def __init__(self) -> None:
        self.place: Checkpoint | None = None
        """What is served; None while the journal may hold what no head names."""
        self._heads: deque[tuple[Checkpoint, int]] = deque(maxlen=HEADS_MAX)
        self._as_of_ms: int | None = None

    def named(self, place: Checkpoint, *, sent_ms: int) -> None:
        """Record that a read or swap sent at ``sent_ms`` showed the newest head at ``place``."""
        if self._heads and self._heads[-1][0] == place:
            sent_ms = max(sent_ms, self._heads.pop()[1])
        self._heads.append((place, sent_ms))
        self._renew()

    def served(self, place: Checkpoint) -> None:
        """Record that the journal up to ``place`` is served from now on."""
        self.place = place
        self._renew()

    def lose(self) -> None:
        """Record that the journal may contain entries that no head names. Nothing is served then, and nothing is
        fresh."""
        self.place = self._as_of_ms = None

    def age_ms(self, now_ms: int) -> int | None:
        """Return the largest possible age of the served data, or None if it is unknown."""
        return None if self._as_of_ms is None else now_ms - self._as_of_ms

    def require(self, bound_ms: int, now_ms: int) -> int:
        """Return the age of the served data, in milliseconds.

        Raises:
            StaleAuthority: the age is over the bound, or unknown.
        """
        age_ms = self.age_ms(now_ms)
        if age_ms is None or age_ms > bound_ms:
            seen = "the age of its data is unknown" if age_ms is None else f"its data is {age_ms} ms old"
            raise StaleAuthority(
                f"this machine can't prove that it is up to date: {seen}, and at most {bound_ms} ms are allowed",
                hint="try again, or ask another region",
            )
        return age_ms

    def _renew(self) -> None:
        # All kept heads are checked, not only the newest: under steady writes there is always a newer head than the
        # served one.
        passed = 0
        for at, (place, sent_ms) in enumerate(self._heads):
            if self.place is not None and self._is_at(place):
                self._as_of_ms = sent_ms if self._as_of_ms is None else max(sent_ms, self._as_of_ms)
                passed = at
        for _ in range(passed):
            self._heads.popleft()

    def _is_at(self, place: Checkpoint) -> bool:
        return self.place == place
