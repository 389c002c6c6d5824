"""Attacks on the client's cache. Each one fails, and the negative controls succeed without the protection."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.cache.model.realm import NAME, NOW_MS
from tests.client.cache.model.single import Single, digest
from tkdb import api, errors
from tkdb.armor import b64url
from tkdb.macaroon.access import Access
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, App, Exp, Req, Res, Sub
from tkdb.macaroon.chain import link
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import append, decode_text, encode_text
from tkdb_client.cache import cache as module

READ = Access(organization="acme", action="r", now_s=NOW_MS / 1000)


# --- shared results ---------------------------------------------------------------------------------------------------


def test_a_caller_cannot_change_the_result_of_another_caller(single: Single) -> None:
    token = single.realm.mint(Exp(2_000_000_000), Res("app", {"shop": "r"}), App("tags", ["a"]), App("map", {"a": 1}))
    single.ask(token)
    first = single.get(token)
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
    attenuated = first.macaroon.narrow(Act("r"))
    second = single.get(token)
    assert second is not None
    assert second.caveats == token.caveats != attenuated.caveats
    assert second.macaroon == token


# --- spellings of one token -------------------------------------------------------------------------------------------


def test_all_spellings_of_a_token_share_one_entry(single: Single) -> None:
    token = single.realm.mint()
    variants = [token.text, b64url(token.raw), f"Bearer {token.text}", f"bEARER   {token.text} ", f" {token.text}\n"]
    for text in variants:
        found = single.get(text)
        bundle = Bundle.from_header(text) if text[:7].lower() == "bearer " else Bundle.parse(text.strip())
        if found is None:
            assert single.find(bundle.root) is not None or single.ask(bundle).macaroon == token
    info = single.cache.info()
    assert (info.entries, info.lineages) == (1, 1)
    for text in variants:
        found = single.get(text)
        assert (found or single.find(token)).macaroon == token  # type: ignore[union-attr]


@given(st.data())
def test_an_altered_text_of_a_cached_token_or_its_child_is_never_accepted(data: st.DataObject) -> None:
    single = Single()
    token = single.realm.mint()
    single.ask(token)
    text = data.draw(st.sampled_from([token.text, token.narrow(Act("r")).text]))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABab09-_+/= .,"))
    changed = data.draw(
        st.sampled_from([text[:at] + other + text[at + 1 :], text[:at] + other + text[at:], text[:at], text + other])
    )
    if changed.strip() == text:
        return
    try:
        found = single.get(changed)
    except errors.Denied:
        return
    assert found is None


# --- confusion of keys ------------------------------------------------------------------------------------------------


def test_a_token_that_shares_only_the_lineage_name_is_not_found(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    raw, identifier = token.raw, token.identifier
    at = raw.index(identifier)
    other_m = raw[:at] + identifier[:-1] + b"\x01" + raw[at + 34 :]
    other_place = raw.replace(NAME.encode(), b"evil.test")
    other_place = other_place[:2] + bytes([9]) + other_place[3:]
    assert Macaroon.parse(other_m).lineage == Macaroon.parse(other_place).lineage == token.lineage
    for forged in (other_m, other_place):
        assert single.get(encode_text(forged)) is None
        assert single.find(Macaroon.parse(forged)) is None


def test_the_same_nonce_under_another_key_is_another_lineage(single: Single) -> None:
    one, other = (single.realm.mint(kid=kid, number=7) for kid in single.realm.kids[:2])
    assert one.nonce == other.nonce
    single.ask(one)
    assert single.get(one) is not None
    assert single.get(other) is None
    assert single.get(other.narrow(Act("r"))) is None


def test_a_bundle_with_discharges_is_never_served_from_the_cache(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    bundle = Bundle(token, (token.raw,))
    assert single.get(bundle.text) is None
    assert single.cache.find(bundle, digest(bundle)) is None
    assert not single.cache.was_known(bundle)


# --- poisoning --------------------------------------------------------------------------------------------------------


def forgeries(child: Macaroon) -> list[bytes]:
    return [
        child.raw[:at] + bytes([child.raw[at] ^ flip]) + child.raw[at + 1 :]
        for at in range(len(child.raw))
        for flip in (1, 0x80)
    ]


def test_a_forged_descendant_is_denied_and_never_cached(single: Single) -> None:
    token = single.realm.mint()
    child = token.narrow(Act("r"), Exp(1_900_000_000))
    single.ask(token)
    for _ in range(3):  # The cache stores a descendant at its second use.
        for forged in forgeries(child):
            try:
                assert single.get(encode_text(forged)) is None
            except errors.Denied:
                continue
    assert single.cache.info().entries == 1
    assert single.get(child) is not None


def test_without_the_signature_comparison_a_forged_descendant_is_accepted(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = single.realm.mint()
    single.ask(token)
    child = token.narrow(Act("r"))
    forged = child.raw[:-1] + bytes([child.raw[-1] ^ 1])
    with pytest.raises(errors.BadSignature):
        single.get(encode_text(forged))
    monkeypatch.setattr("tkdb.macaroon.descent.compare_digest", lambda _a, _b: True)
    assert single.get(encode_text(forged)) is not None


def test_the_whole_common_part_is_compared_and_not_only_the_tail(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any added caveats verify from a cached tail, so the text before it must be compared, too."""
    token = single.realm.mint(Exp(2_000_000_000), Sub("kim"), Act("r"))
    single.ask(token)
    child = token.narrow(Exp(1_900_000_000))
    altered = child.raw.replace(b'["act","r"]', b'["act","w"]')
    assert single.get(encode_text(altered)) is None
    monkeypatch.setattr(
        module,
        "find_ancestor",
        lambda lineage, text, _since: (entry := lineage.entries[0], decode_text(text)[entry.body_bytes :]),
    )
    found = single.get(encode_text(altered))
    assert found is not None  # without the comparison
    assert found.macaroon == child  # Even then, the caveats are those of the cached token.


@given(known=st.integers(1, 5), at=st.integers(0, 10_000), with_=st.integers(0, 127))
def test_a_descendant_with_one_altered_character_is_never_accepted(known: int, at: int, with_: int) -> None:
    single = Single()
    token = single.realm.mint(Sub("k" * known))  # The cached part ends at each offset of a base64 group.
    single.ask(token)
    text = token.narrow(Act("r")).text
    at %= len(text)
    other = text[:at] + chr(with_) + text[at + 1 :]
    try:
        found = single.cache.get(other)
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
def test_added_caveats_are_read_as_strictly_as_by_the_authority(
    single: Single, packet: bytes, error: type[errors.Denied]
) -> None:
    token = single.realm.mint()
    single.ask(token)
    raw = append(token.raw, [packet], link(token.tail, packet))
    with pytest.raises(error) as here:
        single.get(encode_text(raw))
    there = single.realm.verify(encode_text(raw), 0)
    assert isinstance(there, api.Invalid)
    assert (there.reason, there.message, there.caveat) == (here.value.reason, here.value.message, here.value.caveat)


def test_a_descendant_beyond_the_limits_is_denied(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    most = token.narrow(*(Exp(1_900_000_000 + each) for each in range(64 - 3)))
    assert single.get(most) is not None
    packet = b'["act","r"]'
    with pytest.raises(errors.OverLimit):
        single.get(encode_text(append(most.raw, [packet], link(most.tail, packet))))


# --- expiry -----------------------------------------------------------------------------------------------------------


def test_a_child_of_an_expired_parent_is_not_cleared(single: Single) -> None:
    now_s = NOW_MS // 1000
    token = single.realm.mint(Exp(now_s + 10), Act("r"))
    single.ask(token)
    child = token.narrow(Exp(now_s + 1_000))
    found = single.get(child)
    assert found is not None
    found.clear(READ)
    with pytest.raises(errors.ExpiredToken) as denied:
        found.clear(msgspec.structs.replace(READ, now_s=now_s + 11))
    assert denied.value.caveat == 1


def test_a_decision_is_never_cached(single: Single) -> None:
    token = single.realm.mint(Exp(2_000_000_000), Act("r"), Req(("GET",), ("/a",)))
    single.ask(token)
    found = single.get(token)
    assert found is not None
    allowed = msgspec.structs.replace(READ, method="GET", path="/a")
    for access, clears in [(allowed, True), (READ, False), (allowed, True)]:
        if clears:
            found.clear(access)
        else:
            with pytest.raises(errors.CaveatUnmet):
                found.clear(access)
