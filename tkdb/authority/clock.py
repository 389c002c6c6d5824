"""The wall clock, trusted only while it agrees with the monotonic clock.

A wall clock that jumps would give wrong times to tokens, revocations and the journal, and the journal's time can't go
back. So a machine whose clock has jumped, or is behind the journal, reports an error instead of minting, and of writing
anything that depends on the time. It continues to verify, and to revoke named targets, by the time that the monotonic
clock gives.

>>> wall, monotonic = [1_000_000], [0]
>>> clock = Clock(lambda: wall[0], lambda: monotonic[0])
>>> wall[0] += 5_000; monotonic[0] += 5_000; clock.steady_ms(not_before_ms=0)
1005000
>>> wall[0] += 3_600_000; clock.steady_ms(not_before_ms=0)
Traceback (most recent call last):
...
tkdb.errors.Unavailable: this machine's clock jumped by 3600 s: correct it, then restart this machine
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tkdb.errors import Unavailable
from tkdb.journal.fold import CLOCK_SKEW_MS

Milliseconds = Callable[[], int]

MAX_JUMP_MS: Final = CLOCK_SKEW_MS
DRIFT: Final = 60
"""NTP may correct the wall clock by a 60th of the passed time. That isn't a jump."""


class Clock:
    """The wall time in milliseconds since 1970, with a check for jumps.

    Args:
        wall_ms: the wall clock.
        monotonic_ms: a clock that is never set. Its start doesn't matter.
    """

    def __init__(self, wall_ms: Milliseconds, monotonic_ms: Milliseconds) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._offset_ms = wall_ms() - monotonic_ms()
        self._looked_at_ms = monotonic_ms()
        self._apart_ms = 0

    def heard_ms(self, other_ms: int, *, within_ms: int) -> None:
        """Record the time of a clock that other machines use, read within the last ``within_ms``.

        If it differs from this clock by more than clocks may differ, this clock isn't trusted until both agree again.
        """
        apart_ms = self._wall_ms() - other_ms
        self._apart_ms = 0 if -MAX_JUMP_MS <= apart_ms <= MAX_JUMP_MS + within_ms else apart_ms

    def reckoned_ms(self) -> int:
        """Return the time that the wall clock would have without the jump. For work that must continue after a jump."""
        return self._monotonic_ms() + self._offset_ms

    def wall_ms(self) -> int:
        """Return the wall clock's time, right or wrong."""
        return self._wall_ms()

    def monotonic_ms(self) -> int:
        """Return the monotonic clock's time."""
        return self._monotonic_ms()

    def steady_ms(self, *, not_before_ms: int) -> int:
        """Return the wall clock's time, if it can be trusted.

        Args:
            not_before_ms: the time of the journal's last entry.

        Raises:
            Unavailable: it has jumped since the last call that trusted it, is behind the journal, or differs too much
                from the clock that other machines use.
        """
        now_ms, monotonic_ms = self._wall_ms(), self._monotonic_ms()
        jumped_ms = now_ms - monotonic_ms - self._offset_ms
        if abs(jumped_ms) > MAX_JUMP_MS:
            raise Unavailable(
                f"this machine's clock jumped by {jumped_ms / 1000:.0f} s",
                hint="correct it, then restart this machine",
            )
        if self._apart_ms:
            raise Unavailable(
                f"this machine's clock is {self._apart_ms / 1000:.0f} s from the object store's", hint="correct it"
            )
        if now_ms < not_before_ms - CLOCK_SKEW_MS:
            raise Unavailable(
                f"this machine's clock is {(not_before_ms - now_ms) / 1000:.0f} s behind the journal",
                hint="correct it",
            )
        # Corrections are accepted slowly: many small ones never add up to a jump, and two large ones do.
        drift_ms = (monotonic_ms - self._looked_at_ms) // DRIFT
        self._offset_ms += max(-drift_ms, min(jumped_ms, drift_ms))
        self._looked_at_ms += drift_ms * DRIFT
        return now_ms
