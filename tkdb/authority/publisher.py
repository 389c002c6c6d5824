"""Who makes what was committed acknowledged. For a machine that stands alone, its disk does."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from tkdb.authority.view import Served
from tkdb.journal.entry import Entry


class Publisher(Protocol):
    """Asked by the writer, which holds the turn: may it commit, and when is what it committed acknowledged?"""

    def epoch(self) -> int:
        """Return the epoch of what is committed now.

        Raises:
            NoPrimary: this machine takes no writes.
        """

    def require_room(self, entries: int, size_bytes: int) -> None:
        """Return if so many entries, of so many bytes together, may be committed at once.

        Raises:
            NoPrimary: this machine takes no writes.
            Overloaded: not now.
            InvalidRequest: never.
        """

    def committed(self, entries: Sequence[Entry]) -> Awaitable[None]:
        """Entries were committed, as one. What is returned ends when they are acknowledged, and served.

        Raises:
            OutcomeUnknown: (awaited) nobody knows whether they will ever be.
        """

    def repeated(self, seq: int) -> Awaitable[None]:
        """A request came again whose entry, number ``seq``, is in the journal. As ``committed``."""

    def commit_failed(self, *, doubtful: bool) -> None:
        """A commit failed; ``doubtful``: it isn't known whether nothing was changed."""


class Alone:
    """What is on the disk is acknowledged.

    Args:
        served: shows it.
    """

    def __init__(self, served: Served) -> None:
        self._served = served

    def epoch(self) -> int:
        """Return 1; or, where the database was a cluster's, the last epoch there was."""
        return max(1, self._served.state.head.epoch)

    def require_room(self, entries: int, size_bytes: int) -> None:
        """There is always room."""

    def committed(self, entries: Sequence[Entry]) -> Awaitable[None]:
        """Show the entries."""
        return self._served.show(entries[-1].seq, entries[-1].hash)

    async def repeated(self, seq: int) -> None:
        """What is in the journal is acknowledged."""

    def commit_failed(self, *, doubtful: bool) -> None:
        """Nothing follows: the next commit tries again."""
