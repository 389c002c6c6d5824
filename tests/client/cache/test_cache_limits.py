"""Denials and storms of tokens evict no token that is in use, and a denied token leaves the cache."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import nullcontext

import msgspec
import pytest

from tests.client.cache.model import controls
from tests.client.cache.model.single import BOUND_MS, Single, branch_of, digest
from tkdb import api, errors
from tkdb.macaroon.access import Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache import denials as denials_module
from tkdb_client.cache.cache import Cache
from tkdb_client.cache.denials import Denials
from tkdb_client.cache.entries import LINEAGE_ENTRIES_MAX
from tkdb_client.calls.attempt import Reply

QUESTION = api.Verify([])


def answer_with(invalid: api.Invalid) -> api.Answer:
    """Return an answer as it arrives: its texts are new objects."""
    answer = api.Answer(bytes(16), 1, 0, result=msgspec.Raw(api.encode(api.Verified([invalid]))))
    return api.decode_answer(api.encode(answer))


# --- cached denials ---------------------------------------------------------------------------------------------------


def test_a_denial_is_cached_for_its_exact_bundle_and_a_short_time(single: Single) -> None:
    token = single.realm.mint()
    forged = Macaroon.parse(token.raw[:-1] + bytes([token.raw[-1] ^ 1]))
    assert isinstance(single.ask(forged), errors.BadSignature)
    again = single.find(forged)
    assert isinstance(again, errors.BadSignature)
    assert single.find(forged) is not again  # An error stores its traceback, so each caller gets a new one.
    assert single.find(token) is None
    single.now_ms += 10_000
    assert single.find(forged) is None


def test_a_denial_that_may_soon_change_is_not_cached(single: Single) -> None:
    token = single.realm.mint()
    bundle = Bundle(token)
    for reason in errors.Reason:
        question = single.cache.open()
        single.cache.take(question, bundle, digest(bundle), api.Invalid(reason, "why"), single.reply())
        single.cache.close(question)
        kept = single.find(token) is not None
        others = {"truncated", "unknown key", "not yet valid", "stale", "discharge invalid", "foreign organization"}
        assert kept == (reason not in others)
        single.cache.clear()


def test_cached_denials_evict_no_cached_token() -> None:
    single = Single(max_bytes=40_000)
    token = single.realm.mint()
    single.ask(token)
    for number in range(500):
        forged = single.realm.mint(number=number + 1)
        single.ask(Macaroon.parse(forged.raw[:-1] + bytes([forged.raw[-1] ^ 1])))
    assert single.get(token) is not None
    assert len(single.cache._negatives) <= 40_000 // 16 // 600


@pytest.mark.parametrize("text", ["", "a" * 160, "a" * 159 + "\U0001f600"], ids=["short", "long", "rare"])
def test_cached_denials_take_at_most_their_share_of_memory(text: str) -> None:
    max_bytes = 200_000
    denials = Denials(max_bytes=max_bytes)
    gc.collect()
    tracemalloc.start()
    for number in range(3_000):
        invalid = api.decode_result(QUESTION, answer_with(api.Invalid(errors.Reason.REVOKED, text + str(number), text)))
        denials.put(number.to_bytes(32), invalid.results[0], now_ms=number + 2**40)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(denials) > 50
    assert taken < max_bytes * 1.1
    for number in range(3_000):
        denials.get(number.to_bytes(32), now_ms=2**41)
    assert (len(denials), denials._bytes) == (0, 0)


def test_counting_denials_instead_of_weighing_them_lets_long_ones_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denials_module, "_size", lambda invalid: 512)
    with pytest.raises(AssertionError):
        test_cached_denials_take_at_most_their_share_of_memory("a" * 159 + "\U0001f600")


def test_a_token_that_the_authority_reports_as_revoked_is_dropped_at_once(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.realm.revoke(api.Lineage(token.kid, token.nonce))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert single.get(token) is None


@pytest.mark.parametrize("kind", [Cache, controls.LineageDropped])
def test_the_holder_of_a_revoked_branch_cannot_evict_other_tokens_of_the_lineage(kind: type[Cache]) -> None:
    """The holder can ask any number of times: each attenuated token is new, so no cached denial applies to it."""
    single = Single(kind)
    minted = single.realm.mint()
    revoked, other = minted.narrow(Act("r")), minted.narrow(Act("rw"))
    single.realm.revoke(branch_of(revoked))
    for token in (minted, other):
        single.ask(token)
    misses = single.cache.info().misses
    for number in range(20):
        assert isinstance(single.ask(revoked.narrow(Exp(1_900_000_000 + number))), errors.RevokedToken)
        stay = single.get(other) is not None, single.get(minted) is not None
        assert stay == ((False, False) if kind is controls.LineageDropped else (True, True))
        with pytest.raises(errors.RevokedToken) if stay[1] else nullcontext():
            assert single.get(revoked) is None
    assert single.cache.info().misses == misses + 20


def test_a_revoked_token_is_dropped_with_its_descendants(single: Single) -> None:
    minted = single.realm.mint()
    token, other = minted.narrow(Act("r")), minted.narrow(Act("rw"))
    child = token.narrow(Exp(1_900_000_000))
    for each in (token, child, other):
        single.ask(each)
    single.realm.revoke(branch_of(token))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert [single.get(each) is not None for each in (token, child, other)] == [False, False, True]


def test_after_one_denial_the_rest_of_a_revoked_lineage_is_accepted_at_most_until_the_bound(single: Single) -> None:
    """The denial is about one token. The others are dropped by the feed, or become stale."""
    minted = single.realm.mint()
    token, other = minted.narrow(Act("r")), minted.narrow(Act("rw"))
    for each in (token, other):
        single.ask(each)
    single.realm.revoke(api.Lineage(minted.kid, minted.nonce))
    assert isinstance(single.ask(token), errors.RevokedToken)
    assert single.get(other) is not None
    single.now_ms += BOUND_MS + 1
    assert single.get(other) is None
    single.poll()
    assert single.cache.info().entries == 0


def test_an_unknown_key_drops_every_token_of_that_key(single: Single) -> None:
    first, second = (single.realm.mint(number=number) for number in range(2))
    other = single.realm.mint(kid=single.realm.kids[1])
    for each in (first, second, other):
        single.ask(each)
    single.realm.revoke(api.KeyRetired(first.kid))
    assert isinstance(single.ask(first), errors.UnknownKey)
    assert [single.get(each) is not None for each in (first, second, other)] == [False, False, True]


# --- storms -----------------------------------------------------------------------------------------------------------


def test_a_storm_of_children_does_not_evict_their_cached_ancestor(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    for number in range(200):
        child = token.narrow(Exp(1_900_000_000 + number))
        for _ in range(3):
            assert single.get(child) is not None
    info = single.cache.info()
    assert info.misses == 1
    assert info.entries <= LINEAGE_ENTRIES_MAX
    assert single.get(token) is not None


def test_children_in_use_replace_unused_children(single: Single) -> None:
    """Their ancestor was verified long before."""
    token = single.realm.mint()
    single.ask(token)
    old = [token.narrow(Exp(1_900_000_000 + number)) for number in range(LINEAGE_ENTRIES_MAX - 1)]
    new = [token.narrow(Exp(1_910_000_000 + number)) for number in range(LINEAGE_ENTRIES_MAX - 1)]
    for child in (*old, *new):
        for _ in range(2):
            single.now_ms += 10
            single.get(child)
    texts = single.cache._texts
    assert [child.text in texts for child in (*old, *new)] == [False] * len(old) + [True] * len(new)


def test_a_child_that_is_seen_once_takes_no_entry(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    for number in range(100):
        assert single.get(token.narrow(Exp(1_900_000_000 + number))) is not None
    assert single.cache.info().entries == 1


def test_a_storm_of_siblings_does_not_evict_the_shortest_token_of_the_lineage(single: Single) -> None:
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    single.ask(child)
    for number in range(50):
        single.ask(token.narrow(Act("w"), Exp(1_900_000_000 + number)))
    assert single.get(child) is not None
    assert single.cache.info().entries == LINEAGE_ENTRIES_MAX


def test_a_storm_of_lineages_stays_within_its_bytes_and_keeps_the_used_token() -> None:
    single = Single(max_bytes=60_000)
    token = single.realm.mint()
    single.ask(token)
    for number in range(1, 500):
        single.ask(single.realm.mint(number=number))
        assert single.get(token) is not None
        assert single.cache.info().bytes <= 60_000
    assert 5 < single.cache.info().lineages < 60


def test_keys_without_tokens_are_not_followed() -> None:
    single = Single(max_bytes=20_000)
    for number in range(1, 100):
        single.ask(single.realm.mint(kid=single.realm.kids[number % 3], number=number))
    single.cache.clear()
    info = single.cache.info()
    assert (info.keys, info.entries, info.lineages, info.bytes) == (0, 0, 0, 0)
    assert single.cache.enlist() is None


def test_a_child_is_found_for_an_authority_name_of_any_length() -> None:
    for name in ("t", "t" * 127, "t" * 128):
        cache = Cache(name, Policy(clock=lambda: 0), max_bytes=1 << 20, bound_ms=BOUND_MS, monotonic_ms=lambda: 0)
        token = mint(name, b"r" * 32, kid=b"k" * 16, time_ms=1, random=bytes(10), caveats=[])
        question, bundle = cache.open(), Bundle(token)
        cache.take(question, bundle, digest(bundle), api.Valid("acme"), Reply(api.Answer(b"j" * 16, 1, 0), 0, 0))
        assert cache.get(token.narrow(Act("r")).text) is not None
