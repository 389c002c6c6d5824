"""Attacks by order: answers and revocations that overtake each other. The feed sends each revocation only once, so the
cache must never lose one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from tests.client.cache.model import controls
from tests.client.cache.model.single import BOUND_MS, Single, branch_of, digest
from tkdb import api, errors
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, Exp
from tkdb_client.cache.cache import Cache
from tkdb_client.cache.in_flight import InFlight


class BranchesForgotten(InFlight):
    """Negative control: revoked branches aren't compared with answers in flight."""

    def unknown_to(self, question: Any, position: int) -> Iterator[api.Revocation]:
        return (each for each in super().unknown_to(question, position) if not isinstance(each, api.Branch))


@pytest.mark.parametrize("has_rule", [True, False])
def test_a_branch_revoked_while_its_parent_is_in_flight_is_never_accepted(has_rule: bool) -> None:
    """The feed sends the branch once. The late answer doesn't include it, and concerns another token, so it is cached.
    The revoked branch must be stored with it."""
    single = Single()
    if not has_rule:
        single.cache._in_flight = BranchesForgotten()
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    single.ask(single.realm.mint(number=1))  # Now the key is followed.
    question, late = single.cache.open(), single.reply()
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.ask(token, late, question) is not None
    for _ in range(3):
        single.now_ms += BOUND_MS - 1
        single.poll()
        assert single.get(token) is not None
        for revoked in (child, child.narrow(Exp(1_900_000_000))):
            if has_rule:
                with pytest.raises(errors.RevokedToken):
                    single.get(revoked)
            else:
                assert single.get(revoked) is not None  # It stays accepted while the feed is followed.


def test_branches_from_an_answer_and_from_the_feed_count_against_one_limit(single: Single) -> None:
    token = single.realm.mint()
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        single.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    child = token.narrow(Act("r"))
    single.ask(single.realm.mint(number=1))
    question, late = single.cache.open(), single.reply()
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.ask(token, late, question) is not None
    assert single.get(token) is not None
    assert single.get(child) is None  # The lineage has too many revoked branches, so the cache can't answer.


def test_no_order_of_answers_and_revocations_leaves_a_revoked_token_cached() -> None:
    """Every order of five steps: two late answers, a poll, the client's revocation, and an answer about another key."""
    for order in permutations(range(5)):
        single = Single()
        token, sibling = single.realm.mint(), single.realm.mint(number=1)
        child = token.narrow(Act("r"))
        single.ask(single.realm.mint(number=2))
        first, second = single.cache.open(), single.cache.open()
        late = single.reply()
        revoked = api.Lineage(sibling.kid, sibling.nonce)
        single.realm.revoke(branch_of(child))
        single.realm.revoke(revoked)
        answer = single.reply()
        steps = [
            lambda s=single, t=token, a=late, q=first: s.ask(t, a, q),
            lambda s=single, t=sibling, a=late, q=second: s.ask(t, a, q),
            lambda s=single: s.poll(),
            lambda s=single, r=revoked, a=answer: s.cache.revoked_here([r], a),
            lambda s=single: s.ask(s.realm.mint(kid=s.realm.kids[1], number=3)),
        ]
        for step in order:
            steps[step]()
        for _ in range(2):
            single.poll()
            for revoked_token in (child, sibling):
                try:
                    found = single.get(revoked_token)
                except errors.RevokedToken:
                    continue
                assert found is None, f"order {order}"


def test_an_overflow_at_a_lower_position_does_not_hide_an_earlier_overflow() -> None:
    """Two followers overflow: the second at a lower position than the first."""
    in_flight = InFlight(most=2)
    question = in_flight.open()
    flood = [api.Lineage(b"k" * 16, number.to_bytes(16)) for number in range(3)]
    in_flight.record(80, flood)
    in_flight.record(60, flood)
    assert in_flight.is_outdated(question, 70)
    assert not in_flight.is_outdated(question, 80)


def test_a_flood_of_older_revocations_does_not_hide_the_client_s_revocation(single: Single) -> None:
    token = single.realm.mint()
    question, late = single.cache.open(), single.reply()
    revoked = api.Lineage(token.kid, token.nonce)
    position = single.realm.revoke(revoked)
    single.cache.revoked_here([revoked], single.reply())
    in_flight = single.cache._in_flight
    in_flight._most = 2
    in_flight.record(position - 1, [api.Lineage(b"z" * 16, number.to_bytes(16)) for number in range(3)])
    assert single.ask(token, late, question) is None
    assert single.get(token) is None


def test_a_key_that_is_dropped_and_followed_again_misses_no_revocation(single: Single) -> None:
    """The poll starts before the last token of the key is dropped, and ends after another token is cached."""
    first, second = single.realm.mint(), single.realm.mint(number=1)
    single.ask(first)
    follower = single.cache.enlist()
    assert follower is not None
    poll = single.cache.next_poll(follower, 10_000)
    assert poll is not None
    sent = single.reply()
    single.cache.revoked_here([api.Lineage(first.kid, first.nonce)], None)  # the only token of its key
    assert single.cache.info().keys == 0
    single.realm.revoke(None)
    single.ask(second)
    single.realm.revoke(api.Lineage(second.kid, second.nonce))
    feed = single.realm.feed(list(poll.kids), single.realm.journal, poll.after, len(single.realm.entries))
    single.cache.apply(follower, poll, feed, sent)
    assert single.get(second) is None


def test_a_poll_with_an_older_position_does_not_refresh_a_newer_answer(single: Single) -> None:
    token = single.realm.mint()
    single.ask(single.realm.mint(number=1))
    follower = single.cache.enlist()
    assert follower is not None
    poll = single.cache.next_poll(follower, 10_000)
    assert poll is not None
    sent = single.reply()  # Nothing is revoked at this time.
    nothing = single.realm.feed(list(poll.kids), single.realm.journal, poll.after, 0)
    single.now_ms += 3_000
    single.realm.revoke(None)
    single.ask(token)
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    single.cache.apply(follower, poll, nothing, sent)
    single.now_ms += BOUND_MS
    assert single.get(token) is not None  # It is still fresh by its own answer.
    single.now_ms += 1
    assert single.get(token) is None


@pytest.mark.parametrize("kind", [api.Lineage, api.KeyRetired, api.IssuedBefore])
def test_a_descendant_is_not_cached_if_its_ancestor_is_dropped_during_the_walk(
    single: Single, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    single.ask(token)
    assert single.get(child) is not None
    keep = Cache._keep_walked
    made: dict[type, api.Revocation] = {
        api.Lineage: api.Lineage(token.kid, token.nonce),
        api.KeyRetired: api.KeyRetired(token.kid),
        api.IssuedBefore: api.IssuedBefore([token.kid], token.issued_ms + 1),
    }

    def late(cache: Cache, *given: Any) -> None:
        single.realm.revoke(made[kind])
        single.poll()
        keep(cache, *given)

    monkeypatch.setattr(Cache, "_keep_walked", late)
    single.get(child)
    monkeypatch.undo()
    assert single.cache.info().entries == 0
    assert single.get(child) is None


def test_a_late_answer_from_the_old_journal_does_not_undo_a_revocation_in_the_new_one(single: Single) -> None:
    """A new journal has lower positions, so the revocation's position is below that of the late answer."""
    token, other = single.realm.mint(), single.realm.mint(number=1)
    single.ask(other)
    question, late = single.cache.open(), single.reply()
    single.realm.fail_over(b"2" * 16)
    revoked = api.Lineage(token.kid, token.nonce)
    single.realm.revoke(revoked)
    single.cache.revoked_here([revoked], single.reply())
    try:
        single.cache.take(question, Bundle(token), digest(Bundle(token)), api.Valid("acme"), late)
    finally:
        single.cache.close(question)
    assert single.get(token) is None
    assert single.get(token.narrow(Act("r"))) is None
    assert isinstance(single.ask(token), errors.RevokedToken)


@pytest.mark.parametrize("has_rule", [True, False])
def test_an_answer_that_is_older_than_an_applied_revocation_is_not_used(has_rule: bool) -> None:
    single = Single()
    if not has_rule:
        controls._with("_in_flight", controls.RevocationsForgotten)(single.cache)
    token, other = single.realm.mint(), single.realm.mint(number=1)
    single.ask(other)  # Now the key is followed.
    question, late = single.cache.open(), single.reply()
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    single.poll()
    result = single.ask(token, late, question)
    assert isinstance(result, errors.RevokedToken) is has_rule
    single.now_ms += BOUND_MS - 1
    assert (single.get(token) is None) is has_rule  # Without the rule, the token is cached now.


def test_a_late_answer_about_a_descendant_of_a_revoked_branch_is_requested_again(single: Single) -> None:
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    grandchild = child.narrow(Exp(1_900_000_000))
    single.ask(single.realm.mint(number=1))
    question, late = single.cache.open(), single.reply()
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.ask(grandchild, late, question) is None
    assert isinstance(single.ask(grandchild), errors.RevokedToken)


def test_a_late_answer_that_no_revocation_concerns_is_accepted(single: Single) -> None:
    token, other = single.realm.mint(), single.realm.mint(number=1)
    single.ask(other)
    question, late = single.cache.open(), single.reply()
    single.realm.revoke(api.Lineage(other.kid, other.nonce))
    single.poll()
    assert single.ask(token, late, question) is not None


def test_an_overflow_of_revocations_makes_queries_in_flight_repeat(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single.cache._in_flight, "_most", 3)
    token = single.realm.mint()
    single.ask(single.realm.mint(number=1))
    question, late = single.cache.open(), single.reply()
    for number in range(5):
        single.realm.revoke(api.Lineage(token.kid, number.to_bytes(16)))
    single.poll()
    assert single.ask(token, late, question) is None
    assert single.ask(token) is not None


@pytest.mark.parametrize("kind", [Cache, controls.JournalIgnored])
def test_a_new_journal_clears_the_cache_and_answers_in_flight_are_not_cached(kind: type[Cache]) -> None:
    single = Single(kind)
    tokens = [single.realm.mint(number=number) for number in range(3)]
    single.ask(tokens[0])
    question, late = single.cache.open(), single.reply()
    single.realm.fail_over(b"2" * 16)
    for _ in range(2):  # The first query was opened in the old journal.
        assert single.ask(tokens[1]) is not None
    assert single.ask(tokens[2], late, question) is not None  # The answer is fresh, but must not be cached.
    forgets = kind is Cache
    assert (single.get(tokens[0]) is None) is forgets
    assert (single.get(tokens[2]) is None) is forgets
    assert (single.get(tokens[1]) is not None) is forgets


def test_a_poll_of_the_old_journal_is_ignored_in_the_new_one(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    follower = single.cache.enlist()
    assert follower is not None
    poll = single.cache.next_poll(follower, 10_000)
    assert poll is not None
    old = single.reply()
    single.realm.fail_over(b"2" * 16)
    for _ in range(2):
        single.ask(token)
    single.cache.apply(follower, poll, api.Feed(old.answer.position, [], more=False), old)
    assert single.get(token) is not None
    assert single.cache.info().age_ms is None


def test_a_position_that_goes_back_clears_the_cache(single: Single) -> None:
    token = single.realm.mint()
    single.realm.revoke(None)
    single.ask(token)
    back = single.reply(known=0, asked=single.realm.position)
    assert single.ask(token, back) is None
    assert single.get(token) is None
