"""Flights: who asks the same as another call that is under way waits for it, instead of asking too.

A flight is found by the SHA-256 of the whole bundle. It hands over no result: who waited looks again for himself, so
that nobody gets what was meant for another. Only that nobody answered is told on.

>>> flights = Flights()
>>> flights.board(b"digest") is None
True
>>> other = flights.board(b"digest")
>>> flights.land(b"digest")
>>> other.result()
"""

from __future__ import annotations

from concurrent.futures import Future

from tkdb.errors import TkdbError


class Flights:
    """The questions under way. Any number of threads may share one."""

    def __init__(self) -> None:
        self._flying: dict[bytes, Future[TkdbError | None]] = {}

    def board(self, digest: bytes) -> Future[TkdbError | None] | None:
        """Return the flight of that digest, to wait for; or None where there was none. Then this caller is to ask,
        and to ``land`` in any case."""
        mine: Future[TkdbError | None] = Future()
        flying = self._flying.setdefault(digest, mine)  # atomic: one of several callers finds its own
        return None if flying is mine else flying

    def land(self, digest: bytes, error: TkdbError | None = None) -> None:
        """The question was answered; or it wasn't, and ``error`` says why."""
        self._flying.pop(digest).set_result(error)
