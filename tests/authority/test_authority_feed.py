"""The authority's feed: followers get every revocation of their keys, and nothing about other organizations."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.authority.world import SKEW_MS, START_MS, World, branch, lineage, run
from tkdb import api, errors
from tkdb.macaroon.caveats import Act, Sub

FOREVER_MS = 30_000


async def _settle() -> None:
    """Let every task run until it waits."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_the_feed_contains_each_kind_of_revocation_in_order() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        child = token.narrow(Act("r"))
        start = world.position
        await world.revoke(branch(child), lineage(token))
        await world.revoke(*(api.Before("acme", START_MS, subject) for subject in (None, "ann")))
        await world.revoke(api.RetireKey(token.kid))
        feed = await world.feed(token.kid, after=start)
        assert feed == api.Feed(
            position=start + 3,
            revocations=[
                api.Branch(token.kid, token.nonce, child.branch),
                api.Lineage(token.kid, token.nonce),
                api.KeyRetired(token.kid),
            ],
            more=False,
        )
        [newer, _] = await world.keys()
        ann = sha256(b"ann").digest()[:16]
        assert (await world.feed(newer.kid, after=start)).revocations == [
            api.IssuedBefore([newer.kid], START_MS + SKEW_MS, [(ann, START_MS + SKEW_MS)]),
        ]

    run(test)


def test_the_feed_and_verification_use_the_same_issued_before_time() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", Sub("ann"))
        for subject in (None, "ann"):
            for _ in range(2):
                await world.revoke(api.Before("acme", subject=subject))
                reported = (await world.feed(token.kid, after=world.position - 1)).revocations[0]
                state = world.authority._state
                ann = sha256(b"ann").digest()[:16]
                verified_ms = state.issued_from("acme", ann) if subject else state.organization("acme").issued_from_ms
                reported_ms = dict(reported.subjects)[ann] if subject else reported.before_ms
                assert reported_ms == verified_ms
                # The next token isn't revoked by the time in the feed, either.
                assert (await world.mint("acme", Sub("ann"))).issued_ms >= reported_ms

    run(test)


def test_a_deleted_organization_is_in_the_feed_of_each_of_its_keys() -> None:
    async def test(world: World) -> None:
        old = await world.mint()
        await world.ask(api.RotateKey("acme"))
        new, other = await world.mint(), await world.mint("evil")
        start = world.position
        await world.ask(api.DeleteOrganization("acme"))
        feed = await world.feed(old.kid, new.kid, other.kid, after=start)
        assert {retired.kid for retired in feed.revocations} == {old.kid, new.kid}
        assert (await world.feed(other.kid, after=start)).revocations == []

    run(test)


def test_the_feed_of_another_organizations_keys_contains_none_of_our_revocations() -> None:
    async def test(world: World) -> None:
        token, theirs = await world.mint(), await world.mint("evil")
        await world.revoke(lineage(token), branch(token), api.Before("acme", subject="ann"), api.RetireKey(token.kid))
        for kids in ([theirs.kid], [bytes(16)], [theirs.kid, bytes(16)]):
            assert (await world.feed(*kids)).revocations == []

    run(test)


def test_the_feed_contains_subjects_only_as_hashes() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", Sub("ann.secret@example.com"))
        await world.revoke(api.Before("acme", subject="ann.secret@example.com"))
        assert b"ann" not in api.encode(await world.feed(token.kid))

    run(test)


# --- long polls ---------------------------------------------------------------------------------------------


def test_a_poll_returns_on_a_revocation_of_its_own_keys_and_on_no_other() -> None:
    async def test(world: World) -> None:
        token, theirs = await world.mint(), await world.mint("evil")
        poll = asyncio.create_task(world.feed(token.kid, after=world.position, wait_ms=FOREVER_MS))
        await _settle()
        await world.revoke(lineage(theirs))
        await world.ask(api.RotateKey("acme"))
        await _settle()
        assert not poll.done()
        await world.revoke(lineage(token))
        feed = await poll
        assert feed.revocations == [api.Lineage(token.kid, token.nonce)]
        assert feed.position == world.position

    run(test)


def test_an_empty_poll_returns_the_position_after_revocations_of_other_keys() -> None:
    async def test(world: World) -> None:
        token, start = await world.mint(), world.position
        poll = asyncio.create_task(world.feed(token.kid, after=start, wait_ms=FOREVER_MS))
        await _settle()
        for _ in range(3):
            await world.revoke(api.Before("evil"))
        await _settle()
        world.advance(FOREVER_MS)
        await world.revoke(lineage(await world.mint("evil")))
        assert await poll == api.Feed(position=start + 4, revocations=[], more=False)

    run(test)


def test_a_poll_without_revocations_ends_after_its_wait() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        poll = asyncio.create_task(world.feed(token.kid, after=world.position, wait_ms=1))
        await _settle()
        world.advance(1)
        assert await poll == api.Feed(position=world.position, revocations=[], more=False)

    run(test)


def test_a_poll_returns_earlier_revocations_at_once() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        await world.revoke(lineage(token))
        assert (await world.feed(token.kid, wait_ms=FOREVER_MS)).revocations

    run(test)


def test_draining_ends_waiting_polls_and_later_polls_do_not_wait() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        polls = [asyncio.create_task(world.feed(token.kid, after=world.position, wait_ms=FOREVER_MS)) for _ in range(3)]
        await _settle()
        world.authority.drain()
        assert {feed.position for feed in await asyncio.gather(*polls)} == {world.position}
        await world.feed(token.kid, after=world.position, wait_ms=FOREVER_MS)
        # All other calls still work.
        await world.revoke(lineage(token))
        assert await world.outcome(token) == "revoked"

    run(test)


def test_a_thousand_polls_wake_on_one_revocation() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        waiting = (world.feed(token.kid, after=world.position, wait_ms=FOREVER_MS) for _ in range(1_000))
        polls = [asyncio.create_task(poll) for poll in waiting]
        await _settle()
        await world.revoke(lineage(token))
        assert {len(feed.revocations) for feed in await asyncio.gather(*polls)} == {1}
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await _settle()
        assert all(task.done() for task in left if task is not world.authority._maintenance)

    run(test)


# --- many pages ---------------------------------------------------------------------------------------------


async def _follow(world: World, kid: bytes, after: int = 0) -> tuple[list[Any], list[api.Feed]]:
    revocations, pages = [], []
    while True:
        page = await world.feed(kid, after=after)
        pages.append(page)
        revocations += page.revocations
        assert page.position >= after
        if not page.more:
            return revocations, pages
        assert page.position > after
        after = page.position


def test_a_follower_far_behind_gets_every_revocation_in_pages(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        kid = (await world.mint()).kid
        noise = (await world.mint("evil")).kid
        expected = []
        for index in range(600):
            nonces = [START_MS.to_bytes(6) + (index * 8 + place).to_bytes(10) for place in range(index % 8)]
            others = (api.Lineage(noise, bytes(16)), api.Before("evil"))
            await world.revoke(*(api.Lineage(kid, nonce) for nonce in nonces), *others)
            expected += [api.Lineage(kid, nonce) for nonce in nonces]
        followed, pages = await _follow(world, kid)
        assert followed == expected
        assert len(pages) > 2
        assert max(len(api.encode(page)) for page in pages) <= api.MAX_PAGE_BYTES + 64
        # After a restart, memory contains no recent entries, so all pages come from the journal.
        await world.restart()
        assert (await _follow(world, kid))[0] == expected
        for after in (1, 57, world.position - 1, world.position, world.position + 10):
            again, _ = await _follow(world, kid, after)
            assert again == expected[len(expected) - len(again) :]

    run(test, tmp_path / "tkdb.db")


def test_a_revocation_too_large_for_one_feed_message_is_refused() -> None:
    async def test(world: World) -> None:
        position, nonce = world.position, START_MS.to_bytes(6) + bytes(10)
        kid = (await world.mint()).kid
        branches = [api.Branch(kid, nonce, index.to_bytes(16)) for index in range(600)]
        with pytest.raises(errors.InvalidRequest, match="don't fit one message of the feed"):
            await world.revoke(*branches, api.Before("acme"))
        assert world.position == position
        await world.revoke(*branches[:500], api.Before("acme"))
        await world.revoke(*branches, *(api.Lineage(kid, nonce) for _ in range(100)))

    run(test)


def test_a_request_with_the_maximum_of_subjects_is_one_revocation_in_the_feed() -> None:
    async def test(world: World) -> None:
        position = world.position
        await world.revoke(*(api.Before("acme", subject=f"s{index}") for index in range(api.MAX_TARGETS)))
        await world.ask(api.RotateKey("acme"))
        kids = [key.kid for key in await world.keys()]
        [reported] = (await world.feed(*kids, after=position)).revocations
        assert (set(reported.kids), len(reported.subjects)) == (set(kids), api.MAX_TARGETS)

    run(test)


def test_an_entry_larger_than_a_page_is_not_split() -> None:
    async def test(world: World) -> None:
        kid = (await world.mint()).kid
        start = world.position
        nonces = [START_MS.to_bytes(6) + index.to_bytes(10) for index in range(api.MAX_TARGETS)]
        for part in (nonces[:900], nonces[900:]):
            await world.revoke(*(api.Lineage(kid, nonce) for nonce in part))
        first = await world.feed(kid, after=start)
        assert len(api.encode(first)) > api.MAX_PAGE_BYTES
        assert (len(first.revocations), first.more, first.position) == (900, True, start + 1)
        followed, _ = await _follow(world, kid, start)
        assert len(followed) == len(nonces)

    run(test)
