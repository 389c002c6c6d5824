"""An incident in the log: its beginning, repeated lines while it lasts, and its end.

A machine asks the store several times a second, and a store may be unreachable for an hour.

>>> from tkdb import logs
>>> now_ms = 0
>>> unread = Incident("head unread", "head read again", monotonic_ms=lambda: now_ms)
>>> unread.seen("the store couldn't be reached")      # logs a warning
>>> now_ms = 250
>>> unread.seen("the store couldn't be reached")      # logs nothing
>>> unread.over()                                     # logs the end, and how long it lasted
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tkdb import logs

AGAIN_MS: Final = 10_000
"""The pause between two log lines of one incident. A new reason is logged at once."""


class Incident:
    """One kind of incident.

    Args:
        event: the log event of the incident.
        over: the log event of its end.
        monotonic_ms: the clock.
    """

    def __init__(self, event: str, over: str, *, monotonic_ms: Callable[[], int]) -> None:
        self.why = ""
        """Why, while it lasts; else empty."""
        self._event = event
        self._over = over
        self._monotonic_ms = monotonic_ms
        self._began_ms = self._said_ms = 0

    def seen(self, why: str) -> None:
        """Record a failure, the first one or a repeated one."""
        now_ms = self._monotonic_ms()
        if not self.why:
            self._began_ms = now_ms
        if why != self.why or now_ms - self._said_ms >= AGAIN_MS:
            self._said_ms = now_ms
            logs.event(logging.WARNING, self._event, why=why, for_ms=now_ms - self._began_ms)
        self.why = why

    def over(self) -> None:
        """Record a success."""
        if self.why:
            self.why = ""
            logs.event(logging.INFO, self._over, after_ms=self._monotonic_ms() - self._began_ms)
