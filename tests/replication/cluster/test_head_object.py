"""A command changes the head's object. If it doesn't know the outcome, it reads the head, and never guesses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import msgspec
import pytest

from tkdb import errors
from tkdb.journal.seal import SealKey
from tkdb_replication.bucket.objects import Conflict, Found, MemoryObjects, Missing, NotModified, Stored, Unknown
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.cluster.head_object import Absent, Damaged, Sound, describe, put_head, read_head
from tkdb_replication.protocol.head import BEGINNING, NOBODY, Head, HeadKeys, encode_head, first_head

KEYS = HeadKeys([SealKey(bytes(32))])
LOST = Unknown("the answer was lost")


def head(base: str) -> Head:
    return first_head(journal=b"j" * 16, attempt=b"a" * 16, owner=NOBODY, base=base, place=BEGINNING, epoch=1)


OURS, THEIRS = head("ours"), head("theirs")


class Lossy(MemoryObjects):
    """A bucket in memory that loses puts ("before") or their answers ("after"), as the next of ``faults`` demands.

    ``before_loss`` is called before a put is lost.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__(now_ms=lambda: 0)
        self.faults = list(faults)
        self.before_loss: Callable[[], None] = lambda: None
        self.puts = 0

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_match: str | None = None,
        if_none_match: Literal["*"] | None = None,
        timeout_ms: int,
    ) -> Stored | Conflict | Unknown:
        self.puts += 1
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            self.before_loss()
            return LOST
        outcome = await super().put(key, body, if_match=if_match, if_none_match=if_none_match, timeout_ms=timeout_ms)
        return LOST if fault == "after" else outcome

    def place(self, head: Head) -> None:
        self._objects[HEAD_KEY] = (encode_head(head, KEYS), 0)


def put(objects: MemoryObjects, over: Sound | Damaged | Absent | None = None) -> Sound | Damaged | Absent:
    async def run() -> Sound | Damaged | Absent:
        await put_head(objects, OURS, KEYS, over=over or Absent())
        return await read_head(objects, KEYS)

    return asyncio.run(run())


@pytest.mark.parametrize("faults", [[], ["after"], ["before"], ["before", "after"], ["before", "before"]])
def test_a_put_succeeds_although_answers_are_lost(faults: list[str]) -> None:
    found = put(Lossy(*faults))
    assert isinstance(found, Sound)
    assert found.head == OURS


def test_a_put_without_an_answer_is_unknown_after_three_attempts() -> None:
    objects = Lossy("before", "before", "before")
    with pytest.raises(errors.OutcomeUnknown):
        put(objects)
    assert objects.puts == 3


def test_a_put_over_another_head_is_a_conflict_and_changes_nothing() -> None:
    objects = Lossy()
    objects.place(THEIRS)
    with pytest.raises(errors.Conflict):
        put(objects)
    found = asyncio.run(read_head(objects, KEYS))
    assert isinstance(found, Sound)
    assert found.head == THEIRS


def test_a_put_that_is_overtaken_while_its_answer_is_lost_is_a_conflict() -> None:
    objects = Lossy("before")
    objects.before_loss = lambda: objects.place(THEIRS)
    with pytest.raises(errors.Conflict):
        put(objects)


def test_a_head_is_replaced_only_if_it_is_unchanged_since_it_was_read() -> None:
    objects = Lossy("after")
    objects.place(THEIRS)
    read = asyncio.run(read_head(objects, KEYS))
    objects.place(msgspec.structs.replace(THEIRS, rev=1))
    with pytest.raises(errors.Conflict):
        put(objects, over=read)
    read = asyncio.run(read_head(objects, KEYS))
    objects.faults = ["after"]
    found = put(objects, over=read)
    assert isinstance(found, Sound)
    assert found.head == OURS


def test_an_absent_head_and_a_damaged_head_are_distinguished() -> None:
    objects = Lossy()
    assert asyncio.run(read_head(objects, KEYS)) == Absent()
    asyncio.run(objects.put(HEAD_KEY, b"someone's", timeout_ms=1))
    found = asyncio.run(read_head(objects, KEYS))
    assert isinstance(found, Damaged)
    assert (found.body, type(found.error)) == (b"someone's", errors.BrokenHead)
    assert "someone" not in repr(found)


def test_a_head_is_neither_present_nor_absent_if_the_store_does_not_answer() -> None:
    class Unanswering(MemoryObjects):
        async def get(
            self, key: str, *, if_none_match: str | None = None, timeout_ms: int
        ) -> Found | NotModified | Missing | Unknown:
            return LOST

    with pytest.raises(errors.Unavailable, match="the answer was lost"):
        asyncio.run(read_head(Unanswering(now_ms=lambda: 0), KEYS))


def test_the_description_of_a_head_names_its_primary() -> None:
    led = msgspec.structs.replace(OURS, owner=b"o" * 16, machine="m1", region="syd", epoch=3)
    assert describe(led) == "epoch 3, entry 0, primary m1 in syd"
