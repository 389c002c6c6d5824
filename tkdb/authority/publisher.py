"""The publisher: it acknowledges committed entries. On a machine that stands alone, the disk is enough."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from tkdb.authority.view import View
from tkdb.journal.entry import Entry


class Publisher(Protocol):
    """The writer's interface to acknowledgement. The writer calls it while it holds the turn."""

    def epoch(self) -> int:
        """Return the epoch for entries that are committed now.

        Raises:
            NoPrimary: this machine takes no writes.
        """

    def require_room(self, entries: int, size_bytes: int) -> None:
        """Return if ``entries`` entries, of ``size_bytes`` bytes together, may be committed at once.

        Raises:
            NoPrimary: this machine takes no writes.
            Overloaded: they may not now.
            InvalidRequest: they never may.
        """

    def committed(self, entries: Sequence[Entry]) -> Awaitable[None]:
        """Record that entries were committed together. The returned awaitable ends when they are acknowledged and
        served.

        Raises:
            OutcomeUnknown: (awaited) it is unknown whether they ever will be.
        """

    def repeated(self, seq: int) -> Awaitable[None]:
        """Record that a request was repeated whose entry, at position ``seq``, is in the journal. As ``committed``."""

    def commit_failed(self, *, doubtful: bool) -> None:
        """Record that a commit failed. ``doubtful``: it may have changed something."""


class Alone:
    """Entries on the disk are acknowledged.

    Args:
        served: shows them.
    """

    def __init__(self, served: View) -> None:
        self._served = served

    def epoch(self) -> int:
        """Return 1, or the last epoch if the database was a cluster's."""
        return max(1, self._served.state.head.epoch)

    def require_room(self, entries: int, size_bytes: int) -> None:
        """Do nothing: there is always room."""

    def committed(self, entries: Sequence[Entry]) -> Awaitable[None]:
        """Show the entries."""
        return self._served.show(entries[-1].seq, entries[-1].hash)

    async def repeated(self, seq: int) -> None:
        """Do nothing: an entry in the journal is acknowledged."""

    def commit_failed(self, *, doubtful: bool) -> None:
        """Do nothing: the next commit tries again."""
