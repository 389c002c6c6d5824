"""Attacks by order: answers and news that overtake each other, and what would be missed for good if one were lost."""

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


class BranchesOfNewsForgotten(InFlight):
    """Negative control: news of a branch that the minted token itself isn't in is taken for no news."""

    def unknown_to(self, question: Any, position: int) -> Iterator[api.Revocation]:
        return (each for each in super().unknown_to(question, position) if not isinstance(each, api.Branch))


@pytest.mark.parametrize("kept", [True, False])
def test_a_branch_revoked_while_its_minted_parent_s_answer_was_on_the_way_is_never_walked_to(kept: bool) -> None:
    """The feed has told of the branch, and won't again; the late answer doesn't know of it, and isn't concerned by it:
    so it is kept, and the branch must be kept with it."""
    single = Single()
    if not kept:
        single.cache._in_flight = BranchesOfNewsForgotten()
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    single.ask(single.realm.mint(number=1))  # so that the key is followed
    question, late = single.cache.open(), single.told()
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.ask(token, late, question) is not None
    for _ in range(3):
        single.now_ms += BOUND_MS - 1
        single.poll()
        assert single.get(token) is not None
        for revoked in (child, child.attenuate(Exp(1_900_000_000))):
            if kept:
                with pytest.raises(errors.RevokedToken):
                    single.get(revoked)
            else:
                assert single.get(revoked) is not None  # for as long as the feed is followed


def test_branches_told_and_branches_heard_add_up_to_too_many_as_they_should(single: Single) -> None:
    token = single.realm.mint()
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        single.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    child = token.attenuate(Act("r"))
    single.ask(single.realm.mint(number=1))
    question, late = single.cache.open(), single.told()
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.ask(token, late, question) is not None
    assert single.get(token) is not None
    assert single.get(child) is None  # none of them are known: it is asked about


def test_whatever_order_news_and_answers_come_in_no_token_is_known_that_either_has_ended() -> None:
    """Every order of: two answers that were sent before, the news, one's own revocation, and the end of another key."""
    for order in permutations(range(5)):
        single = Single()
        token, sibling = single.realm.mint(), single.realm.mint(number=1)
        child = token.attenuate(Act("r"))
        single.ask(single.realm.mint(number=2))
        first, second = single.cache.open(), single.cache.open()
        late = single.told()
        revoked = api.Lineage(sibling.kid, sibling.nonce)
        single.realm.revoke(branch_of(child))
        single.realm.revoke(revoked)
        answer = single.told()
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
            for dead in (child, sibling):
                try:
                    found = single.get(dead)
                except errors.RevokedToken:
                    continue
                assert found is None, f"order {order}"


def test_news_once_lost_stays_lost_when_less_far_news_is_lost_too() -> None:
    """Two followers: the second one's flood comes from a lower position than the first one's."""
    news = InFlight(most=2)
    question = news.open()
    flood = [api.Lineage(b"k" * 16, number.to_bytes(16)) for number in range(3)]
    news.record(80, flood)
    news.record(60, flood)
    assert news.is_outdated(question, 70)
    assert not news.is_outdated(question, 80)


def test_an_own_revocation_is_not_forgotten_for_a_flood_of_older_news(single: Single) -> None:
    token = single.realm.mint()
    question, late = single.cache.open(), single.told()
    revoked = api.Lineage(token.kid, token.nonce)
    position = single.realm.revoke(revoked)
    single.cache.revoked_here([revoked], single.told())
    news = single.cache._in_flight
    news._most = 2
    news.record(position - 1, [api.Lineage(b"z" * 16, number.to_bytes(16)) for number in range(3)])
    assert single.ask(token, late, question) is None
    assert single.get(token) is None


def test_a_key_that_was_let_go_and_taken_up_again_hears_what_came_in_between(single: Single) -> None:
    """A long poll that began before the key's last token went, and ends after another came."""
    first, second = single.realm.mint(), single.realm.mint(number=1)
    single.ask(first)
    follower = single.cache.enlist()
    assert follower is not None
    poll = single.cache.next_poll(follower, 10_000)
    assert poll is not None
    sent = single.told()
    single.cache.revoked_here([api.Lineage(first.kid, first.nonce)], None)  # the only one of its key
    assert single.cache.info().keys == 0
    single.realm.revoke(None)
    single.ask(second)
    single.realm.revoke(api.Lineage(second.kid, second.nonce))
    feed = single.realm.feed(list(poll.kids), single.realm.journal, poll.after, len(single.realm.entries))
    single.cache.apply(follower, poll, feed, sent)
    assert single.get(second) is None


def test_a_long_poll_that_knew_less_than_an_answer_makes_it_no_fresher_than_it_knew(single: Single) -> None:
    token = single.realm.mint()
    single.ask(single.realm.mint(number=1))
    follower = single.cache.enlist()
    assert follower is not None
    poll = single.cache.next_poll(follower, 10_000)
    assert poll is not None
    sent = single.told()  # now: nothing has been revoked yet
    nothing = single.realm.feed(list(poll.kids), single.realm.journal, poll.after, 0)
    single.now_ms += 3_000
    single.realm.revoke(None)
    single.ask(token)
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    single.cache.apply(follower, poll, nothing, sent)
    single.now_ms += BOUND_MS
    assert single.get(token) is not None  # by its own answer, still
    single.now_ms += 1
    assert single.get(token) is None


@pytest.mark.parametrize("kind", [api.Lineage, api.KeyRetired, api.IssuedBefore])
def test_a_walked_token_is_not_kept_when_its_parent_has_gone_meanwhile(
    single: Single, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
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


def test_an_own_revocation_in_another_journal_is_not_undone_by_a_late_answer_from_the_old_one(single: Single) -> None:
    """After a recovery positions begin anew: the revocation's is lower than what the late answer is dated by."""
    token, other = single.realm.mint(), single.realm.mint(number=1)
    single.ask(other)
    question, late = single.cache.open(), single.told()
    single.realm.fail_over(b"2" * 16)
    revoked = api.Lineage(token.kid, token.nonce)
    single.realm.revoke(revoked)
    single.cache.revoked_here([revoked], single.told())
    try:
        single.cache.take(question, Bundle(token), digest(Bundle(token)), api.Valid("org-0"), late)
    finally:
        single.cache.close(question)
    assert single.get(token) is None
    assert single.get(token.attenuate(Act("r"))) is None
    assert isinstance(single.ask(token), errors.RevokedToken)


@pytest.mark.parametrize("kept", [True, False])
def test_an_answer_from_before_a_revocation_that_comes_after_it_is_not_believed(kept: bool) -> None:
    single = Single()
    if not kept:
        controls._with("_in_flight", controls.NewsForgotten)(single.cache)
    token, other = single.realm.mint(), single.realm.mint(number=1)
    single.ask(other)  # so that the key is followed
    question, late = single.cache.open(), single.told()
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    single.poll()
    result = single.ask(token, late, question)
    assert isinstance(result, errors.RevokedToken) is kept
    single.now_ms += BOUND_MS - 1
    assert (single.get(token) is None) is kept  # without the rule it would be known now


def test_a_late_answer_on_a_descendant_of_a_revoked_branch_is_asked_for_again(single: Single) -> None:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    grandchild = child.attenuate(Exp(1_900_000_000))
    single.ask(single.realm.mint(number=1))
    question, late = single.cache.open(), single.told()
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.ask(grandchild, late, question) is None
    assert isinstance(single.ask(grandchild), errors.RevokedToken)


def test_a_late_answer_that_the_news_does_not_concern_is_kept(single: Single) -> None:
    token, other = single.realm.mint(), single.realm.mint(number=1)
    single.ask(other)
    question, late = single.cache.open(), single.told()
    single.realm.revoke(api.Lineage(other.kid, other.nonce))
    single.poll()
    assert single.ask(token, late, question) is not None


def test_more_news_than_is_kept_makes_open_questions_be_asked_again(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single.cache._in_flight, "_most", 3)
    token = single.realm.mint()
    single.ask(single.realm.mint(number=1))
    question, late = single.cache.open(), single.told()
    for number in range(5):
        single.realm.revoke(api.Lineage(token.kid, number.to_bytes(16)))
    single.poll()
    assert single.ask(token, late, question) is None
    assert single.ask(token) is not None


@pytest.mark.parametrize("kind", [Cache, controls.JournalIgnored])
def test_another_journal_makes_all_be_forgotten_also_in_mid_flight(kind: type[Cache]) -> None:
    single = Single(kind)
    tokens = [single.realm.mint(number=number) for number in range(3)]
    single.ask(tokens[0])
    question, late = single.cache.open(), single.told()
    single.realm.fail_over(b"2" * 16)
    for _ in range(2):  # what the first of them was asked for was of the old one still
        assert single.ask(tokens[1]) is not None
    assert single.ask(tokens[2], late, question) is not None  # fresh, and not to be kept
    forgets = kind is Cache
    assert (single.get(tokens[0]) is None) is forgets
    assert (single.get(tokens[2]) is None) is forgets
    assert (single.get(tokens[1]) is not None) is forgets


def test_a_poll_of_the_old_journal_that_ends_in_the_new_one_counts_for_nothing(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    follower = single.cache.enlist()
    assert follower is not None
    poll = single.cache.next_poll(follower, 10_000)
    assert poll is not None
    old = single.told()
    single.realm.fail_over(b"2" * 16)
    for _ in range(2):
        single.ask(token)
    single.cache.apply(follower, poll, api.Feed(old.answer.position, [], more=False), old)
    assert single.get(token) is not None
    assert single.cache.info().age_ms is None


def test_a_position_that_goes_back_makes_all_be_forgotten_and_asked_again(single: Single) -> None:
    token = single.realm.mint()
    single.realm.revoke(None)
    single.ask(token)
    back = single.told(known=0, asked=single.realm.position)
    assert single.ask(token, back) is None
    assert single.get(token) is None
