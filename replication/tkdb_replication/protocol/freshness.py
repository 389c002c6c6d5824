"""Freshness: since when, at the latest, this machine has known all that was acknowledged.

A read that was sent at some moment, and answered with a head, shows that head to have been the newest at that moment
or later. Whoever serves that head's place knows everything acknowledged by that moment. The answer's arrival says
nothing: it may have been on its way for long.

>>> freshness = Freshness()
>>> freshness.named(Place(7, b"h" * 32), sent_ms=1000)
>>> freshness.age_ms(1300) is None
True
>>> freshness.served(Place(7, b"h" * 32))
>>> freshness.age_ms(1300)
300
"""

from __future__ import annotations

from collections import deque
from typing import Final

from tkdb.errors import StaleAuthority
from tkdb_replication.protocol.head import Place

HEADS_MAX: Final = 64
"""So many heads are kept until their places are served."""


class Freshness:
    """What the last heads named, when each was asked for, and what is served."""

    def __init__(self) -> None:
        self.place: Place | None = None
        """What is served; None while the journal may hold what no head names."""
        self._heads: deque[tuple[Place, int]] = deque(maxlen=HEADS_MAX)
        self._as_of_ms: int | None = None

    def named(self, place: Place, *, sent_ms: int) -> None:
        """A read or swap sent at ``sent_ms`` showed the newest head to be at ``place``."""
        if self._heads and self._heads[-1][0] == place:
            sent_ms = max(sent_ms, self._heads.pop()[1])
        self._heads.append((place, sent_ms))
        self._renew()

    def served(self, place: Place) -> None:
        """From now on the journal up to ``place`` is served."""
        self.place = place
        self._renew()

    def lose(self) -> None:
        """What the journal holds is not known to be named by a head: nothing is served, and nothing is fresh."""
        self.place = self._as_of_ms = None

    def age_ms(self, now_ms: int) -> int | None:
        """Return how old what is served may be at most; None where that isn't known."""
        return None if self._as_of_ms is None else now_ms - self._as_of_ms

    def require(self, bound_ms: int, now_ms: int) -> int:
        """Return the age of what is served, in milliseconds.

        Raises:
            StaleAuthority: it is past the bound, or not known.
        """
        age_ms = self.age_ms(now_ms)
        if age_ms is None or age_ms > bound_ms:
            seen = "it doesn't know when it last was" if age_ms is None else f"it was {age_ms} ms ago"
            raise StaleAuthority(
                f"this machine can't show that it is up to date: {seen}; {bound_ms} ms are allowed",
                hint="try again, or ask another region",
            )
        return age_ms

    def _renew(self) -> None:
        # Not the newest head alone: under steady writes there is always a newer one than is served.
        passed = 0
        for at, (place, sent_ms) in enumerate(self._heads):
            if self.place is not None and self._is_at(place):
                self._as_of_ms = sent_ms if self._as_of_ms is None else max(sent_ms, self._as_of_ms)
                passed = at
        for _ in range(passed):
            self._heads.popleft()

    def _is_at(self, place: Place) -> bool:
        return self.place == place
