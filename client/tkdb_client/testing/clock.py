"""Time in the test's hands: it stands still until it is moved, and moves for all at once.

>>> clock = Clock(at_s=1_900_000_000)
>>> clock.advance(90)
>>> clock.now_s()
1900000090.0
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

START_S: Final = 1_900_000_000
"""When a test begins, Unix seconds: March 2030, on every run."""


class Clock:
    """The wall's clock and the one that only goes forward, of a client and its authority alike.

    Args:
        at_s: what the wall's shows at first, in Unix seconds.
    """

    def __init__(self, at_s: float = START_S) -> None:
        self._start_ms = self._now_ms = round(at_s * 1000)
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def advance(self, seconds: float) -> None:
        """Let time pass, at once.

        Raises:
            ValueError: time doesn't go back.
        """
        if seconds < 0:
            raise ValueError("time doesn't go back")
        with self._lock:
            self._now_ms += round(seconds * 1000)
        for listener in self._listeners:
            listener()

    def now_s(self) -> float:
        """Return Unix seconds: what a ``Policy`` takes as its clock."""
        return self._now_ms / 1000

    def now_ms(self) -> int:
        """Return Unix milliseconds."""
        return self._now_ms

    def monotonic_ms(self) -> int:
        """Return the milliseconds that have passed."""
        return self._now_ms - self._start_ms

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever time has passed."""
        self._listeners.append(listener)
