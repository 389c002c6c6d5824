"""Batches: many items in as few requests as their size allows.

>>> list(batches(["a", "b", "c"], len, 2))
[['a', 'b'], ['c']]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from tkdb.channel.padding import MAX_PAYLOAD_BYTES

T = TypeVar("T")

MAX_BODY_BYTES: Final = MAX_PAYLOAD_BYTES - 256
"""The largest body of a request: its envelope takes about 120 bytes of the payload."""

_FRAME_BYTES: Final = 64
"""The overhead of a batch: the method's name and the list's head."""


def batches(items: Sequence[T], bytes_of: Callable[[T], int], max_count: int) -> Iterator[list[T]]:
    """Yield ``items`` in runs that each fit one request."""
    batch: list[T] = []
    size = _FRAME_BYTES
    for item in items:
        item_bytes = bytes_of(item)
        if batch and (len(batch) == max_count or size + item_bytes > MAX_BODY_BYTES):
            yield batch
            batch, size = [], _FRAME_BYTES
        batch.append(item)
        size += item_bytes
    if batch:
        yield batch
