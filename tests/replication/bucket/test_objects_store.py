"""The store in memory and a real S3 store keep the same rules, and a store that breaks a rule is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest

from tests.replication.conftest import now_ms
from tkdb import errors
from tkdb_replication.bucket.conformance import check_store
from tkdb_replication.bucket.objects import (
    Conflict,
    Deleted,
    Found,
    Listed,
    MemoryObjects,
    Missing,
    NotModified,
    Objects,
    Stored,
    Unknown,
)
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket

pytestmark = pytest.mark.real_start

TIMEOUT_MS = 10_000
DATE_MS = 1_800_000_000_000

Trial = Callable[[Objects], Coroutine[Any, Any, None]]
OnStore = Callable[[Trial], None]


@pytest.fixture(params=["memory", "s3"])
def on_store(request: pytest.FixtureRequest) -> OnStore:
    """Return a function that runs a trial on one kind of store."""
    if request.param == "memory":
        return lambda trial: asyncio.run(trial(MemoryObjects(now_ms=lambda: DATE_MS)))
    bucket: Bucket = request.getfixturevalue("empty_bucket")

    async def on_s3(trial: Trial) -> None:
        async with S3Objects(bucket, now_ms=now_ms) as objects:
            await trial(objects)

    return lambda trial: asyncio.run(on_s3(trial))


def test_an_object_can_be_put_read_and_deleted(on_store: OnStore) -> None:
    async def trial(objects: Objects) -> None:
        assert isinstance(await objects.get("a/b c+d", timeout_ms=TIMEOUT_MS), Missing)
        stored = await objects.put("a/b c+d", b"\x00body", timeout_ms=TIMEOUT_MS)
        assert isinstance(stored, Stored)
        found = await objects.get("a/b c+d", timeout_ms=TIMEOUT_MS)
        assert isinstance(found, Found)
        assert (found.body, found.etag) == (b"\x00body", stored.etag)
        unchanged = await objects.get("a/b c+d", if_none_match=stored.etag, timeout_ms=TIMEOUT_MS)
        assert isinstance(unchanged, NotModified)
        assert isinstance(await objects.delete("a/b c+d", timeout_ms=TIMEOUT_MS), Deleted)
        assert isinstance(await objects.delete("a/b c+d", timeout_ms=TIMEOUT_MS), Deleted)
        assert isinstance(await objects.get("a/b c+d", timeout_ms=TIMEOUT_MS), Missing)

    on_store(trial)


def test_an_object_is_created_only_once(on_store: OnStore) -> None:
    async def trial(objects: Objects) -> None:
        assert isinstance(await objects.put("k", b"1", if_none_match="*", timeout_ms=TIMEOUT_MS), Stored)
        assert isinstance(await objects.put("k", b"2", if_none_match="*", timeout_ms=TIMEOUT_MS), Conflict)

    on_store(trial)


def test_only_the_version_that_was_read_is_replaced(on_store: OnStore) -> None:
    async def trial(objects: Objects) -> None:
        assert isinstance(await objects.put("k", b"0", if_match='"0"', timeout_ms=TIMEOUT_MS), Conflict)
        first = await objects.put("k", b"1", timeout_ms=TIMEOUT_MS)
        assert isinstance(first, Stored)
        assert isinstance(await objects.put("k", b"2", if_match=first.etag, timeout_ms=TIMEOUT_MS), Stored)
        assert isinstance(await objects.put("k", b"3", if_match=first.etag, timeout_ms=TIMEOUT_MS), Conflict)
        found = await objects.get("k", if_none_match=first.etag, timeout_ms=TIMEOUT_MS)
        assert isinstance(found, Found)
        assert found.body == b"2"

    on_store(trial)


def test_every_answer_contains_the_stores_time(on_store: OnStore) -> None:
    async def trial(objects: Objects) -> None:
        stored = await objects.put("k", b"1", timeout_ms=TIMEOUT_MS)
        assert isinstance(stored, Stored)
        answers = [
            stored,
            await objects.put("k", b"1", if_none_match="*", timeout_ms=TIMEOUT_MS),
            await objects.get("k", timeout_ms=TIMEOUT_MS),
            await objects.get("k", if_none_match=stored.etag, timeout_ms=TIMEOUT_MS),
            await objects.get("none", timeout_ms=TIMEOUT_MS),
            await objects.list("", timeout_ms=TIMEOUT_MS),
            await objects.delete("k", timeout_ms=TIMEOUT_MS),
        ]
        for answer in answers:
            assert not isinstance(answer, Unknown)
            assert answer.date_ms is not None
            assert min(abs(answer.date_ms - now_ms()), abs(answer.date_ms - DATE_MS)) < 60_000

    on_store(trial)


def test_a_list_contains_only_the_objects_under_its_prefix(on_store: OnStore) -> None:
    async def trial(objects: Objects) -> None:
        for key in ("b/2", "b/1 &<x>", "a", "bb"):
            assert isinstance(await objects.put(key, b"12345", timeout_ms=TIMEOUT_MS), Stored)
        listed = await objects.list("b/", timeout_ms=TIMEOUT_MS)
        assert isinstance(listed, Listed)
        assert [(found.key, found.size_bytes) for found in listed.objects] == [("b/1 &<x>", 5), ("b/2", 5)]
        assert all(
            abs(found.modified_ms - now_ms()) < 60_000 or found.modified_ms == DATE_MS for found in listed.objects
        )
        empty = await objects.list("none/", timeout_ms=TIMEOUT_MS)
        assert isinstance(empty, Listed)
        assert empty.objects == ()

    on_store(trial)


def test_a_conforming_store_passes_the_check_and_keeps_none_of_its_objects(on_store: OnStore) -> None:
    async def trial(objects: Objects) -> None:
        await check_store(objects, random_bytes=random.Random(1).randbytes)
        listed = await objects.list("", timeout_ms=TIMEOUT_MS)
        assert isinstance(listed, Listed)
        assert listed.objects == ()

    on_store(trial)


class _DistantStore(MemoryObjects):
    """A distant store in memory, which counts round trips.

    Each trip carries at most ``connections`` requests.
    """

    def __init__(self, connections: int) -> None:
        super().__init__(now_ms=lambda: DATE_MS)
        self._connections = connections
        self._waiting: list[asyncio.Future[None]] = []
        self.trips = 0

    async def run_until(self, done: asyncio.Future[Any]) -> None:
        """Make round trips until ``done``. Each starts once no further request joins it."""
        while not done.done():
            before = -1
            while before != len(self._waiting):
                before = len(self._waiting)
                for _ in range(10):
                    await asyncio.sleep(0)
            sent = self._waiting[: self._connections]
            del self._waiting[: self._connections]
            self.trips += bool(sent)
            for request in sent:
                request.set_result(None)

    async def _trip(self) -> None:
        self._waiting.append(asyncio.get_running_loop().create_future())
        await self._waiting[-1]

    async def put(
        self, key: str, body: bytes, *, if_match: str | None = None, if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:  # fmt: skip
        await self._trip()
        return await super().put(key, body, if_match=if_match, if_none_match=if_none_match, timeout_ms=timeout_ms)

    async def get(
        self, key: str, *, if_none_match: str | None = None, timeout_ms: int
    ) -> Found | NotModified | Missing | Unknown:
        await self._trip()
        return await super().get(key, if_none_match=if_none_match, timeout_ms=timeout_ms)

    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        await self._trip()
        return await super().delete(key, timeout_ms=timeout_ms)


def test_the_check_takes_at_most_15_round_trips_with_32_connections() -> None:
    """A distant machine can't become primary before this check ends, so the check must take few round trips."""

    async def trips(connections: int) -> int:
        distant = _DistantStore(connections)
        checking = asyncio.ensure_future(check_store(distant, random_bytes=random.Random(1).randbytes))
        await distant.run_until(checking)
        await checking
        return distant.trips

    assert asyncio.run(trips(32)) <= 15
    assert asyncio.run(trips(1)) > 100


class _FaultyStore(MemoryObjects):
    """A store in memory. Each subclass breaks one rule."""

    def __init__(self) -> None:
        super().__init__(now_ms=lambda: DATE_MS)


class _IgnoresIfMatch(_FaultyStore):
    async def put(
        self, key: str, body: bytes, *, if_match: str | None = None, if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:  # fmt: skip
        return await super().put(key, body, if_none_match=if_none_match, timeout_ms=timeout_ms)


class _IgnoresIfNoneMatch(_FaultyStore):
    async def put(
        self, key: str, body: bytes, *, if_match: str | None = None, if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:  # fmt: skip
        return await super().put(key, body, if_match=if_match, timeout_ms=timeout_ms)


class _ChecksThenWrites(_FaultyStore):
    """Checks the condition and writes a moment later. A single put is right, but racing puts aren't."""

    async def put(
        self, key: str, body: bytes, *, if_match: str | None = None, if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:  # fmt: skip
        held = await self.get(key, timeout_ms=timeout_ms)
        if if_none_match and isinstance(held, Found):
            return Conflict(DATE_MS)
        if if_match and not (isinstance(held, Found) and held.etag == if_match):
            return Conflict(DATE_MS)
        await asyncio.sleep(0)
        return await super().put(key, body, timeout_ms=timeout_ms)


class _CreatesTwice(_ChecksThenWrites):
    """Allows a race only between puts that create the object."""

    async def put(
        self, key: str, body: bytes, *, if_match: str | None = None, if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:  # fmt: skip
        kind = MemoryObjects if if_match else _ChecksThenWrites
        return await kind.put(self, key, body, if_match=if_match, if_none_match=if_none_match, timeout_ms=timeout_ms)


class _ReadsPreviousVersion(_FaultyStore):
    """Reads the version before the last write, as a copy in another region may."""

    def __init__(self) -> None:
        super().__init__()
        self._previous: dict[str, bytes] = {}

    async def put(
        self, key: str, body: bytes, *, if_match: str | None = None, if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:  # fmt: skip
        held = self._body(key)
        outcome = await super().put(key, body, if_match=if_match, if_none_match=if_none_match, timeout_ms=timeout_ms)
        if isinstance(outcome, Stored) and held is not None:
            self._previous[key] = held
        return outcome

    async def get(
        self, key: str, *, if_none_match: str | None = None, timeout_ms: int
    ) -> Found | NotModified | Missing | Unknown:
        if key in self._previous:
            previous = MemoryObjects(now_ms=lambda: DATE_MS)
            await previous.put(key, self._previous[key], timeout_ms=timeout_ms)
            return await previous.get(key, if_none_match=if_none_match, timeout_ms=timeout_ms)
        return await super().get(key, if_none_match=if_none_match, timeout_ms=timeout_ms)


class _KeepsDeletedObjects(_FaultyStore):
    async def delete(self, key: str, *, timeout_ms: int) -> Deleted | Unknown:
        return Deleted(DATE_MS)


class _RefusesEveryPut(_FaultyStore):
    async def put(
        self, key: str, body: bytes, *, if_match: str | None = None, if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:  # fmt: skip
        return Conflict(DATE_MS)


class _IgnoresConditionsOnReads(_FaultyStore):
    async def get(
        self, key: str, *, if_none_match: str | None = None, timeout_ms: int
    ) -> Found | NotModified | Missing | Unknown:
        return await super().get(key, timeout_ms=timeout_ms)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (_IgnoresIfMatch, "If-Match with another ETag doesn't keep"),
        (_IgnoresIfNoneMatch, "If-None-Match: \\* doesn't keep"),
        (_ChecksThenWrites, "of 8 racing puts with If-Match, 8 succeeded, and only one may"),
        (_CreatesTwice, "of 8 racing puts with If-None-Match: \\*, 8 succeeded, and only one may"),
        (_ReadsPreviousVersion, "doesn't see"),
        (_KeepsDeletedObjects, "still finds the object"),
        (_RefusesEveryPut, "where nothing is was refused"),
        (_IgnoresConditionsOnReads, "gives it again"),
    ],
)
def test_a_nonconforming_store_is_refused_and_the_broken_rule_is_named(kind: type[_FaultyStore], names: str) -> None:
    with pytest.raises(errors.UnfitObjectStore, match=names) as caught:
        asyncio.run(check_store(kind(), random_bytes=random.Random(1).randbytes))
    assert caught.value.hint


def test_a_store_that_does_not_answer_is_unavailable_not_unfit() -> None:
    class Unanswering(_FaultyStore):
        async def get(
            self, key: str, *, if_none_match: str | None = None, timeout_ms: int
        ) -> Found | NotModified | Missing | Unknown:
            return Unknown("it didn't answer within 5 ms")

    with pytest.raises(errors.Unavailable, match="within 5 ms"):
        asyncio.run(check_store(Unanswering(), random_bytes=random.Random(1).randbytes))
