"""Attacks on the client's cache: none has what it shouldn't have, and with the protection off it would."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.caching import controls
from tests.client.caching.realm import NAME, NOW_MS, Realm
from tests.client.caching.single import BOUND_MS, Single, digest
from tkdb import api, errors
from tkdb.armor import b64url
from tkdb.macaroon import verify
from tkdb.macaroon.access import Access, Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, App, Exp, Req, Res, Sub
from tkdb.macaroon.chain import link
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import append, decode_text, encode_text
from tkdb_client import cache as module
from tkdb_client.attempts import Told
from tkdb_client.cache import Cache
from tkdb_client.entries import LINEAGE_ENTRIES_MAX

READ = Access(action="r", now_s=NOW_MS / 1000)


@pytest.fixture
def single() -> Single:
    return Single()


def branch_of(token: Macaroon) -> api.Branch:
    return api.Branch(token.kid, token.nonce, token.branch)


# --- aliasing --------------------------------------------------------------------------------------------------------


def test_nothing_that_one_caller_does_to_a_result_is_seen_by_another(single: Single) -> None:
    token = single.realm.mint(Exp(2_000_000_000), Res("app", {"shop": "r"}), App("tags", ["a"]), App("map", {"a": 1}))
    single.ask(token)
    first = single.look(token)
    assert first is not None
    with pytest.raises(AttributeError):
        first.organization = "other"  # type: ignore[misc]
    for caveat in first.caveats:
        with pytest.raises(AttributeError):
            caveat.tag = 1  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        first.caveats[1].ids["shop"] = "rwcdC"  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        first.caveats[3].value["a"] = 2  # type: ignore[union-attr]
    assert isinstance(first.caveats, tuple)
    assert isinstance(first.macaroon.packets, tuple)
    attenuated = first.macaroon.attenuate(Act("r"))
    second = single.look(token)
    assert second is not None
    assert second.caveats == token.caveats != attenuated.caveats
    assert second.macaroon == token


# --- variants of one token -------------------------------------------------------------------------------------------


def test_one_token_has_one_entry_however_it_is_written(single: Single) -> None:
    token = single.realm.mint()
    variants = [token.text, b64url(token.raw), f"Bearer {token.text}", f"bEARER   {token.text} ", f" {token.text}\n"]
    for text in variants:
        found = single.look(text)
        bundle = Bundle.from_header(text) if text[:7].lower() == "bearer " else Bundle.parse(text.strip())
        if found is None:
            assert single.find(bundle.root) is not None or single.ask(bundle).macaroon == token
    info = single.cache.info()
    assert (info.entries, info.lineages) == (1, 1)
    for text in variants:
        found = single.look(text)
        assert (found or single.find(token)).macaroon == token  # type: ignore[union-attr]


@given(st.data())
def test_no_other_text_of_a_known_token_or_its_child_is_accepted(data: st.DataObject) -> None:
    single = Single()
    token = single.realm.mint()
    single.ask(token)
    text = data.draw(st.sampled_from([token.text, token.attenuate(Act("r")).text]))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABab09-_+/= .,"))
    changed = data.draw(
        st.sampled_from([text[:at] + other + text[at + 1 :], text[:at] + other + text[at:], text[:at], text + other])
    )
    if changed.strip() == text:
        return
    try:
        found = single.look(changed)
    except errors.Denied:
        return
    assert found is None


# --- confusion of keys -----------------------------------------------------------------------------------------------


def test_what_shares_a_lineage_s_name_and_nothing_else_is_not_found(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    raw, identifier = token.raw, token.identifier
    at = raw.index(identifier)
    other_m = raw[:at] + identifier[:-1] + b"\x01" + raw[at + 34 :]
    other_place = raw.replace(NAME.encode(), b"evil.test")
    other_place = other_place[:2] + bytes([9]) + other_place[3:]
    assert Macaroon.parse(other_m).lineage == Macaroon.parse(other_place).lineage == token.lineage
    for forged in (other_m, other_place):
        assert single.look(encode_text(forged)) is None
        assert single.find(Macaroon.parse(forged)) is None


def test_the_same_nonce_under_another_key_is_another_lineage(single: Single) -> None:
    one, other = (single.realm.mint(kid=kid, number=7) for kid in single.realm.kids[:2])
    assert one.nonce == other.nonce
    single.ask(one)
    assert single.look(one) is not None
    assert single.look(other) is None
    assert single.look(other.attenuate(Act("r"))) is None


def test_a_bundle_with_discharges_is_never_served_from_the_cache(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    bundle = Bundle(token, (token.raw,))
    assert single.look(bundle.text) is None
    assert single.cache.find(bundle, digest(bundle)) is None
    assert not single.cache.was_known(bundle)


# --- poisoning -------------------------------------------------------------------------------------------------------


def forgeries(child: Macaroon) -> list[bytes]:
    return [
        child.raw[:at] + bytes([child.raw[at] ^ flip]) + child.raw[at + 1 :]
        for at in range(len(child.raw))
        for flip in (1, 0x80)
    ]


def test_a_forged_descendant_is_denied_and_leaves_nothing_behind(single: Single) -> None:
    token = single.realm.mint()
    child = token.attenuate(Act("r"), Exp(1_900_000_000))
    single.ask(token)
    for _ in range(3):  # what is seen twice is kept
        for forged in forgeries(child):
            try:
                assert single.look(encode_text(forged)) is None
            except errors.Denied:
                continue
    assert single.cache.info().entries == 1
    assert single.look(child) is not None


def test_without_the_comparison_of_its_end_a_forged_descendant_would_be_accepted(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = single.realm.mint()
    single.ask(token)
    child = token.attenuate(Act("r"))
    forged = child.raw[:-1] + bytes([child.raw[-1] ^ 1])
    with pytest.raises(errors.BadSignature):
        single.look(encode_text(forged))
    monkeypatch.setattr("tkdb.macaroon.descent.compare_digest", lambda _a, _b: True)
    assert single.look(encode_text(forged)) is not None


def test_of_what_stands_before_all_is_compared_and_not_the_tail_alone(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain can be walked from a known tail under any prefix."""
    token = single.realm.mint(Exp(2_000_000_000), Sub("kim"), Act("r"))
    single.ask(token)
    child = token.attenuate(Exp(1_900_000_000))
    altered = child.raw.replace(b'["act","r"]', b'["act","w"]')
    assert single.look(encode_text(altered)) is None
    monkeypatch.setattr(
        module,
        "_ancestor",
        lambda lineage, text, _since: (entry := lineage.entries[0], decode_text(text)[entry.body_bytes :]),
    )
    found = single.look(encode_text(altered))
    assert found is not None  # where it isn't compared
    assert found.macaroon == child  # and even so, what is believed is what was known


@given(known=st.integers(1, 5), at=st.integers(0, 10_000), with_=st.integers(0, 127))
def test_no_other_text_than_its_own_is_accepted_for_a_descendant(known: int, at: int, with_: int) -> None:
    single = Single()
    token = single.realm.mint(Sub("k" * known))  # so that the stem ends in each place of a group
    single.ask(token)
    text = token.attenuate(Act("r")).text
    at %= len(text)
    other = text[:at] + chr(with_) + text[at + 1 :]
    try:
        found = single.cache.look(other)
    except errors.Denied:
        return
    assert found is None or other.strip() == text


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        (b'["sub","root"]', errors.CaveatUnmet),
        (b'["usr","root"]', errors.CaveatUnmet),
        (b'["new",1]', errors.UnknownCaveat),
        (b'["act", "r"]', errors.UnknownCaveat),
    ],
)
def test_a_descendant_s_own_words_are_read_as_strictly_as_the_authority_reads(
    single: Single, packet: bytes, error: type[errors.Denied]
) -> None:
    token = single.realm.mint()
    single.ask(token)
    raw = append(token.raw, [packet], link(token.tail, packet))
    with pytest.raises(error) as here:
        single.look(encode_text(raw))
    there = single.realm.verify(encode_text(raw), 0)
    assert isinstance(there, api.Invalid)
    assert (there.reason, there.message, there.caveat) == (here.value.reason, here.value.message, here.value.caveat)


def test_a_descendant_beyond_the_limits_is_denied(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    most = token.attenuate(*(Exp(1_900_000_000 + each) for each in range(64 - 3)))
    assert single.look(most) is not None
    packet = b'["act","r"]'
    with pytest.raises(errors.OverLimit):
        single.look(encode_text(append(most.raw, [packet], link(most.tail, packet))))


# --- revoked branches ------------------------------------------------------------------------------------------------


def revoked_before_it_is_known(single: Single) -> Macaroon:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    single.realm.revoke(branch_of(child))
    single.ask(token)
    return child


def revoked_while_it_is_known(single: Single) -> Macaroon:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    single.ask(token)
    for _ in range(3):
        assert single.look(child) is not None
    single.realm.revoke(branch_of(child))
    single.poll()
    return child


@pytest.mark.parametrize("setting", [revoked_before_it_is_known, revoked_while_it_is_known])
def test_a_child_of_a_revoked_branch_is_denied_though_its_parent_is_known(
    single: Single, setting: Callable[[Single], Macaroon]
) -> None:
    child = setting(single)
    for revoked in (child, child.attenuate(Exp(1_900_000_000))):
        with pytest.raises(errors.RevokedToken):
            single.look(revoked)


@pytest.mark.parametrize(
    ("setting", "control"),
    [
        (revoked_before_it_is_known, controls.BranchesUntold),
        (revoked_while_it_is_known, controls.BranchesNotLookedUp),
        (revoked_while_it_is_known, controls.deaf(api.Branch)),
    ],
)
def test_without_the_branches_that_child_would_be_accepted(
    setting: Callable[[Single], Macaroon], control: type[Cache]
) -> None:
    single = Single(control)
    assert single.look(setting(single).attenuate(Exp(1_900_000_000))) is not None


def test_with_more_revoked_branches_than_are_told_only_the_very_token_is_known(single: Single) -> None:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        single.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    single.ask(token)
    assert single.look(token) is not None
    assert single.look(child) is None


def test_what_can_not_be_shown_to_be_outside_a_revoked_branch_is_asked_about_again(single: Single) -> None:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    grandchild = child.attenuate(Exp(1_900_000_000))
    single.ask(grandchild)  # neither token nor child was ever shown here
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.look(grandchild) is None
    assert isinstance(single.ask(grandchild), errors.RevokedToken)


def test_a_minted_token_stays_known_when_a_branch_of_its_lineage_is_revoked(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.realm.revoke(branch_of(token.attenuate(Act("r"))))
    single.poll()
    assert single.look(token) is not None
    assert single.look(token.attenuate(Act("w"))) is not None


def test_a_token_that_is_kept_while_its_branch_is_revoked_is_not_kept(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between walking a token and keeping it, the feed tells that it is revoked; its parent stays."""
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    single.ask(token)
    assert single.look(child) is not None
    keep = Cache._keep_walked

    def late(cache: Cache, *given: Any) -> None:
        single.realm.revoke(branch_of(child))
        single.poll()
        keep(cache, *given)

    monkeypatch.setattr(Cache, "_keep_walked", late)
    single.look(child)
    monkeypatch.undo()
    with pytest.raises(errors.RevokedToken):
        single.look(child)


# --- every kind of revocation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda token: api.Lineage(token.kid, token.nonce),
        lambda token: api.Branch(token.kid, token.nonce, token.branch),
        lambda token: api.IssuedBefore([token.kid], token.issued_ms + 1),
        lambda token: api.IssuedBefore([token.kid], subjects=[(verify.subject_digest("kim"), token.issued_ms + 1)]),
        lambda token: api.KeyRetired(token.kid),
    ],
    ids=["lineage", "branch", "issued before", "subject", "key"],
)
@pytest.mark.parametrize("hears", [True, False])
def test_a_token_of_which_the_feed_tells_is_known_no_more_nor_is_its_child(
    make: Callable[[Macaroon], api.Revocation], hears: bool
) -> None:
    token = Realm().mint()
    revocation = make(token)
    single = Single(Cache if hears else controls.deaf(type(revocation)))
    other = single.realm.mint(kid=single.realm.kids[1], number=1)
    for each in (token, other):
        single.ask(each)
    child = token.attenuate(Act("r"))
    for _ in range(3):
        assert single.look(child) is not None
    single.realm.revoke(revocation)
    single.poll()
    known = {single.look(token) is not None, single.look(child) is not None}
    assert known == {not hears}  # without the rule it would be
    assert single.look(other) is not None


@pytest.mark.parametrize(
    "revocation",
    [
        api.IssuedBefore([Realm().kids[0]], NOW_MS),
        api.IssuedBefore([Realm().kids[0]], subjects=[(verify.subject_digest("kim"), NOW_MS)]),
        api.IssuedBefore([Realm().kids[0]], subjects=[(verify.subject_digest("lee"), NOW_MS + 1)]),
        api.IssuedBefore([Realm().kids[1]], NOW_MS + 1),
        api.Lineage(Realm().kids[1], Realm().mint().nonce),
    ],
)
def test_a_token_that_a_revocation_does_not_cover_stays_known(single: Single, revocation: api.Revocation) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.realm.revoke(revocation)
    single.poll()
    assert single.look(token) is not None


# --- expiry ----------------------------------------------------------------------------------------------------------


def test_a_child_of_an_expired_parent_is_not_cleared(single: Single) -> None:
    now_s = NOW_MS // 1000
    token = single.realm.mint(Exp(now_s + 10), Act("r"))
    single.ask(token)
    child = token.attenuate(Exp(now_s + 1_000))
    found = single.look(child)
    assert found is not None
    found.clear(READ)
    with pytest.raises(errors.ExpiredToken) as denied:
        found.clear(msgspec.structs.replace(READ, now_s=now_s + 11))
    assert denied.value.caveat == 1


def test_a_decision_is_never_kept(single: Single) -> None:
    token = single.realm.mint(Exp(2_000_000_000), Act("r"), Req(("GET",), ("/a",)))
    single.ask(token)
    found = single.look(token)
    assert found is not None
    allowed = msgspec.structs.replace(READ, method="GET", path="/a")
    for access, clears in [(allowed, True), (READ, False), (allowed, True)]:
        if clears:
            found.clear(access)
        else:
            with pytest.raises(errors.CaveatUnmet):
                found.clear(access)


# --- answers that come late, and other journals ----------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_an_answer_from_before_a_revocation_that_comes_after_it_is_not_believed(kept: bool) -> None:
    single = Single()
    if not kept:
        controls._with("_news", controls.NewsForgotten)(single.cache)
    token, other = single.realm.mint(), single.realm.mint(number=1)
    single.ask(other)  # so that the key is followed
    question, late = single.cache.open(), single.told()
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    single.poll()
    result = single.ask(token, late, question)
    assert isinstance(result, errors.RevokedToken) is kept
    single.now_ms += BOUND_MS - 1
    assert (single.look(token) is None) is kept  # without the rule it would be known now


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
    monkeypatch.setattr(single.cache._news, "_most", 3)
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
    assert (single.look(tokens[0]) is None) is forgets
    assert (single.look(tokens[2]) is None) is forgets
    assert (single.look(tokens[1]) is not None) is forgets


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
    single.cache.hear(follower, poll, api.Feed(old.answer.position, [], more=False), old)
    assert single.look(token) is not None
    assert single.cache.info().age_ms is None


def test_a_position_that_goes_back_makes_all_be_forgotten_and_asked_again(single: Single) -> None:
    token = single.realm.mint()
    single.realm.revoke(None)
    single.ask(token)
    back = single.told(known=0, asked=single.realm.position)
    assert single.ask(token, back) is None
    assert single.look(token) is None


# --- staleness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Cache, controls.AgeIgnored])
def test_the_machine_s_age_the_way_and_the_cache_s_time_are_one_staleness(kind: type[Cache]) -> None:
    single = Single(kind)
    token = single.realm.mint()
    sent_ms = single.now_ms
    single.now_ms += 1_000
    single.ask(token, single.told(age_ms=2_000, sent_ms=sent_ms))
    single.now_ms = sent_ms + BOUND_MS - 2_000
    assert single.look(token) is not None
    single.now_ms += 1
    assert (single.look(token) is None) is (kind is Cache)
    assert single.cache.was_known(Bundle(token)) is (kind is Cache)


def test_a_followed_token_is_as_fresh_as_the_poll_was_when_it_was_sent_less_the_machine_s_age(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.now_ms += 4_000
    single.poll(age_ms=1_500)
    single.now_ms += 3_500
    assert single.look(token) is not None
    single.now_ms += 1
    assert single.look(token) is None


def test_what_grew_too_old_is_known_again_when_the_feed_has_told_all_since(single: Single) -> None:
    kept, revoked = single.realm.mint(), single.realm.mint(number=1)
    for token in (kept, revoked):
        single.ask(token)
    single.now_ms += 60_000 - 1
    assert single.look(kept) is None
    single.realm.revoke(api.Lineage(revoked.kid, revoked.nonce))
    single.poll()
    assert single.look(kept) is not None
    assert single.look(revoked) is None


@pytest.mark.parametrize("kind", [Cache, controls.DatedThoughMore])
def test_a_page_of_the_feed_that_is_not_the_last_makes_nothing_fresher(kind: type[Cache]) -> None:
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
    single.cache.hear(follower, poll, page, single.told())
    assert (single.look(token) is None) is (kind is Cache)


def test_a_key_that_the_feed_has_passed_is_followed_from_where_its_token_was_verified(single: Single) -> None:
    first, second = (single.realm.mint(kid=kid) for kid in single.realm.kids[:2])
    single.ask(first)
    question, late = single.cache.open(), single.told()
    single.realm.revoke(branch_of(second))
    single.poll()  # of the first one's key only
    assert single.ask(second, late, question) is not None
    single.poll()
    assert single.look(second) is None


def test_without_that_the_revocation_in_between_would_be_missed() -> None:
    single = Single()
    controls._with("_followed", controls.GapsIgnored)(single.cache)
    first, second = (single.realm.mint(kid=kid) for kid in single.realm.kids[:2])
    single.ask(first)
    question, late = single.cache.open(), single.told()
    single.realm.revoke(branch_of(second))
    single.poll()
    single.ask(second, late, question)
    single.poll()
    single.now_ms += BOUND_MS
    assert single.look(second) is not None


# --- negatives -------------------------------------------------------------------------------------------------------


def test_a_denial_is_kept_for_the_very_bundle_and_for_a_moment(single: Single) -> None:
    token = single.realm.mint()
    forged = Macaroon.parse(token.raw[:-1] + bytes([token.raw[-1] ^ 1]))
    assert isinstance(single.ask(forged), errors.BadSignature)
    again = single.find(forged)
    assert isinstance(again, errors.BadSignature)
    assert single.find(forged) is not again  # an error carries its raising: each caller has his own
    assert single.find(token) is None
    single.now_ms += 10_000
    assert single.find(forged) is None


def test_what_may_be_otherwise_in_a_moment_is_not_kept_as_denied(single: Single) -> None:
    token = single.realm.mint()
    bundle = Bundle(token)
    for reason in errors.Reason:
        question = single.cache.open()
        single.cache.take(question, bundle, digest(bundle), api.Invalid(reason, "why"), single.told())
        single.cache.close(question)
        kept = single.find(token) is not None
        assert kept == (reason not in {"truncated", "unknown key", "not yet valid", "stale", "discharge invalid"})
        single.cache.clear()


def test_any_number_of_denials_pushes_out_nothing_that_is_known() -> None:
    single = Single(max_bytes=40_000)
    token = single.realm.mint()
    single.ask(token)
    for number in range(500):
        forged = single.realm.mint(number=number + 1)
        single.ask(Macaroon.parse(forged.raw[:-1] + bytes([forged.raw[-1] ^ 1])))
    assert single.look(token) is not None
    assert len(single.cache._negatives) <= 40_000 // 16 // 512


def test_a_token_that_the_authority_calls_revoked_is_dropped_at_once(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert single.look(token) is None


@pytest.mark.parametrize("kind", [Cache, controls.LineageDropped])
def test_who_holds_a_revoked_branch_pushes_out_nothing_else_of_its_lineage(kind: type[Cache]) -> None:
    """He asks as often as he likes: what he attenuates is new each time, and a discharge beside it is never kept."""
    single = Single(kind)
    minted = single.realm.mint()
    his, other = minted.attenuate(Act("r")), minted.attenuate(Act("rw"))
    single.realm.revoke(branch_of(his))
    for token in (minted, other):
        single.ask(token)
    misses = single.cache.info().misses
    for number in range(20):
        assert isinstance(single.ask(his.attenuate(Exp(1_900_000_000 + number))), errors.RevokedToken)
        stay = single.look(other) is not None, single.look(minted) is not None
        assert stay == ((False, False) if kind is controls.LineageDropped else (True, True))
        with pytest.raises(errors.RevokedToken) if stay[1] else nullcontext():
            assert single.look(his) is None
    assert single.cache.info().misses == misses + 20


def test_with_a_revoked_token_what_descends_from_it_goes(single: Single) -> None:
    minted = single.realm.mint()
    token, other = minted.attenuate(Act("r")), minted.attenuate(Act("rw"))
    child = token.attenuate(Exp(1_900_000_000))
    for each in (token, child, other):
        single.ask(each)
    single.realm.revoke(branch_of(token))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert [single.look(each) is not None for each in (token, child, other)] == [False, False, True]


def test_a_lineage_of_which_one_token_was_denied_is_accepted_no_longer_than_the_bound(single: Single) -> None:
    """Its being revoked is told of the one token; of the others by the feed, or they grow too old."""
    minted = single.realm.mint()
    token, other = minted.attenuate(Act("r")), minted.attenuate(Act("rw"))
    for each in (token, other):
        single.ask(each)
    single.realm.revoke(api.Lineage(minted.kid, minted.nonce))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert single.look(other) is not None
    single.now_ms += BOUND_MS + 1
    assert single.look(other) is None
    single.poll()
    assert single.cache.info().entries == 0


def test_when_a_key_is_unknown_all_under_it_goes(single: Single) -> None:
    first, second = (single.realm.mint(number=number) for number in range(2))
    other = single.realm.mint(kid=single.realm.kids[1])
    for each in (first, second, other):
        single.ask(each)
    single.realm.revoke(api.KeyRetired(first.kid))
    assert isinstance(single.ask(first), errors.UnknownKey)
    assert [single.look(each) is not None for each in (first, second, other)] == [False, False, True]


# --- storms ----------------------------------------------------------------------------------------------------------


def test_a_storm_of_children_does_not_push_out_the_token_that_they_are_walked_from(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    for number in range(200):
        child = token.attenuate(Exp(1_900_000_000 + number))
        for _ in range(3):
            assert single.look(child) is not None
    info = single.cache.info()
    assert info.misses == 1
    assert info.entries <= LINEAGE_ENTRIES_MAX
    assert single.look(token) is not None


def test_of_children_those_stay_that_are_in_use_now(single: Single) -> None:
    """Also when what they are walked from was verified long ago."""
    token = single.realm.mint()
    single.ask(token)
    old = [token.attenuate(Exp(1_900_000_000 + number)) for number in range(LINEAGE_ENTRIES_MAX - 1)]
    new = [token.attenuate(Exp(1_910_000_000 + number)) for number in range(LINEAGE_ENTRIES_MAX - 1)]
    for child in (*old, *new):
        for _ in range(2):
            single.now_ms += 10
            single.look(child)
    texts = single.cache._texts
    assert [child.text in texts for child in (*old, *new)] == [False] * len(old) + [True] * len(new)


def test_children_that_are_seen_once_take_no_room(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    for number in range(100):
        assert single.look(token.attenuate(Exp(1_900_000_000 + number))) is not None
    assert single.cache.info().entries == 1


def test_a_storm_of_asked_siblings_leaves_the_shortest_of_its_lineage(single: Single) -> None:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    single.ask(child)
    for number in range(50):
        single.ask(token.attenuate(Act("w"), Exp(1_900_000_000 + number)))
    assert single.look(child) is not None
    assert single.cache.info().entries == LINEAGE_ENTRIES_MAX


def test_a_storm_of_lineages_stays_within_its_bytes_and_spares_what_is_used() -> None:
    single = Single(max_bytes=60_000)
    token = single.realm.mint()
    single.ask(token)
    for number in range(1, 500):
        single.ask(single.realm.mint(number=number))
        assert single.look(token) is not None
        assert single.cache.info().bytes <= 60_000
    assert 5 < single.cache.info().lineages < 60


def test_of_keys_without_tokens_none_is_followed() -> None:
    single = Single(max_bytes=20_000)
    for number in range(1, 100):
        single.ask(single.realm.mint(kid=single.realm.kids[number % 3], number=number))
    single.cache.clear()
    info = single.cache.info()
    assert (info.keys, info.entries, info.lineages, info.bytes) == (0, 0, 0, 0)
    assert single.cache.enlist() is None


def test_a_name_of_any_length_is_known_by() -> None:
    for name in ("t", "t" * 127, "t" * 128):
        cache = Cache(name, Policy(clock=lambda: 0), max_bytes=1 << 20, bound_ms=BOUND_MS, monotonic_ms=lambda: 0)
        token = mint(name, b"r" * 32, kid=b"k" * 16, time_ms=1, random=bytes(10), caveats=[])
        question, bundle = cache.open(), Bundle(token)
        cache.take(question, bundle, digest(bundle), api.Valid("acme"), Told(api.Answer(b"j" * 16, 1, 0), 0, 0))
        assert cache.look(token.attenuate(Act("r")).text) is not None
