"""The head's object as the commands change it: an outcome that isn't known is resolved by reading, never guessed."""

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
    """A bucket in memory of which ``faults`` befall the puts, one each: "before" it is done, or "after"."""

    def __init__(self, *faults: str) -> None:
        super().__init__(now_ms=lambda: 0)
        self.faults = list(faults)
        self.meanwhile: Callable[[], None] = lambda: None
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
            self.meanwhile()
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
def test_a_put_whose_answer_is_lost_is_done_once_all_the_same(faults: list[str]) -> None:
    there = put(Lossy(*faults))
    assert isinstance(there, Sound)
    assert there.head == OURS


def test_a_put_that_may_never_be_answered_is_said_to_be_unknown() -> None:
    objects = Lossy("before", "before", "before")
    with pytest.raises(errors.OutcomeUnknown):
        put(objects)
    assert objects.puts == 3


def test_who_comes_second_changes_nothing() -> None:
    objects = Lossy()
    objects.place(THEIRS)
    with pytest.raises(errors.Conflict):
        put(objects)
    there = asyncio.run(read_head(objects, KEYS))
    assert isinstance(there, Sound)
    assert there.head == THEIRS


def test_who_is_overtaken_while_its_answer_is_lost_learns_of_it() -> None:
    objects = Lossy("before")
    objects.meanwhile = lambda: objects.place(THEIRS)
    with pytest.raises(errors.Conflict):
        put(objects)


def test_a_head_is_replaced_only_while_it_is_the_one_that_was_read() -> None:
    objects = Lossy("after")
    objects.place(THEIRS)
    read = asyncio.run(read_head(objects, KEYS))
    objects.place(msgspec.structs.replace(THEIRS, rev=1))
    with pytest.raises(errors.Conflict):
        put(objects, over=read)
    read = asyncio.run(read_head(objects, KEYS))
    objects.faults = ["after"]
    there = put(objects, over=read)
    assert isinstance(there, Sound)
    assert there.head == OURS


def test_what_lies_there_is_told_apart() -> None:
    objects = Lossy()
    assert asyncio.run(read_head(objects, KEYS)) == Absent()
    asyncio.run(objects.put(HEAD_KEY, b"someone's", timeout_ms=1))
    there = asyncio.run(read_head(objects, KEYS))
    assert isinstance(there, Damaged)
    assert (there.body, type(there.error)) == (b"someone's", errors.BrokenHead)
    assert "someone" not in repr(there)


def test_a_store_that_does_not_answer_is_neither_with_nor_without_a_head() -> None:
    class Silent(MemoryObjects):
        async def get(
            self, key: str, *, if_none_match: str | None = None, timeout_ms: int
        ) -> Found | NotModified | Missing | Unknown:
            return LOST

    with pytest.raises(errors.Unavailable, match="the answer was lost"):
        asyncio.run(read_head(Silent(now_ms=lambda: 0), KEYS))


def test_a_head_in_words_names_its_primary() -> None:
    led = msgspec.structs.replace(OURS, owner=b"o" * 16, machine="m1", region="syd", epoch=3)
    assert describe(led) == "epoch 3, entry 0, primary m1 in syd"
