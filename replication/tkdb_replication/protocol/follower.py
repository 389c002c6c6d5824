"""The follower: it brings the machine's own journal to the head, one step at a time.

After a start, and after a time as primary, the journal may contain entries that no head ever named. So it is first cut
back to the last point that the head names. Then the entries of ``recent`` are applied. If ``recent`` doesn't reach back
far enough, the journal is restored from ``base``.

>>> from tkdb_replication.protocol.head import BEGINNING, first_head
>>> head = first_head(
...     journal=b"j" * 16, attempt=b"a" * 16, owner=b"o" * 16, base="e0-00", place=Checkpoint(3, b"h" * 32), epoch=0
... )
>>> follower = Follower(retry_ms=250)
>>> type(follower.step(lambda: 1, head, BEGINNING, 0)).__name__
'CutBack'
>>> follower.done(1, BEGINNING, 10)
>>> type(follower.step(lambda: 2, head, BEGINNING, 10)).__name__
'RestoreBackup'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tkdb_replication.protocol.actions import Apply, CutBack, RestoreBackup
from tkdb_replication.protocol.head import Checkpoint, Head
from tkdb_replication.protocol.settings import NEVER_MS

RETRY_MAX_MS: Final = 10_000
"""The longest pause between restores that fail again and again: each one reads a whole backup."""
_DOUBLINGS_MAX: Final = 16


class Follower:
    """The known state of the journal on this machine's disk.

    Args:
        retry_ms: how long after a failed step the next one is tried.
    """

    def __init__(self, retry_ms: int) -> None:
        self.place: Checkpoint | None = None
        """The journal's end; None while it may hold what no head names, or isn't known."""
        self._step: int | None = None
        self._retry_at_ms = -NEVER_MS
        self._retry_ms = retry_ms
        self._restoring = False
        self._failures = 0

    def at(self, head: Head) -> bool:
        """Return True if the journal is exactly at ``head``, and no step changes it."""
        return self.place == head.place and self._step is None

    def doubt(self) -> None:
        """Record that the journal may contain entries that no head names, or ever will."""
        self.place = None

    def due_ms(self, head: Head) -> int:
        """Return when the next step towards ``head`` may begin; never if none is needed, or one is in progress."""
        return NEVER_MS if self._step is not None or self.place == head.place else self._retry_at_ms

    def step(
        self, number: Callable[[], int], head: Head, through: Checkpoint, now_ms: int
    ) -> CutBack | Apply | RestoreBackup | None:
        """Return the next step towards ``head``, with the next ``number``, or None if none is due.

        ``through``: the last point that was served here. A restored journal must contain it.
        """
        if now_ms < self.due_ms(head):
            return None
        self._step = step = number()
        self._restoring = False
        if self.place is None:
            return CutBack(step, head.places)
        entries = head.after(self.place)
        self._restoring = entries is None
        return RestoreBackup(step, head.base, head.places, through) if entries is None else Apply(step, entries)

    def done(self, step: int, place: Checkpoint | None, now_ms: int) -> None:
        """Record that the step with this number ended, with the journal at ``place``. None: the step failed."""
        if step != self._step:
            return
        self._step = None
        self.place = place
        if self._restoring:
            self._failures = 0 if place is not None else min(self._failures + 1, _DOUBLINGS_MAX)
        if place is None:
            self._retry_at_ms = now_ms + min(self._retry_ms << self._failures, RETRY_MAX_MS)
