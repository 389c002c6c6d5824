"""The object store, as small as replication needs it: objects that are changed only by compare-and-swap.

Every call ends in one of a few outcomes, and none raises for what the store or the network does. An outcome that
isn't known is ``Unknown``: a put whose answer didn't come may have been done, or may still be done later. Nothing
here ever repeats a request: whoever asked knows best what its own repetition would mean.

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
"""The largest object that is read or written here; databases and their logs are Litestream's."""


@dataclass(frozen=True, slots=True)
class Found:
    """The object, whole. ``date_ms`` is the store's own time of answering (its Date header), here and below."""

    body: bytes = field(repr=False)
    etag: str
    date_ms: int | None


@dataclass(frozen=True, slots=True)
class NotModified:
    """The object is still the one whose ETag was given."""

    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such object."""

    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """The put was done, and the object has this ETag now."""

    etag: str
    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """The put was refused by its own condition (409 or 412).

    Something between may have repeated the request: then an earlier one of the same bytes may have been done. Read.
    """

    date_ms: int | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """There is no such object any more, or there never was."""

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
    """No answer that says what became of the request: a time-out, a reset, or any status that isn't about it.

    Attributes:
        message: what happened, without a secret.
        status: the HTTP status, where there was one.
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
        """Write an object: only over the one with ETag ``if_match``, or only where none is (``"*"``)."""
        ...

    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        """Delete an object."""
        ...

    async def list(self, prefix: str, *, timeout_ms: int) -> Listed | Unknown:
        """List all objects whose keys begin with ``prefix``."""
        ...


class MemoryObjects:
    """A bucket in memory, as strict as the real one must be: for tests, and for the simulation.

    Args:
        now_ms: the store's clock, ms since 1970.
    """

    def __init__(self, *, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._objects: dict[str, tuple[bytes, int]] = {}

    async def get(
        self, key: str, *, if_none_match: str | None = None, timeout_ms: int
    ) -> Found | NotModified | Missing | Unknown:
        """As the port's."""
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
        """As the port's."""
        now_ms, old = self._now_ms(), self._body(key)
        if if_none_match is not None and old is not None:
            return Conflict(now_ms)
        if if_match is not None and (old is None or etag(old) != if_match):
            return Conflict(now_ms)
        self._objects[key] = (body, now_ms)
        return Stored(etag(body), now_ms)

    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        """As the port's."""
        self._objects.pop(key, None)
        return Deleted(self._now_ms())

    async def list(self, prefix: str, *, timeout_ms: int) -> Listed | Unknown:
        """As the port's."""
        found = sorted((key, *value) for key, value in self._objects.items() if key.startswith(prefix))
        return Listed(tuple(Listing(key, len(body), at_ms) for key, body, at_ms in found), self._now_ms())

    def _body(self, key: str) -> bytes | None:
        held = self._objects.get(key)
        return None if held is None else held[0]


def etag(body: bytes) -> str:
    """Return the ETag that S3 stores give an object of these bytes: equal bytes, equal ETag."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
