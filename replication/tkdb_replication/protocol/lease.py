"""The lease: how long a head has stood unchanged, by this machine's own clock, and how long one waits for it.

No head is ever the same twice, so one that is seen twice was not swapped in between: its primary didn't renew. Waiting
is politeness, not safety: what decides who is primary is the swap.

>>> lease = Lease()
>>> lease.saw(b"attempt 1", sent_ms=90, now_ms=100)
>>> lease.saw(b"attempt 1", sent_ms=900, now_ms=2000)
>>> lease.unchanged_ms
800
"""

from __future__ import annotations

from tkdb_replication.protocol.head import NOBODY, Head
from tkdb_replication.protocol.settings import Settings


class Lease:
    """Watches one head."""

    def __init__(self) -> None:
        self.unchanged_ms = 0
        """For how long the last head seen is known to have been the head."""
        self._attempt = b""
        self._since_ms = 0

    def saw(self, attempt: bytes, *, sent_ms: int, now_ms: int) -> None:
        """A read sent at ``sent_ms`` was answered, at ``now_ms``, with the head of that ``attempt``."""
        if attempt != self._attempt:
            self._attempt, self._since_ms, self.unchanged_ms = attempt, now_ms, 0
        self.unchanged_ms = max(self.unchanged_ms, sent_ms - self._since_ms)


def patience_ms(head: Head, settings: Settings, former: bytes) -> int | None:
    """Return how long ``head`` must have stood unchanged before this machine may take over; None: for ever.

    Args:
        head: the head.
        settings: this machine's.
        former: the process whose life this machine's own disk shows to have ended; empty for none. The disk is locked
            by one process at a time, so that process is no more.
    """
    if head.owner == former:
        return 0
    turn_ms = settings.rank * settings.rank_ms
    if head.owner == NOBODY and head.machine in (settings.machine, ""):
        return 0 if head.machine else turn_ms
    return head.lease_ms + settings.margin_ms + turn_ms if settings.automatic else None
