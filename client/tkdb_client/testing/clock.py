"""The test's clock: it stands still until the test moves it, for the authority and all clients together.

>>> clock = Clock(at_s=1_900_000_000)
>>> clock.advance(90)
>>> clock.now_s()
1900000090.0
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from tkdb import arguments
from tkdb.arguments import Duration

START_S: Final = 1_900_000_000
"""The start of every test, in Unix seconds: March 2030."""


class Clock:
    """The wall clock and the monotonic clock of an authority and its clients.

    Args:
        at_s: the wall clock's first time, in Unix seconds.
    """

    def __init__(self, at_s: float = START_S) -> None:
        arguments.seconds("at_s", at_s)
        self._start_ms = self._now_ms = round(at_s * 1000)
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def advance(self, seconds: Duration) -> None:
        """Move the time forward, at once, by seconds or by a ``timedelta``.

        Raises:
            ConfigurationError: ``seconds`` isn't a duration, or is negative: time doesn't go back.
        """
        ms = round(arguments.seconds("seconds", seconds) * 1000)
        with self._lock:
            self._now_ms += ms
        for listener in self._listeners:
            listener()

    def now_s(self) -> float:
        """Return Unix seconds, the form of a ``Policy``'s clock."""
        return self._now_ms / 1000

    def now_ms(self) -> int:
        """Return Unix milliseconds."""
        return self._now_ms

    def monotonic_ms(self) -> int:
        """Return the milliseconds since the start."""
        return self._now_ms - self._start_ms

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever the time has moved."""
        self._listeners.append(listener)
