"""The lease: how long a head has been unchanged, by this machine's own clock, and how long the machine must wait for
it.

No two heads are the same. So if a machine reads the same head twice, no swap happened in between: the primary didn't
renew its lease. Waiting prevents needless takeovers, and isn't needed for safety: the swap alone decides which machine
is primary.

>>> lease = Lease()
>>> lease.saw(b"attempt 1", sent_ms=90, now_ms=100)
>>> lease.saw(b"attempt 1", sent_ms=900, now_ms=2000)
>>> lease.unchanged_ms, lease.read_ms(2000)
(800, 1100)
"""

from __future__ import annotations

from tkdb_replication.protocol.head import NOBODY, Head
from tkdb_replication.protocol.settings import ProtocolSettings


class Lease:
    """The observation of one head."""

    def __init__(self) -> None:
        self.unchanged_ms = 0
        """For how long the last head seen is known to have been the head."""
        self._attempt = b""
        self._since_ms = 0
        self._sent_ms = 0

    def read_ms(self, now_ms: int) -> int:
        """Return the time since the last read was sent that showed the head."""
        return now_ms - self._sent_ms

    def saw(self, attempt: bytes, *, sent_ms: int, now_ms: int) -> None:
        """Record that a read sent at ``sent_ms`` returned, at ``now_ms``, the head with this ``attempt``."""
        if attempt != self._attempt:
            self._attempt, self._since_ms, self.unchanged_ms = attempt, now_ms, 0
        self.unchanged_ms = max(self.unchanged_ms, sent_ms - self._since_ms)
        self._sent_ms = max(self._sent_ms, sent_ms)


def wait_ms(head: Head, settings: ProtocolSettings, former: bytes) -> int | None:
    """Return how long ``head`` must be unchanged before this machine may take over. None: it may not.

    Args:
        head: the head.
        settings: this machine's settings.
        former: a process that has ended, as this machine's own disk shows; empty if there is none. One process at a
            time locks the disk, so the former process can't still run.
    """
    if head.owner == former:
        return 0
    turn_ms = settings.rank * settings.rank_ms
    if head.owner == NOBODY and head.machine in (settings.machine, ""):
        return 0 if head.machine else turn_ms
    return head.lease_ms + settings.margin_ms + turn_ms if settings.automatic else None
