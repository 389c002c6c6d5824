"""The feed: each key gets exactly its own revocations, in order, and every entry fits one message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import profiles
from tests.journal.scribe import START_MS, Scribe, nonce_at
from tkdb import api
from tkdb.channel.padding import MAX_PAYLOAD_BYTES
from tkdb.database.database import MEMORY, Database
from tkdb.errors import StoreError
from tkdb.journal.entry import Entry
from tkdb.journal.feed import Feed, _Followed, _Notice, _revoked, largest_bytes
from tkdb.journal.fold import CLOCK_SKEW_MS
from tkdb.journal.rows import KeyRow
from tkdb.macaroon.verify import subject_digest
from tkdb_client.operations import target_batches
from tkdb_client.verification.batches import MAX_BODY_BYTES

NONCE, BRANCH = nonce_at(START_MS), b"b" * 16


class FollowedJournal:
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

    async def read_all(
        self, kids: Collection[bytes], after: int = 0, max_bytes: int = api.MAX_PAGE_BYTES
    ) -> list[api.Revocation]:
        seen: list[api.Revocation] = []
        while True:
            page = await self.feed.read(after=after, kids=kids, max_bytes=max_bytes)
            assert page.position > after or not page.more
            seen += page.revocations
            after = page.position
            if not page.more:
                assert after == self.scribe.state.head.seq
                return seen


@pytest.mark.parametrize("recent_targets", [100, 3, 0], ids=["from memory", "from both", "from the journal"])
def test_each_key_gets_exactly_its_own_revocations_in_order(recent_targets: int) -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            f = FollowedJournal()
            await f.write(database, recent_targets)
            assert await f.read_all([f.evil]) == [api.Lineage(kid=f.evil, nonce=NONCE)]
            assert await f.read_all([b"?" * 16]) == []
            assert await f.read_all([f.acme]) == [
                api.Lineage(kid=f.acme, nonce=NONCE),
                api.Branch(kid=f.acme, nonce=NONCE, branch=BRANCH),
                api.KeyRetired(kid=f.acme),
                api.KeyRetired(kid=f.acme),
            ]
            assert await f.read_all([f.newer]) == [api.KeyRetired(kid=f.newer)]

    asyncio.run(run())


def test_an_issued_before_time_covers_every_live_key_of_the_organization() -> None:
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
            assert page.revocations == [api.IssuedBefore([old, new], before_ms, [(ann, before_ms)])]
            assert page.position == s.state.head.seq

    asyncio.run(run())


def test_a_read_from_the_tip_or_beyond_is_empty_and_keeps_its_position() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            f = FollowedJournal()
            await f.write(database, 100)
            head = f.scribe.state.head.seq
            for after in (head, head + 5):
                page = await f.feed.read(after=after, kids=[f.acme])
                assert page == api.Feed(position=after, revocations=[], more=False)

    asyncio.run(run())


def test_the_feed_omits_an_entry_that_the_state_does_not_contain() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            kid = await s.create("acme")
            await database.append(s.state, [s.make(api.Revoke(targets=[api.Lineage(kid=kid, nonce=NONCE)]))])
            page = await Feed(database, s.state).read(after=0, kids=[kid])
            assert page == api.Feed(position=2, revocations=[], more=False)

    asyncio.run(run())


def test_an_entry_larger_than_the_limit_is_a_page_by_itself() -> None:
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
                page = await feed.read(after=after, kids=[kid], max_bytes=150)
                sizes.append(len(page.revocations))
                after, more = page.position, page.more
            assert sizes == [1, 5, 1]

    asyncio.run(run())


@settings(max_examples=profiles.CURRENT.few_examples, deadline=None)
@given(st.integers(0, 8), st.integers(1, 300), st.integers(0, 9))
def test_pages_join_without_gaps_or_repeats_from_any_position(kept: int, max_bytes: int, after: int) -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            f = FollowedJournal()
            await f.write(database, kept)
            kids = [f.acme, f.evil, f.newer]
            everything = await Feed(database, f.scribe.state).read(after=after, kids=kids)
            assert await f.read_all(kids, after, max_bytes) == everything.revocations

    asyncio.run(run())


def test_reading_the_feed_fails_if_its_journal_was_set_aside(tmp_path: Path) -> None:
    """A machine may set a damaged database aside while it is still fresh enough to answer."""

    async def run() -> None:
        async with await Database.open(tmp_path / "tkdb.db") as database:
            s = Scribe(database)
            await s.begin()
            kid = await s.create("acme")
            start = s.state.head.seq
            await s.revoke(api.Lineage(kid=kid, nonce=NONCE))
            feed = Feed(database, s.state)  # as after a start: only the journal contains the entries
            assert (await feed.read(after=start, kids=[kid])).revocations
            await database.set_aside("damaged")
            with pytest.raises(StoreError):
                await feed.read(after=start, kids=[kid])

    asyncio.run(run())


class InterruptedDatabase:
    """A database that calls ``interrupt`` before each read of entries."""

    def __init__(self, database: Database, interrupt: Callable[[], Awaitable[object]]) -> None:
        self._database = database
        self._interrupt = interrupt

    async def entries(self, after: int, limit: int) -> list[Entry]:
        await self._interrupt()
        return await self._database.entries(after, limit)


def test_a_page_does_not_depend_on_writes_during_its_read() -> None:
    """The key is live at the page's end and retired by a later entry, so the page contains its issued-before time."""

    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            kid = await s.create("acme")
            start = s.state.head.seq
            await s.revoke(api.Before(organization="acme", before_ms=5))
            interrupted: Any = InterruptedDatabase(database, lambda: s.revoke(api.RetireKey(kid=kid)))
            page = await Feed(interrupted, s.state).read(after=start, kids=[kid])
            assert page.position == start + 1
            assert not page.more
            assert [type(event) for event in page.revocations] == [api.IssuedBefore]

    asyncio.run(run())


# --- every entry fits one message -----------------------------------------------------------------------------------


def _answer_bytes(feed: api.Feed) -> int:
    """Return the largest size of an answer that contains ``feed``."""
    last = 2**53 - 1
    feed = api.Feed(last, feed.revocations, more=feed.more)
    return len(api.encode(api.Answer(b"j" * 16, last, last, result=msgspec.Raw(api.encode(feed)))))


def _nonces(count: int) -> list[bytes]:
    return [nonce_at(START_MS + number) for number in range(count)]


BRANCHES: list[api.Target] = [api.Branch(b"k" * 16, nonce, BRANCH) for nonce in _nonces(MAX_BODY_BYTES // 84)]
SUBJECTS: list[api.Target] = [api.Before("acme", subject=f"s{number}") for number in range(api.MAX_TARGETS)]
ORGANIZATIONS: list[api.Target] = [api.Before(f"o{number}") for number in range(api.MAX_TARGETS)]
SUBJECT_OF_EACH: list[api.Target] = [api.Before(f"o{number}", subject="ann") for number in range(api.MAX_TARGETS)]


@pytest.mark.parametrize(
    "targets",
    [
        BRANCHES,
        [api.Lineage(b"k" * 16, nonce) for nonce in _nonces(1024)],
        [api.RetireKey(b"k" * 16)] * 1024,
        SUBJECTS,
        [*SUBJECTS[:-1], api.Before("acme")],
        ORGANIZATIONS,
        SUBJECT_OF_EACH,
        [*ORGANIZATIONS[:512], *SUBJECT_OF_EACH[:512]],
        [*BRANCHES[:500], *SUBJECTS[:100]],
        [*BRANCHES, api.Before("acme")],
    ],
    ids=[
        "branches",
        "lineages",
        "retired keys",
        "subjects",
        "subjects and their organization",
        "organizations",
        "a subject of each organization",
        "organizations and a subject of each",
        "branches and subjects",
        "too many branches and an organization",
    ],
)
def test_the_revocations_of_an_entry_fit_one_message_for_the_maximum_of_keys(
    targets: list[api.Target],
) -> None:
    """Test as many of the targets as one entry may have. The authority refuses a write with more."""
    while largest_bytes(api.Revoke(targets)) > api.MAX_FEED_BYTES:
        targets = targets[1:]
    events = _events_for_the_maximum_of_keys(targets)
    assert sum(len(event.kids) for event in events if isinstance(event, api.IssuedBefore)) in {0, api.MAX_KIDS}
    assert sum(len(api.encode(event)) for event in events) <= largest_bytes(api.Revoke(targets))
    assert _answer_bytes(api.Feed(0, events, more=False)) <= MAX_PAYLOAD_BYTES


def _events_for_the_maximum_of_keys(targets: list[api.Target]) -> list[api.Revocation]:
    """Return the revocations for a client that follows the maximum of keys, of all the named organizations."""
    names = list(dict.fromkeys(target.organization for target in targets if isinstance(target, api.Before)))
    keys = {b"k" * 16: _key(b"k" * 16, "other")} if not names else {}
    for number in range(api.MAX_KIDS if names else 0):
        kid = b"k" * 16 if number == 0 else number.to_bytes(16)
        keys[kid] = _key(kid, names[number % len(names)])
    state: Any = SimpleNamespace(key=keys.get)
    return list(_Followed(state, list(keys)).events(_Notice(1, len(targets), _revoked(targets, START_MS))))


def _key(kid: bytes, organization: str) -> KeyRow:
    return KeyRow(kid, organization, 1, "verifying", None, b"")


def test_a_deleted_organization_and_a_restore_fit_one_message() -> None:
    """The feed contains each followed key once."""
    kids = [number.to_bytes(16) for number in range(api.MAX_KIDS)]
    state: Any = SimpleNamespace(key={kid: _key(kid, "acme") for kid in kids}.get)
    followed = _Followed(state, kids)
    retired = [number.to_bytes(16) for number in range(4 * api.MAX_KIDS)]
    for revoked in ([api.DeleteOrganization("acme")], [api.RetireKey(kid) for kid in retired]):
        events = list(followed.events(_Notice(1, 1, list(revoked))))
        assert events == [api.KeyRetired(kid) for kid in kids]
        assert _answer_bytes(api.Feed(0, events, more=False)) <= MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    "targets", [ORGANIZATIONS, SUBJECT_OF_EACH, SUBJECTS, [*BRANCHES[:511], SUBJECTS[0]], [*BRANCHES]]
)
def test_no_batch_that_the_client_makes_is_refused_for_its_size(targets: list[api.Target]) -> None:
    for batch in target_batches(targets):
        assert largest_bytes(api.Revoke(batch)) <= api.MAX_FEED_BYTES


def test_a_page_of_the_maximum_of_subjects_and_of_newer_keys_fits_one_message() -> None:
    """An entry is never split over pages. An entry of 1,024 subjects fits a request. If the feed contained one
    revocation for each subject and key, the page wouldn't fit an answer, and every poll of these keys would fail."""

    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            kids = [await s.create("acme"), await s.rotate("acme")]
            feed = Feed(database, s.state)
            start = s.state.head.seq
            revoke = api.Revoke(SUBJECTS)
            assert len(api.encode(revoke)) < MAX_BODY_BYTES
            feed.add(await s.revoke(*revoke.targets))
            kids.append(await s.rotate("acme"))
            page = await feed.read(after=start, kids=kids)
            assert _answer_bytes(page) < MAX_PAYLOAD_BYTES
            by_key = [api.IssuedBefore([kid], 0, [each]) for kid in kids for each in page.revocations[0].subjects]
            assert _answer_bytes(api.Feed(0, [*by_key], more=False)) > MAX_PAYLOAD_BYTES

    asyncio.run(run())


def test_entries_too_large_for_one_message_are_read_in_pages_that_fit() -> None:
    async def run() -> None:
        async with await Database.open(MEMORY) as database:
            s = Scribe(database)
            await s.begin()
            kids = [await s.create("acme"), await s.rotate("acme")]
            feed = Feed(database, s.state)
            start = after = s.state.head.seq
            for _ in range(5):
                feed.add(await s.revoke(*SUBJECTS))
            pages = 0
            more = True
            while more:
                page = await feed.read(after=after, kids=kids)
                assert _answer_bytes(page) <= MAX_PAYLOAD_BYTES
                after, more, pages = page.position, page.more, pages + 1
            assert (after - start, pages) == (5, 5)

    asyncio.run(run())
