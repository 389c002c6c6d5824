"""What goes wrong for a while, as the log has it: when it begins, now and then while it lasts, and when it is over.

A machine asks the store several times a second, and a store may be away for an hour.

>>> from tkdb.server import logs
>>> now_ms = 0
>>> unread = Ongoing("head unread", "head read again", monotonic_ms=lambda: now_ms)
>>> unread.seen("the store couldn't be reached")      # a warning
>>> now_ms = 250
>>> unread.seen("the store couldn't be reached")      # nothing
>>> unread.over()                                     # that it is over, and how long it was
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tkdb import logs

AGAIN_MS: Final = 10_000
"""So often it is said again while it lasts; at once where the reason is another one."""


class Ongoing:
    """One thing that may go wrong for a while.

    Args:
        event: what the log calls it.
        over: what the log calls its end.
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
        """It went wrong, again perhaps."""
        now_ms = self._monotonic_ms()
        if not self.why:
            self._began_ms = now_ms
        if why != self.why or now_ms - self._said_ms >= AGAIN_MS:
            self._said_ms = now_ms
            logs.event(logging.WARNING, self._event, why=why, for_ms=now_ms - self._began_ms)
        self.why = why

    def over(self) -> None:
        """It went well."""
        if self.why:
            self.why = ""
            logs.event(logging.INFO, self._over, after_ms=self._monotonic_ms() - self._began_ms)
