"""The client's clocks, and a time that goes on while the machine is suspended.

On many systems the monotonic clock stops while the machine is suspended. Then everything in the cache would be exactly
as fresh afterwards as before. So the age of data is measured in ``elapsed_ms``: the time for which the machine was
awake, suspended, or in doubt. It follows the boot-time clock (Linux), and the wall clock wherever that moved further.

If the wall clock is set forwards, data is taken for older than it is, and is verified again. If it is set back,
``elapsed_ms`` goes on with the monotonic clock.

>>> wall, monotonic = [1_700_000_000_000], [50]
>>> clock = Clock(monotonic_ms=lambda: monotonic[0], now_ms=lambda: wall[0])
>>> began_ms = clock.elapsed_ms()
>>> wall[0] += 3_600_000  # suspended for an hour
>>> clock.elapsed_ms() - began_ms
3600000
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

BACK_MS: Final = 100
"""How much the wall clock may go back before that counts as a new setting: it is also never read at exactly the same
moment as the other clock."""


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_boot_ms: Callable[[], int] | None = None
if hasattr(time, "CLOCK_BOOTTIME"):

    def _boot_ms() -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks.

    Attributes:
        monotonic_ms: a monotonic clock, to measure waits.
        now_ms: the wall clock, for times that another machine compares.
        boot_ms: a monotonic clock that also runs while the machine is suspended. Default: the system's, if
            ``monotonic_ms`` is the system's, too; otherwise ``monotonic_ms``.
        elapsed_ms: the time by which data ages. It never goes back.
    """

    monotonic_ms: Callable[[], int] = _monotonic_ms
    now_ms: Callable[[], int] = _now_ms
    boot_ms: Callable[[], int] | None = None
    elapsed_ms: Callable[[], int] = field(init=False)

    def __post_init__(self) -> None:
        boot_ms = self.boot_ms or (_boot_ms if self.monotonic_ms is _monotonic_ms else None)
        object.__setattr__(self, "elapsed_ms", _following(boot_ms or self.monotonic_ms, self.now_ms))


def _following(steady_ms: Callable[[], int], now_ms: Callable[[], int]) -> Callable[[], int]:
    """Return a clock that goes on with ``steady_ms``, and moves on with ``now_ms`` wherever that moves further."""
    ahead_ms = now_ms() - steady_ms()
    # By how much the wall clock is ahead of the steady one, at least and at most, and what has been added to the steady
    # one so far. It is replaced as a whole, so threads need no lock, and neither does the child of a fork.
    state = ahead_ms - BACK_MS, ahead_ms, 0

    def elapsed_ms() -> int:
        nonlocal state
        # The wall clock is read first. A thread that is interrupted here finds it behind, which adds nothing.
        wall_ms = now_ms()
        steadily_ms = steady_ms()
        least_ms, most_ms, added_ms = state
        ahead_ms = wall_ms - steadily_ms
        if least_ms <= ahead_ms <= most_ms:
            return steadily_ms + added_ms
        if ahead_ms > most_ms:
            added_ms += ahead_ms - most_ms
        state = ahead_ms - BACK_MS, ahead_ms, added_ms
        return steadily_ms + added_ms

    return elapsed_ms
