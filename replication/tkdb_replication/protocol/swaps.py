"""The swaps: the one in flight, and those whose outcome isn't known.

After a conflict or a time-out nothing is known: a swap that something between has repeated conflicts with itself, and
one that timed out may still land. So the head is read: if it is the last known one, another swap is tried; if it is
one of our own attempts, that one is adopted; anything else is another machine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tkdb_replication.protocol.head import Head

ATTEMPTS_MAX: Final = 64
"""So many attempts are recognised. One that was forgotten and lands is another machine's, as far as this one knows."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A swap that was sent, and when."""

    head: Head
    sent_ms: int


class Swaps:
    """All swaps that were tried on the head known. Each has that same head's ETag as its condition: one can land."""

    def __init__(self) -> None:
        self.in_flight: InFlight | None = None
        self.doubt = False
        """Whether the head must be read before the next swap."""
        self._tried: dict[bytes, Head] = {}

    def sent(self, head: Head, now_ms: int) -> None:
        """A swap to ``head`` was sent."""
        self.in_flight = InFlight(head, now_ms)
        self._tried[head.attempt] = head
        if len(self._tried) > ATTEMPTS_MAX:
            del self._tried[next(iter(self._tried))]

    def answered(self, attempt: bytes) -> InFlight | None:
        """Return the swap that an answer to ``attempt`` is about; None where it came late, and is to be dropped."""
        swap = self.in_flight
        if swap is None or swap.head.attempt != attempt:
            return None
        self.in_flight = None
        return swap

    @property
    def settled(self) -> bool:
        """Whether another swap may be sent: none is in flight, and what became of the last one is known."""
        return self.in_flight is None and not self.doubt

    @property
    def tried(self) -> int:
        """How many swaps were tried on the head known."""
        return len(self._tried)

    def lost(self) -> None:
        """The last swap ended in a conflict, or wasn't answered in time."""
        self.in_flight = None
        self.doubt = True

    def ours(self, head: Head) -> bool:
        """Return whether ``head`` is one of the attempts."""
        return self._tried.get(head.attempt) == head

    def forget(self) -> None:
        """The head has changed, or isn't ours to change any more: none of the attempts can land, or matters."""
        self.in_flight = None
        self.doubt = False
        self._tried.clear()
