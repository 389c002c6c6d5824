from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.scribe import START_MS, Scribe, nonce_at
from tkdb import api
from tkdb.errors import StoreError
from tkdb.macaroon.verify import subject_digest
from tkdb.store.database import MEMORY, Database
from tkdb.store.feed import Feed
from tkdb.store.fold import CLOCK_SKEW_MS
from tkdb.store.journal import Entry
from tkdb_client.batches import MAX_BODY_BYTES

NONCE, BRANCH = nonce_at(START_MS), b"b" * 16


class Followed:
    """A journal with two organizations and one revocation of each kind, and its feed."""

    async def write(self, database: Database, recent_targets: int) -> None:
        s = self.scribe = Scribe(database)
        await s.begin()
        self.feed = Feed(database, s.state, recent_targets=recent_targets)
        self.acme = await s.create("acme")
        self.evil = await s.create("evil")
        for targets in (
            [api.Lineage(kid=self.acme, nonce=NONCE)],
            [api.Branch(kid=self.acme, nonce=NONCE, branch=BRANCH), api.Lineage(kid=self.evil, nonce=NONCE)],
            [api.Before(organization="acme", before_ms=5)],
            [api.Before(organization="acme", subject="ann")],
            [api.RetireKey(kid=self.acme)],
        ):
            self.feed.add(await s.revoke(*targets))
        self.newer = s.state.signing_key("acme").kid
        self.feed.add(await s.purge())
        self.feed.add(await s.delete("acme"))

    async def all(self, kids: Collection[bytes], after: int = 0, limit: int = 512) -> list[api.Revocation]:
        seen: list[api.Revocation] = []
        while True:
            page = await self.feed.read(after=after, kids=kids, limit=limit)
            assert page.position > after or not page.more
            seen += page.revocations
            after = page.position
            if not page.more:
                assert after == self.scribe.state.head.seq
                return seen


@pytest.mark.parametrize("recent_targets", [100, 3, 0], ids=["from memory", "from both", "from the journal"])
def test_each_key_sees_what_touches_it_in_order_and_nothing_else(recent_targets: int) -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            f = Followed()
            await f.write(database, recent_targets)
            assert await f.all([f.evil]) == [api.Lineage(kid=f.evil, nonce=NONCE)]
            assert await f.all([b"?" * 16]) == []
            assert await f.all([f.acme]) == [
                api.Lineage(kid=f.acme, nonce=NONCE),
                api.Branch(kid=f.acme, nonce=NONCE, branch=BRANCH),
                api.KeyRetired(kid=f.acme),
                api.KeyRetired(kid=f.acme),
            ]
            assert await f.all([f.newer]) == [api.KeyRetired(kid=f.newer)]

    asyncio.run(run())


def test_times_reach_every_live_key_of_the_organization() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            feed = Feed(database, s.state)
            old = await s.create("acme")
            new = await s.rotate("acme")
            other = await s.create("evil")
            start = s.state.head.seq
            feed.add(await s.revoke(api.Before(organization="acme"), api.Before(organization="acme", subject="ann")))
            page = await feed.read(after=start, kids=[old, other, new, old])
            before_ms, ann = START_MS + CLOCK_SKEW_MS, subject_digest("ann")
            assert page.revocations == [
                api.IssuedBefore(kid=old, before_ms=before_ms),
                api.IssuedBefore(kid=new, before_ms=before_ms),
                api.SubjectIssuedBefore(kid=old, subject=ann, before_ms=before_ms),
                api.SubjectIssuedBefore(kid=new, subject=ann, before_ms=before_ms),
            ]
            assert page.position == s.state.head.seq

    asyncio.run(run())


def test_who_asks_from_the_end_or_beyond_it_sees_nothing_and_keeps_the_position() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            f = Followed()
            await f.write(database, 100)
            head = f.scribe.state.head.seq
            for after in (head, head + 5):
                page = await f.feed.read(after=after, kids=[f.acme])
                assert page == api.Feed(position=after, revocations=[], more=False)

    asyncio.run(run())


def test_an_entry_that_the_state_does_not_show_is_not_shown() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            kid = await s.create("acme")
            await database.append(s.state, [s.make(api.Revoke(targets=[api.Lineage(kid=kid, nonce=NONCE)]))])
            page = await Feed(database, s.state).read(after=0, kids=[kid])
            assert page == api.Feed(position=2, revocations=[], more=False)

    asyncio.run(run())


def test_an_entry_larger_than_the_limit_comes_whole_and_alone() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            feed = Feed(database, s.state)
            kid = await s.create("acme")
            start = s.state.head.seq
            for count in (1, 5, 1):
                targets = [api.Lineage(kid=kid, nonce=nonce_at(START_MS + i)) for i in range(count)]
                feed.add(await s.revoke(*targets))
            sizes = []
            after, more = start, True
            while more:
                page = await feed.read(after=after, kids=[kid], limit=2)
                sizes.append(len(page.revocations))
                after, more = page.position, page.more
            assert sizes == [1, 5, 1]

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 8), st.integers(1, 4), st.integers(0, 9))
def test_pages_join_without_gaps_or_repeats_wherever_they_are_read_from(kept: int, limit: int, after: int) -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            f = Followed()
            await f.write(database, kept)
            kids = [f.acme, f.evil, f.newer]
            everything = await Feed(database, f.scribe.state).read(after=after, kids=kids)
            assert await f.all(kids, after, limit) == everything.revocations

    asyncio.run(run())


def test_a_journal_that_was_set_aside_while_its_state_is_shown_does_not_read_as_no_news(tmp_path: Path) -> None:
    """A damaged database is replaced by an empty one, while the machine is still fresh enough to answer."""

    async def run() -> None:
        async with await Database.open(tmp_path / "tkdb.db") as database:
            s = Scribe(database)
            await s.begin()
            kid = await s.create("acme")
            start = s.state.head.seq
            await s.revoke(api.Lineage(kid=kid, nonce=NONCE))
            feed = Feed(database, s.state)  # as after a start: what it shows lies in the journal only
            assert (await feed.read(after=start, kids=[kid])).revocations
            await database.set_aside("damaged")
            with pytest.raises(StoreError):
                await feed.read(after=start, kids=[kid])

    asyncio.run(run())


class Overtaken:
    """A database whose reads take so long that something happens meanwhile."""

    def __init__(self, database: Database, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._database = database
        self._meanwhile = meanwhile

    async def entries(self, after: int, limit: int) -> list[Entry]:
        await self._meanwhile()
        return await self._database.entries(after, limit)


def test_what_a_page_tells_does_not_depend_on_what_happens_while_it_is_read() -> None:
    """A key that is retired behind the page's end was live at its end: what was issued before is told of it."""

    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            kid = await s.create("acme")
            start = s.state.head.seq
            await s.revoke(api.Before(organization="acme", before_ms=5))
            slow: Any = Overtaken(database, lambda: s.revoke(api.RetireKey(kid=kid)))
            page = await Feed(slow, s.state).read(after=start, kids=[kid])
            assert page.position == start + 1
            assert not page.more
            assert [type(event) for event in page.revocations] == [api.IssuedBefore]

    asyncio.run(run())


@pytest.mark.xfail(strict=True, reason="an entry whose events fill more than one message stops the feed")
def test_every_page_fits_one_message() -> None:
    """An entry isn't split over pages. One of 1,024 subjects fits a request, and what it means for two keys doesn't fit
    an answer: the poll fails, each time, and with it the 1,022 other keys that it asks for."""

    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            kids = [await s.create("acme"), await s.rotate("acme")]
            feed = Feed(database, s.state)
            start = s.state.head.seq
            revoke = api.Revoke([api.Before("acme", subject=f"s{number}") for number in range(api.MAX_TARGETS)])
            assert len(api.encode(revoke)) < MAX_BODY_BYTES
            feed.add(await s.revoke(*revoke.targets))
            page = await feed.read(after=start, kids=kids)
            assert len(api.encode(page)) < MAX_BODY_BYTES

    asyncio.run(run())
