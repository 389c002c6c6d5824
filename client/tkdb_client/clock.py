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
from functools import partial
from typing import Final

BACK_MS: Final = 100
"""How much the wall clock may go back before that counts as a new setting: it is also never read at exactly the same
moment as the other clock."""
WINDOW_MS: Final = 50
"""For this long after both of the system's clocks were read, the wall clock alone is read."""


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_boot_ns: Callable[[], int] | None = None
if hasattr(time, "CLOCK_BOOTTIME"):
    _boot_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks.

    Attributes:
        monotonic_ms: a monotonic clock, to measure waits.
        now_ms: the wall clock, for times that another machine compares.
        boot_ms: a monotonic clock that also runs while the machine is suspended. Default: the system's, if the others
            are the system's, too; otherwise ``monotonic_ms``.
        elapsed_ms: the time by which data ages. No setting of the wall clock takes it back.
    """

    monotonic_ms: Callable[[], int] = _monotonic_ms
    now_ms: Callable[[], int] = _now_ms
    boot_ms: Callable[[], int] | None = None
    elapsed_ms: Callable[[], int] = field(init=False)

    def __post_init__(self) -> None:
        if (self.monotonic_ms, self.now_ms, self.boot_ms) == (_monotonic_ms, _now_ms, None):
            elapsed_ms = _following(_boot_ns or time.monotonic_ns, time.time_ns, per_ms=1_000_000, window_ms=WINDOW_MS)
        else:
            elapsed_ms = _following(self.boot_ms or self.monotonic_ms, self.now_ms)
        object.__setattr__(self, "elapsed_ms", elapsed_ms)


def _following(
    steady: Callable[[], int], wall: Callable[[], int], *, per_ms: int = 1, window_ms: int = 0
) -> Callable[[], int]:
    """Return a clock in ms that goes on with ``steady``, and moves on with ``wall`` where that moves further.

    Args:
        steady: a monotonic clock.
        wall: the wall clock.
        per_ms: how many of both clocks' units a millisecond has.
        window_ms: for how long after both clocks were read the wall clock alone is enough.
    """
    back, window, slack = BACK_MS * per_ms, window_ms * per_ms, per_ms - 1
    first = wall() - steady()
    # These are replaced as a whole, so threads need no lock, and neither does the child of a fork.
    # By how much the wall clock is ahead of the steady one, at least and at most, and what has been added to the steady
    # one so far. (Less than a millisecond isn't added until it adds up.)
    bounds = first - back, first + slack, 0
    # From when until when the wall clock alone is enough, and by how many ms it is then ahead of the result.
    recent = 0, 0, 0

    def elapsed_ms() -> int:
        # Each lookup in the cache comes here, so nearly all of them read only one clock.
        now = wall()
        since, until, ahead_ms = recent
        return now // per_ms - ahead_ms if since <= now < until else both_read_ms()

    def both_read_ms() -> int:
        nonlocal bounds, recent
        # The wall clock is read first. A thread that is interrupted here finds it behind, which adds nothing.
        now = wall()
        then = steady()
        least, most, added = bounds
        ahead = now - then
        if ahead > most:
            added += ahead - (most - slack)
        if not least <= ahead <= most:
            bounds = ahead - back, ahead + slack, added
        recent = now, now + window, now // per_ms - (then + added) // per_ms
        return (then + added) // per_ms

    return elapsed_ms
