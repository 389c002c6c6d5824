"""Swaps of the head: the one in flight, and those with an unknown outcome.

After a conflict or a timeout the outcome is unknown. A swap that a proxy repeated conflicts with itself, and a swap
that timed out may still succeed. So the machine reads the head. If the head is the last known one, the machine tries
another swap. If the head is one of its own attempts, the machine adopts it. Any other head is another machine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tkdb_replication.protocol.head import Head

ATTEMPTS_MAX: Final = 64
"""The number of attempts that are recognized. If an older one succeeds, this machine takes it for another machine's."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A swap that was sent, and the time."""

    head: Head
    sent_ms: int


class Swaps:
    """All swaps that were tried on the known head. Each has this head's ETag as its condition, so at most one can
    succeed."""

    def __init__(self) -> None:
        self.in_flight: InFlight | None = None
        self.doubt = False
        """Whether the head must be read before the next swap."""
        self._tried: dict[bytes, Head] = {}

    def sent(self, head: Head, now_ms: int) -> None:
        """Record that a swap to ``head`` was sent."""
        self.in_flight = InFlight(head, now_ms)
        self._tried[head.attempt] = head
        if len(self._tried) > ATTEMPTS_MAX:
            del self._tried[next(iter(self._tried))]

    def answered(self, attempt: bytes) -> InFlight | None:
        """Return the swap that an answer to ``attempt`` belongs to, or None if the answer came late and must be
        dropped."""
        swap = self.in_flight
        if swap is None or swap.head.attempt != attempt:
            return None
        self.in_flight = None
        return swap

    @property
    def settled(self) -> bool:
        """Whether another swap may be sent: none is in flight, and the outcome of the last one is known."""
        return self.in_flight is None and not self.doubt

    @property
    def tried(self) -> int:
        """The number of swaps tried on the known head."""
        return len(self._tried)

    def lost(self) -> None:
        """Record that the last swap ended in a conflict, or wasn't answered in time."""
        self.in_flight = None
        self.doubt = True

    def ours(self, head: Head) -> bool:
        """Return True if ``head`` is one of the attempts."""
        return self._tried.get(head.attempt) == head

    def forget(self) -> None:
        """Forget all attempts: the head has changed, or this machine may not change it any more. None of them can
        succeed, or matters."""
        self.in_flight = None
        self.doubt = False
        self._tried.clear()
