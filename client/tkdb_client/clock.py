"""The client's two clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """A monotonic clock, to measure waits, and the wall clock, for times that another machine compares."""

    monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
