"""Single flight: concurrent identical requests share one. A caller waits for the other caller's request instead of
sending its own.

A flight is found by its key: the SHA-256 of the whole bundle, with the place where the call runs. It passes on no
result: each caller that waited looks in the cache again, so that no caller gets another one's result. Only a failure is
passed on.

>>> flights = SingleFlight()
>>> flights.join(b"digest") is None
True
>>> other = flights.join(b"digest")
>>> flights.finish(b"digest")
>>> other.result()
"""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future

from tkdb.errors import TkdbError


class SingleFlight:
    """The requests in flight. Any number of threads may share it."""

    def __init__(self) -> None:
        self._flying: dict[Hashable, Future[TkdbError | None]] = {}

    def join(self, key: Hashable) -> Future[TkdbError | None] | None:
        """Return the flight with this key, to wait for. None: there is none, so the caller must send the request,
        and then always call ``finish``."""
        mine: Future[TkdbError | None] = Future()
        flying = self._flying.setdefault(key, mine)  # atomic: one of several callers finds its own
        return None if flying is mine else flying

    def finish(self, key: Hashable, error: TkdbError | None = None) -> None:
        """Record that the request ended. If it wasn't answered, ``error`` is the cause."""
        self._flying.pop(key).set_result(error)
