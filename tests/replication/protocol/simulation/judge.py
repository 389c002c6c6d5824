"""The judge: sees everything that happens in a simulated world, and knows what must never."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.replication.protocol.simulation.journal import EMPTY, Node, contains
from tkdb_replication.protocol.head import NOBODY, Head

if TYPE_CHECKING:
    from tests.replication.protocol.simulation.world import World

LOST = "G1: an acknowledged revocation is not in the head"
UNRECOVERABLE = "G1: the bucket no longer holds all that the head names"
STALE = "G2: a revoked token was accepted past the bound"
TWO_WRITERS = "G3: two processes wrote in one epoch"
UNPUBLISHED = "G3: a write was acknowledged that the head doesn't contain"
SERVED = "what is served is named by no head"
PART = "a part of a batch is shown"
TWICE = "a request was carried out twice"
UNDONE = "a caller saw its own revocation undone"
WENT_BACK = "a machine went back behind what it had shown"
ALARM = "a machine raised an alarm without cause"
STUCK = "after all faults had ended, the machines did not recover"


class Violation(NamedTuple):
    """What happened that never must, and when."""

    kind: str
    at_ms: int
    why: str


class Judge:
    """Compares what machines do with what the world knows."""

    def __init__(self, world: World, first: Node) -> None:
        self.violations: list[Violation] = []
        self.acknowledged: dict[int, int] = {}
        """When each revocation was acknowledged first."""
        self.reads = 0
        self.published: set[bytes] = {EMPTY.hash, first.hash}
        """The hashes of all entries that a head ever named."""
        self._within: set[bytes] = set()
        self._requests: set[int] = set()
        self._writers: dict[int, object] = {}
        self._world = world

    def flag(self, kind: str, why: str = "") -> None:
        if self._world.rolled_back and kind != WENT_BACK:
            return  # the bucket has lost what it acknowledged: all that is left to machines is to notice
        self.violations.append(Violation(kind, self._world.now_ms, why))
        self._world.note(f"VIOLATION {kind} {why}")

    def landed(self, old: Node, new: Node, head: Head, writer: object) -> None:
        """A swap by the process ``writer`` has put ``head``, whose place is ``new``."""
        if head.owner != NOBODY and self._writers.setdefault(head.epoch, writer) is not writer:
            self.flag(TWO_WRITERS, f"epoch {head.epoch}")
        if new is not old:
            if not contains(new, old):
                self.flag(LOST, f"head went from {old} to {new}")
            if new.hash in self._within:
                self.flag(PART, f"the head ends at entry {new}")
            for node in new.path[old.seq + 1 :]:
                if node.entry and node.entry.epoch != head.epoch:
                    self.flag(TWO_WRITERS, f"entry {node} of epoch {node.entry.epoch} in a head of {head.epoch}")
                if node.request in self._requests:
                    self.flag(TWICE, f"request {node.request}")
                if node.request is not None:
                    self._requests.add(node.request)
                self.published.add(node.hash)
            if not self.acknowledged.keys() <= new.revoked:
                self.flag(LOST, f"{sorted(self.acknowledged.keys() - new.revoked)}")
        self.recoverable(head)

    def recoverable(self, head: Head) -> None:
        """Whoever restores ``base`` now must be able to come to ``head``."""
        latest = self._world.bucket.latest(head.base)
        if latest is None or not any(latest.names(place) for place in head.places):
            self.flag(UNRECOVERABLE, f"{head.base} ends at {latest}; the head names {head.places[0].seq}..{head.seq}")

    def committed(self, batch: list[Node]) -> None:
        """A machine commits a batch."""
        self._within.update(node.hash for node in batch[:-1])

    def told(self, request: int, *, revokes: bool, seq: int) -> None:
        """A machine tells a caller that its request is done."""
        head = self._world.bucket.node
        if seq > head.seq or head.path[seq].request != request:
            self.flag(UNPUBLISHED, f"request {request} at {seq}")
        if revokes:
            self.acknowledged.setdefault(request, self._world.now_ms)

    def serves(self, served: Node, before: Node) -> None:
        """A machine shows ``served``; the last that it has shown, with this disk, was ``before``."""
        if served.hash not in self.published:
            self.flag(SERVED, f"entry {served}")
        if served.hash in self._within:
            self.flag(PART, f"up to entry {served}")
        if not contains(served, before):
            self.flag(WENT_BACK, f"from {before} to {served}")

    def answered(self, served: Node, *, bound: bool, at_ms: float) -> None:
        """A reader was answered from ``served``, and by its own reckoning accepts that up to ``at_ms``."""
        self.reads += 1
        if bound and len(served.revoked) < len(self.acknowledged):
            limit_ms = at_ms - self._world.bound_ms
            for target, acknowledged_ms in self.acknowledged.items():
                if acknowledged_ms < limit_ms and target not in served.revoked:
                    self.flag(STALE, f"revocation {target}, acknowledged at {acknowledged_ms}")

    def caught_up(self, served: Node, target: int) -> None:
        """A caller whose own revocation has a position that this machine has reached was answered."""
        if target not in served.revoked:
            self.flag(UNDONE, f"revocation {target}")
