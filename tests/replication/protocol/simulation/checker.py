"""The checker: it sees everything that happens in a simulated world, and records each violation of a guarantee."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.replication.protocol.simulation.journal import EMPTY, Node, contains
from tkdb_replication.protocol.head import NOBODY, Head

if TYPE_CHECKING:
    from tests.replication.protocol.simulation.world import World

LOST = "G1: an acknowledged revocation is not in the head"
UNRECOVERABLE = "G1: the bucket no longer contains every entry that the head names"
STALE = "G2: a revoked token was accepted past the bound"
TWO_WRITERS = "G3: two processes wrote in one epoch"
UNPUBLISHED = "G3: a write was acknowledged that the head doesn't contain"
SERVED = "a machine serves an entry that no head names"
PART = "a head or a machine shows only a part of a batch"
TWICE = "a request was carried out twice"
UNDONE = "a caller saw its own revocation undone"
WENT_BACK = "a machine no longer serves an entry that it had served"
ALARM = "a machine raised an alarm without cause"
STUCK = "the machines didn't recover after all faults ended"


class Violation(NamedTuple):
    """A violation: its kind, its time, and its details."""

    kind: str
    at_ms: int
    why: str


class Checker:
    """Compares the actions of machines with the state of the world."""

    def __init__(self, world: World, first: Node) -> None:
        self.violations: list[Violation] = []
        self.acknowledged: dict[int, int] = {}
        """The time at which each revocation was first acknowledged."""
        self.reads = 0
        self.published: set[bytes] = {EMPTY.hash, first.hash}
        """The hashes of all entries that any head has named."""
        self._within: set[bytes] = set()
        self._requests: set[int] = set()
        self._writers: dict[int, object] = {}
        self._world = world

    def flag(self, kind: str, why: str = "") -> None:
        if self._world.rolled_back and kind != WENT_BACK:
            return  # the bucket has lost acknowledged writes, so machines can only detect the loss
        self.violations.append(Violation(kind, self._world.now_ms, why))
        self._world.note(f"VIOLATION {kind} {why}")

    def check_swap(self, old: Node, new: Node, head: Head, writer: object) -> None:
        """Check a swap. The process ``writer`` has put ``head``, which ends at ``new``."""
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
        self.check_base(head)

    def check_base(self, head: Head) -> None:
        """Check that a restore of ``base`` can reach ``head`` now."""
        latest = self._world.bucket.latest(head.base)
        if latest is None or not any(latest.names(place) for place in head.places):
            self.flag(UNRECOVERABLE, f"{head.base} ends at {latest}; the head names {head.places[0].seq}..{head.seq}")

    def record_batch(self, batch: list[Node]) -> None:
        """Record a batch that a machine commits."""
        self._within.update(node.hash for node in batch[:-1])

    def check_acknowledgement(self, request: int, *, revokes: bool, seq: int) -> None:
        """Check the acknowledgement of a request, whose entry is at ``seq``."""
        head = self._world.bucket.node
        if seq > head.seq or head.path[seq].request != request:
            self.flag(UNPUBLISHED, f"request {request} at {seq}")
        if revokes:
            self.acknowledged.setdefault(request, self._world.now_ms)

    def check_served(self, served: Node, before: Node) -> None:
        """Check that a machine may serve ``served``. The last that it served with this disk was ``before``."""
        if served.hash not in self.published:
            self.flag(SERVED, f"entry {served}")
        if served.hash in self._within:
            self.flag(PART, f"up to entry {served}")
        if not contains(served, before):
            self.flag(WENT_BACK, f"from {before} to {served}")

    def check_answer(self, served: Node, *, bound: bool, at_ms: float) -> None:
        """Check an answer from ``served`` that a reader accepts at ``at_ms``; its staleness only with ``bound``."""
        self.reads += 1
        if bound and len(served.revoked) < len(self.acknowledged):
            limit_ms = at_ms - self._world.bound_ms
            for target, acknowledged_ms in self.acknowledged.items():
                if acknowledged_ms < limit_ms and target not in served.revoked:
                    self.flag(STALE, f"revocation {target}, acknowledged at {acknowledged_ms}")

    def check_own_revocation(self, served: Node, target: int) -> None:
        """Check an answer to the caller of revocation ``target``, from a machine that has reached its position."""
        if target not in served.revoked:
            self.flag(UNDONE, f"revocation {target}")
