"""The head's object, as an attacker who can write to the bucket reads and changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from tests.replication.seaweed import now_ms
from tkdb.journal.seal import SealKey
from tkdb_replication.bucket.objects import Deleted, Found, Stored
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.protocol.head import Head, HeadKeys, decode_head, encode_head

T = TypeVar("T")

_TIMEOUT_MS = 10_000


class HeadObject:
    """The head of one bucket, without the protocol's rules."""

    def __init__(self, bucket: Bucket, seal: SealKey) -> None:
        self._bucket = bucket
        self._keys = HeadKeys([seal])

    def read(self) -> bytes:
        """Return the object's bytes."""
        found = self._do(lambda objects: objects.get(HEAD_KEY, timeout_ms=_TIMEOUT_MS))
        assert isinstance(found, Found)
        return found.body

    def head(self) -> Head:
        """Return the current head."""
        return self.decode(self.read())

    def decode(self, body: bytes) -> Head:
        """Return the head that ``body`` contains."""
        return decode_head(body, self._keys)

    def put(self, body: bytes) -> None:
        """Overwrite the object with any bytes."""
        assert isinstance(self._do(lambda objects: objects.put(HEAD_KEY, body, timeout_ms=_TIMEOUT_MS)), Stored)

    def replace(self, change: Callable[[bytes], bytes]) -> bytes:
        """Replace the object, and return the bytes before: the newest head that any machine can have read."""

        async def swap(objects: S3Objects) -> bytes:
            while True:
                found = await objects.get(HEAD_KEY, timeout_ms=_TIMEOUT_MS)
                assert isinstance(found, Found)
                body = change(found.body)
                outcome = await objects.put(HEAD_KEY, body, if_match=found.etag, timeout_ms=_TIMEOUT_MS)
                if isinstance(outcome, Stored):
                    return found.body

        return self._do(swap)

    def of_another_journal(self, body: bytes) -> bytes:
        """Return the same head for another journal, sealed under the same secret."""
        return encode_head(msgspec.structs.replace(self.decode(body), journal=bytes(16)), self._keys)

    def wipe(self) -> None:
        """Delete the object."""
        assert isinstance(self._do(lambda objects: objects.delete(HEAD_KEY, timeout_ms=_TIMEOUT_MS)), Deleted)

    def _do(self, act: Callable[[S3Objects], Awaitable[T]]) -> T:
        async def done() -> T:
            async with S3Objects(self._bucket, now_ms=now_ms) as objects:
                return await act(objects)

        return asyncio.run(done())
