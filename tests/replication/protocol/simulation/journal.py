"""Journals of a simulated world. Entries and their chain are real, but the fold is only a set of revoked targets."""

from __future__ import annotations

from tkdb.journal.entry import START, Entry, Origin, link
from tkdb.journal.seal import ChainKey
from tkdb_replication.protocol.head import Checkpoint

CHAIN_KEY = ChainKey(bytes(32))
REVOKE, OTHER, RECOVER = b"revoke", b"other", b"recover"


class Node:
    """An entry, and the whole journal up to it.

    Attributes:
        entry: the entry; None before the first.
        path: the node of the empty journal, and those of entries 1 to this one.
        revoked: the targets that are revoked after this entry.
        request: the request that the entry carries out, if any.
    """

    __slots__ = ("entry", "hash", "path", "place", "request", "revoked", "seq")

    def __init__(self, parent: Node | None, entry: Entry | None, request: int | None, revoked: frozenset[int]) -> None:
        self.entry = entry
        self.seq = entry.seq if entry else 0
        self.hash = entry.hash if entry else START.hash
        self.place = Checkpoint(self.seq, self.hash)
        self.request = request
        self.revoked = revoked
        self.path: tuple[Node, ...] = (*parent.path, self) if parent else (self,)

    def __repr__(self) -> str:
        return f"{self.seq}#{self.hash.hex()[:4]}"

    def names(self, place: Checkpoint) -> bool:
        """Return True if ``place`` is on this journal."""
        return place.seq <= self.seq and self.path[place.seq].hash == place.hash

    def find(self, request: int) -> Node | None:
        """Return the node that carries out ``request``, or None if there is none."""
        return next((node for node in reversed(self.path) if node.request == request), None)


EMPTY = Node(None, None, None, frozenset())


def contains(journal: Node, node: Node) -> bool:
    """Return True if ``node`` is on ``journal``."""
    return node.seq <= journal.seq and journal.path[node.seq] is node


def append(
    parent: Node,
    kind: bytes,
    *,
    now_ms: int,
    epoch: int,
    request: int | None = None,
    targets: frozenset[int] = frozenset(),
    back_to: Node | None = None,
) -> Node:
    """Return the node of a new entry after ``parent``.

    It revokes ``targets``. With ``back_to``, it first drops all revocations after that node.
    """
    before = parent.entry.head if parent.entry else START
    origin = Origin(request_id=b"" if request is None else request.to_bytes(8, "big"))
    body = b"%s %s" % (kind, repr(sorted(targets)).encode())
    entry = link(before, CHAIN_KEY, now_ms=now_ms, epoch=epoch, body=body, origin=origin)
    return Node(parent, entry, request, (back_to or parent).revoked | targets)


def carry_out(request: int, kind: bytes, parent: Node, back_to: Node, *, now_ms: int, epoch: int) -> list[Node]:
    """Return the nodes of the entries that carry out ``request`` after ``parent``.

    A recovery has two: one restores the state at ``back_to``, the other repeats all later revocations.
    """
    if kind != RECOVER:
        targets = frozenset({request} if kind == REVOKE else ())
        return [append(parent, kind, now_ms=now_ms, epoch=epoch, request=request, targets=targets)]
    rolled_back = append(parent, RECOVER, now_ms=now_ms, epoch=epoch, request=request, back_to=back_to)
    since = parent.revoked - back_to.revoked
    return [rolled_back, append(rolled_back, REVOKE, now_ms=now_ms, epoch=epoch, targets=since)]
