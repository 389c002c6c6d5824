"""Freshness: since when, at the latest, this machine has known all that was acknowledged.

A read that was sent at some moment, and answered with a head, shows that head to have been the newest at that moment
or later. Whoever served that head's place then knew everything acknowledged by that moment. The answer's arrival says
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

from tkdb_replication.head import Place


class Freshness:
    """What the newest head known names, when that was asked for, and what is served."""

    def __init__(self) -> None:
        self.place: Place | None = None
        """What is served; None while the journal may hold what no head names."""
        self._named: Place | None = None
        self._sent_ms = 0
        self._as_of_ms: int | None = None

    def named(self, place: Place, *, sent_ms: int) -> None:
        """A read or swap sent at ``sent_ms`` showed the newest head to be at ``place``."""
        self._sent_ms = sent_ms if place != self._named else max(sent_ms, self._sent_ms)
        self._named = place
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

    def _renew(self) -> None:
        if self.place is not None and self.place == self._named:
            self._as_of_ms = max(self._sent_ms, self._as_of_ms or self._sent_ms)
