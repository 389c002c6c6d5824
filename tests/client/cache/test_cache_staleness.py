"""The cache returns a result only while the result is provably fresh. The negative controls show the opposite."""

from __future__ import annotations

import pytest

from tests.client.cache.model import controls
from tests.client.cache.model.single import BOUND_MS, Single, branch_of
from tkdb import api
from tkdb.macaroon.bundle import Bundle
from tkdb_client.cache.cache import Cache


@pytest.mark.parametrize("kind", [Cache, controls.AgeIgnored])
def test_the_machine_s_age_the_network_time_and_the_cache_time_add_up(kind: type[Cache]) -> None:
    single = Single(kind)
    token = single.realm.mint()
    sent_ms = single.now_ms
    single.now_ms += 1_000
    single.ask(token, single.reply(age_ms=2_000, sent_ms=sent_ms))
    single.now_ms = sent_ms + BOUND_MS - 2_000
    assert single.get(token) is not None
    single.now_ms += 1
    assert (single.get(token) is None) is (kind is Cache)
    assert single.cache.was_known(Bundle(token)) is (kind is Cache)


def test_a_poll_dates_followed_tokens_by_its_send_time_and_the_machine_s_age(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.now_ms += 4_000
    single.poll(age_ms=1_500)
    single.now_ms += 3_500
    assert single.get(token) is not None
    single.now_ms += 1
    assert single.get(token) is None


def test_a_stale_token_is_fresh_again_when_the_feed_has_caught_up(single: Single) -> None:
    kept, revoked = single.realm.mint(), single.realm.mint(number=1)
    for token in (kept, revoked):
        single.ask(token)
    single.now_ms += 60_000 - 1
    assert single.get(kept) is None
    single.realm.revoke(api.Lineage(revoked.kid, revoked.nonce))
    single.poll()
    assert single.get(kept) is not None
    assert single.get(revoked) is None


@pytest.mark.parametrize("kind", [Cache, controls.EveryPageDated])
def test_a_feed_page_that_is_not_the_last_refreshes_nothing(kind: type[Cache]) -> None:
    single = Single(kind)
    token = single.realm.mint()
    single.ask(token)
    for number in range(2):
        single.realm.revoke(api.Lineage(token.kid, number.to_bytes(16)))
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    single.now_ms += BOUND_MS + 1
    follower = single.cache.enlist()
    assert follower is not None
    poll = single.cache.next_poll(follower, 10_000)
    assert poll is not None
    page = single.realm.feed(list(poll.kids), single.realm.journal, poll.after, 3, limit=1)
    single.cache.apply(follower, poll, page, single.reply())
    assert (single.get(token) is None) is (kind is Cache)


def test_a_new_key_is_followed_from_the_position_of_its_verification(single: Single) -> None:
    first, second = (single.realm.mint(kid=kid) for kid in single.realm.kids[:2])
    single.ask(first)
    question, late = single.cache.open(), single.reply()
    single.realm.revoke(branch_of(second))
    single.poll()  # The poll concerns only the key of the first token.
    assert single.ask(second, late, question) is not None
    single.poll()
    assert single.get(second) is None


def test_a_new_key_that_is_followed_from_the_feed_s_position_misses_a_revocation() -> None:
    single = Single()
    controls._with("_followed", controls.GapsIgnored)(single.cache)
    first, second = (single.realm.mint(kid=kid) for kid in single.realm.kids[:2])
    single.ask(first)
    question, late = single.cache.open(), single.reply()
    single.realm.revoke(branch_of(second))
    single.poll()
    single.ask(second, late, question)
    single.poll()
    single.now_ms += BOUND_MS
    assert single.get(second) is not None
