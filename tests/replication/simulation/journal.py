"""Journals of a simulated world: real entries under a real chain, and the shortest fold that can be revived or lost."""

from __future__ import annotations

from tkdb.store.journal import START, Entry, Origin, link
from tkdb.store.seal import ChainKey
from tkdb_replication.head import Place

CHAIN_KEY = ChainKey(bytes(32))
REVOKE, OTHER, RECOVER, ROLL_BACK = b"revoke", b"other", b"recover", b"roll back"


class Node:
    """One entry, and the whole journal up to it.

    Attributes:
        entry: the entry; None before the first.
        path: the nodes of entries 1 to this one, after the empty journal's.
        revoked: what is revoked here.
        request: the request that the entry carries out, if it is one's.
    """

    __slots__ = ("entry", "hash", "path", "place", "request", "revoked", "seq")

    def __init__(self, parent: Node | None, entry: Entry | None, request: int | None, revoked: frozenset[int]) -> None:
        self.entry = entry
        self.seq = entry.seq if entry else 0
        self.hash = entry.hash if entry else START.hash
        self.place = Place(self.seq, self.hash)
        self.request = request
        self.revoked = revoked
        self.path: tuple[Node, ...] = (*parent.path, self) if parent else (self,)

    def __repr__(self) -> str:
        return f"{self.seq}#{self.hash.hex()[:4]}"

    def names(self, place: Place) -> bool:
        """Return whether ``place`` lies on this journal."""
        return place.seq <= self.seq and self.path[place.seq].hash == place.hash

    def find(self, request: int) -> Node | None:
        """Return where this journal carries out ``request``."""
        return next((node for node in reversed(self.path) if node.request == request), None)


EMPTY = Node(None, None, None, frozenset())


def contains(journal: Node, node: Node) -> bool:
    """Return whether ``node`` lies on ``journal``."""
    return node.seq <= journal.seq and journal.path[node.seq] is node


def append(parent: Node, kind: bytes, *, now_ms: int, epoch: int, request: int | None = None, target: int = 0) -> Node:
    """Return the node of a new entry after ``parent``.

    ``target`` is the revocation that a ``REVOKE`` makes (None of a request's own: its own number), and the entry to
    which ``RECOVER`` and ``ROLL_BACK`` go back.
    """
    before = parent.entry.head if parent.entry else START
    origin = Origin(request_id=b"" if request is None else request.to_bytes(8, "big"))
    entry = link(before, CHAIN_KEY, now_ms=now_ms, epoch=epoch, body=b"%s %d" % (kind, target), origin=origin)
    revoked = parent.revoked
    if kind == REVOKE:
        revoked |= {target}
    elif kind == ROLL_BACK:
        revoked = parent.path[target].revoked
    return Node(parent, entry, request, revoked)
