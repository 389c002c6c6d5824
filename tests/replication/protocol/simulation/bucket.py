"""The object store of a simulated world: one head, and the paths that Litestream writes."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from tests.replication.protocol.simulation.journal import Node
from tkdb_replication.bucket.objects import Conflict, Found, Missing, NotModified, Stored
from tkdb_replication.protocol.head import Head, HeadKeys, decode_head, encode_head

Answer = Found | NotModified | Missing | Stored | Conflict


class Bucket:
    """A linearizable store with conditional puts. Only the network loses or delays messages.

    Attributes:
        head: the head.
        node: the node of its last entry.
        paths: the journals that Litestream has uploaded to each path, by txid.
    """

    def __init__(self, head: Head, node: Node, keys: HeadKeys, nodes: dict[bytes, Node]) -> None:
        self._keys = keys
        self._nodes = nodes
        self.paths: defaultdict[str, dict[int, Node]] = defaultdict(dict)
        self.paths[head.base][1] = node
        self.history: list[tuple[int, bytes, str]] = []
        self._put(encode_head(head, keys), 0)

    def _put(self, body: bytes, now_ms: int) -> None:
        # As in S3, the ETag is a hash of the content, so equal bytes have equal ETags.
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self.history.append((now_ms, body, etag))
        self._set(body, etag)

    def get(self, etag: str | None, age_ms: int, now_ms: int) -> Found | NotModified:
        """Answer a read with the head of ``age_ms`` ago. That is 0, except in a store with eventual reads."""
        body, current = self.body, self.etag
        if age_ms:
            body, current = next(
                ((body, etag) for at_ms, body, etag in reversed(self.history) if at_ms <= now_ms - age_ms),
                self.history[0][1:],
            )
        return NotModified(None) if etag == current else Found(body, current, None)

    def swap(self, body: bytes, etag: str, now_ms: int) -> Stored | Conflict:
        """Answer a conditional put of the head."""
        if etag != self.etag:
            return Conflict(None)
        self._put(body, now_ms)
        return Stored(self.etag, None)

    def go_back(self, index: int) -> None:
        """Put the head of ``history[index]`` back."""
        _, body, etag = self.history[index]
        self._set(body, etag)

    def _set(self, body: bytes, etag: str) -> None:
        self.body, self.etag = body, etag
        self.head = decode_head(body, self._keys)
        self.node = self._nodes[self.head.hash]

    def latest(self, path: str) -> Node | None:
        """Return the journal that a restore of ``path`` gives, or None if there is no upload."""
        uploads = self.paths.get(path)
        return uploads[max(uploads)] if uploads else None
