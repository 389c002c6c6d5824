"""Denials and storms of tokens push out nothing that is in use, and what is denied is known no more."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.client.cache.model import controls
from tests.client.cache.model.single import BOUND_MS, Single, branch_of, digest
from tkdb import api, errors
from tkdb.macaroon.access import Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import Cache
from tkdb_client.cache.entries import LINEAGE_ENTRIES_MAX
from tkdb_client.calls.attempt import Reply

# --- negatives --------------------------------------------------------------------------------------------------------


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
    assert single.get(token) is not None
    assert len(single.cache._negatives) <= 40_000 // 16 // 512


def test_a_token_that_the_authority_calls_revoked_is_dropped_at_once(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert single.get(token) is None


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
        stay = single.get(other) is not None, single.get(minted) is not None
        assert stay == ((False, False) if kind is controls.LineageDropped else (True, True))
        with pytest.raises(errors.RevokedToken) if stay[1] else nullcontext():
            assert single.get(his) is None
    assert single.cache.info().misses == misses + 20


def test_with_a_revoked_token_what_descends_from_it_goes(single: Single) -> None:
    minted = single.realm.mint()
    token, other = minted.attenuate(Act("r")), minted.attenuate(Act("rw"))
    child = token.attenuate(Exp(1_900_000_000))
    for each in (token, child, other):
        single.ask(each)
    single.realm.revoke(branch_of(token))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert [single.get(each) is not None for each in (token, child, other)] == [False, False, True]


def test_a_lineage_of_which_one_token_was_denied_is_accepted_no_longer_than_the_bound(single: Single) -> None:
    """Its being revoked is told of the one token; of the others by the feed, or they grow too old."""
    minted = single.realm.mint()
    token, other = minted.attenuate(Act("r")), minted.attenuate(Act("rw"))
    for each in (token, other):
        single.ask(each)
    single.realm.revoke(api.Lineage(minted.kid, minted.nonce))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert single.get(other) is not None
    single.now_ms += BOUND_MS + 1
    assert single.get(other) is None
    single.poll()
    assert single.cache.info().entries == 0


def test_when_a_key_is_unknown_all_under_it_goes(single: Single) -> None:
    first, second = (single.realm.mint(number=number) for number in range(2))
    other = single.realm.mint(kid=single.realm.kids[1])
    for each in (first, second, other):
        single.ask(each)
    single.realm.revoke(api.KeyRetired(first.kid))
    assert isinstance(single.ask(first), errors.UnknownKey)
    assert [single.get(each) is not None for each in (first, second, other)] == [False, False, True]


# --- storms -----------------------------------------------------------------------------------------------------------


def test_a_storm_of_children_does_not_push_out_the_token_that_they_are_walked_from(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    for number in range(200):
        child = token.attenuate(Exp(1_900_000_000 + number))
        for _ in range(3):
            assert single.get(child) is not None
    info = single.cache.info()
    assert info.misses == 1
    assert info.entries <= LINEAGE_ENTRIES_MAX
    assert single.get(token) is not None


def test_of_children_those_stay_that_are_in_use_now(single: Single) -> None:
    """Also when what they are walked from was verified long ago."""
    token = single.realm.mint()
    single.ask(token)
    old = [token.attenuate(Exp(1_900_000_000 + number)) for number in range(LINEAGE_ENTRIES_MAX - 1)]
    new = [token.attenuate(Exp(1_910_000_000 + number)) for number in range(LINEAGE_ENTRIES_MAX - 1)]
    for child in (*old, *new):
        for _ in range(2):
            single.now_ms += 10
            single.get(child)
    texts = single.cache._texts
    assert [child.text in texts for child in (*old, *new)] == [False] * len(old) + [True] * len(new)


def test_children_that_are_seen_once_take_no_room(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    for number in range(100):
        assert single.get(token.attenuate(Exp(1_900_000_000 + number))) is not None
    assert single.cache.info().entries == 1


def test_a_storm_of_asked_siblings_leaves_the_shortest_of_its_lineage(single: Single) -> None:
    token = single.realm.mint()
    child = token.attenuate(Act("r"))
    single.ask(child)
    for number in range(50):
        single.ask(token.attenuate(Act("w"), Exp(1_900_000_000 + number)))
    assert single.get(child) is not None
    assert single.cache.info().entries == LINEAGE_ENTRIES_MAX


def test_a_storm_of_lineages_stays_within_its_bytes_and_spares_what_is_used() -> None:
    single = Single(max_bytes=60_000)
    token = single.realm.mint()
    single.ask(token)
    for number in range(1, 500):
        single.ask(single.realm.mint(number=number))
        assert single.get(token) is not None
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
        cache.take(question, bundle, digest(bundle), api.Valid("acme"), Reply(api.Answer(b"j" * 16, 1, 0), 0, 0))
        assert cache.get(token.attenuate(Act("r")).text) is not None
