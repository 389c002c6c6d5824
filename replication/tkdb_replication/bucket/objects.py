"""The interface of the object store, as small as replication needs it: objects change only by compare-and-swap.

Every call has one of a few outcomes, and no call raises an error for anything that the store or the network does. An
unknown outcome is ``Unknown``: a put without an answer may have succeeded, or may still succeed later. Nothing here
ever repeats a request, because only the caller knows what a repetition would mean.

>>> import asyncio
>>> objects = MemoryObjects(now_ms=lambda: 0)
>>> stored = asyncio.run(objects.put("head", b"1", if_none_match="*", timeout_ms=1000))
>>> asyncio.run(objects.put("head", b"2", if_none_match="*", timeout_ms=1000))
Conflict(date_ms=0)
>>> asyncio.run(objects.put("head", b"2", if_match=stored.etag, timeout_ms=1000))
Stored(etag='"c81e728d9d4c2f636f067f89cc14862c"', date_ms=0)
>>> asyncio.run(objects.get("head", timeout_ms=1000)).body
b'2'
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

MAX_BODY_BYTES: Final = 1 << 20
"""The largest object that is read or written here. Litestream handles databases and their logs."""


@dataclass(frozen=True, slots=True)
class Found:
    """The whole object. ``date_ms`` is the store's time of the answer (its Date header), here and in the other
    outcomes."""

    body: bytes = field(repr=False)
    etag: str
    date_ms: int | None


@dataclass(frozen=True, slots=True)
class NotModified:
    """The object still has the given ETag."""

    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such object."""

    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """The put succeeded, and the object now has this ETag."""

    etag: str
    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """The condition of the put refused it (409 or 412).

    A proxy may have repeated the request. Then an earlier put of the same bytes may have succeeded: read the object.
    """

    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """The object no longer exists, or never existed."""

    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """One object of a list."""

    key: str
    size_bytes: int
    modified_ms: int


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects under a prefix, in the order of their keys."""

    objects: tuple[Listing, ...]
    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The outcome of the request is unknown: a timeout, a reset, or a status that doesn't describe the outcome.

    Attributes:
        message: the event, without any secret.
        status: the HTTP status, if there was one.
    """

    message: str
    status: int | None = None


class Objects(Protocol):
    """A bucket. Keys are ASCII, not empty, and don't begin with a slash."""

    async def get(
        self, key: str, *, if_none_match: str | None = None, timeout_ms: int
    ) -> Found | NotModified | Missing | Unknown:
        """Read an object, unless its ETag is ``if_none_match``."""
        ...

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_match: str | None = None,
        if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:
        """Write an object: only over the one with the ETag ``if_match``, or only if there is none (``"*"``)."""
        ...

    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        """Delete an object."""
        ...

    async def list(self, prefix: str, *, timeout_ms: int) -> Listed | Unknown:
        """List all objects whose keys begin with ``prefix``."""
        ...


class MemoryObjects:
    """A bucket in memory, as strict as the real one must be. For tests and for the simulation.

    Args:
        now_ms: the store's clock, in ms since 1970.
    """

    def __init__(self, *, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._objects: dict[str, tuple[bytes, int]] = {}

    async def get(
        self, key: str, *, if_none_match: str | None = None, timeout_ms: int
    ) -> Found | NotModified | Missing | Unknown:
        """As in ``Objects``."""
        now_ms, body = self._now_ms(), self._body(key)
        if body is None:
            return Missing(now_ms)
        if if_none_match == etag(body):
            return NotModified(now_ms)
        return Found(body, etag(body), now_ms)

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_match: str | None = None,
        if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:
        """As in ``Objects``."""
        now_ms, old = self._now_ms(), self._body(key)
        if if_none_match is not None and old is not None:
            return Conflict(now_ms)
        if if_match is not None and (old is None or etag(old) != if_match):
            return Conflict(now_ms)
        self._objects[key] = (body, now_ms)
        return Stored(etag(body), now_ms)

    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        """As in ``Objects``."""
        self._objects.pop(key, None)
        return Deleted(self._now_ms())

    async def list(self, prefix: str, *, timeout_ms: int) -> Listed | Unknown:
        """As in ``Objects``."""
        found = sorted((key, *value) for key, value in self._objects.items() if key.startswith(prefix))
        return Listed(tuple(Listing(key, len(body), at_ms) for key, body, at_ms in found), self._now_ms())

    def _body(self, key: str) -> bytes | None:
        held = self._objects.get(key)
        return None if held is None else held[0]


def etag(body: bytes) -> str:
    """Return the ETag that S3 stores give an object of these bytes. Equal bytes have equal ETags."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
