"""The wall clock, trusted only while it agrees with the monotonic one.

A wall clock that jumps would date tokens, revocations and the journal wrongly, and the journal's time can't go
back. So a machine whose clock has jumped, or is behind the journal, neither mints nor writes what depends on the
time, and says so. It goes on verifying, and revoking what is named, by the time that the monotonic clock reckons.

>>> wall, monotonic = [1_000_000], [0]
>>> clock = Clock(lambda: wall[0], lambda: monotonic[0])
>>> wall[0] += 5_000; monotonic[0] += 5_000; clock.steady_ms(not_before_ms=0)
1005000
>>> wall[0] += 3_600_000; clock.steady_ms(not_before_ms=0)
Traceback (most recent call last):
...
tkdb.errors.Unavailable: this machine's clock jumped by 3600 s: set it right, then restart this machine
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tkdb.errors import Unavailable
from tkdb.journal.fold import CLOCK_SKEW_MS

Milliseconds = Callable[[], int]

MAX_JUMP_MS: Final = CLOCK_SKEW_MS
DRIFT: Final = 60
"""NTP may move the wall clock by a 60th of the time that passes, and it is no jump."""


class Clock:
    """Wall time in milliseconds since 1970, and the guard against jumps.

    Args:
        wall_ms: the wall clock.
        monotonic_ms: a clock that is never set; where it starts doesn't matter.
    """

    def __init__(self, wall_ms: Milliseconds, monotonic_ms: Milliseconds) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._offset_ms = wall_ms() - monotonic_ms()
        self._looked_at_ms = monotonic_ms()
        self._apart_ms = 0

    def heard_ms(self, other_ms: int, *, within_ms: int) -> None:
        """Take note of what a clock that others go by said, at a moment within the last ``within_ms``.

        Where it is further from this one than clocks may be apart, this one isn't believed until they agree again.
        """
        apart_ms = self._wall_ms() - other_ms
        self._apart_ms = 0 if -MAX_JUMP_MS <= apart_ms <= MAX_JUMP_MS + within_ms else apart_ms

    def reckoned_ms(self) -> int:
        """Return what the wall clock would say had it not jumped: for what must go on although it has."""
        return self._monotonic_ms() + self._offset_ms

    def wall_ms(self) -> int:
        """Return what the wall clock says, right or wrong."""
        return self._wall_ms()

    def monotonic_ms(self) -> int:
        """Return the monotonic clock's time."""
        return self._monotonic_ms()

    def steady_ms(self, *, not_before_ms: int) -> int:
        """Return the wall clock's time, if it can be believed.

        Args:
            not_before_ms: the time of the journal's last entry.

        Raises:
            Unavailable: it jumped since the last call that believed it, is behind the journal, or too far from the
                clock that others go by.
        """
        now_ms, monotonic_ms = self._wall_ms(), self._monotonic_ms()
        jumped_ms = now_ms - monotonic_ms - self._offset_ms
        if abs(jumped_ms) > MAX_JUMP_MS:
            raise Unavailable(
                f"this machine's clock jumped by {jumped_ms / 1000:.0f} s",
                hint="set it right, then restart this machine",
            )
        if self._apart_ms:
            raise Unavailable(
                f"this machine's clock is {self._apart_ms / 1000:.0f} s from the object store's", hint="set it right"
            )
        if now_ms < not_before_ms - CLOCK_SKEW_MS:
            raise Unavailable(
                f"this machine's clock is {(not_before_ms - now_ms) / 1000:.0f} s behind the journal",
                hint="set it right",
            )
        # Corrections are taken over slowly: many small ones never add up to a jump, two large ones do.
        drift_ms = (monotonic_ms - self._looked_at_ms) // DRIFT
        self._offset_ms += max(-drift_ms, min(jumped_ms, drift_ms))
        self._looked_at_ms += drift_ms * DRIFT
        return now_ms
