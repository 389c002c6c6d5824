"""Forged and revoked tokens: the attacks on a chain, and every kind of revocation."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.forge import (
    KID,
    NAME,
    NOW_MS,
    ROOT_KEY,
    Authority,
    mutations,
    sign,
    with_packets,
    with_third_party,
    write_packets,
)
from tkdb.errors import (
    BadSignature,
    CaveatUnmet,
    Denied,
    DischargeInvalid,
    DischargeMissing,
    MalformedToken,
    NotYetValid,
    RevokedToken,
    UnknownCaveat,
    UnknownKey,
)
from tkdb.macaroon import chain
from tkdb.macaroon.caveats import Act, App, Aud, Bind, Exp, Org, Sub, Usr, encode
from tkdb.macaroon.chain import RootKeyState
from tkdb.macaroon.identifier import build
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import MAX_AHEAD_MS, Key, Verifier, subject_digest
from tkdb.macaroon.wire import ThirdParty

THIRD_PARTY = ThirdParty(b"https://login.example", b"ticket", b"v" * 72)
OTHER_KID = b"o" * 16
OTHER_KEY = b"O" * 32


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_a_minted_token_verifies(authority: Authority) -> None:
    token = authority.mint(Exp(5), Sub("kim"))
    verified = authority.verify(token)
    assert (verified.organization, verified.subject, verified.caveats) == ("acme", "kim", (Exp(5), Sub("kim")))
    assert (verified.lineage, verified.issued_ms, verified.macaroon) == (token.lineage, NOW_MS, token)
    assert authority.verify(authority.mint(Exp(5))).subject is None


# --- forgeries --------------------------------------------------------------------------------------------------


def rewritten(token: Macaroon, *packets: bytes | ThirdParty, **header: bytes) -> bytes:
    """Return the token with other packets or another header, and with its old signature."""
    location, identifier = header.get("location", token.location), header.get("identifier", token.identifier)
    return write_packets(location, identifier, packets or token.packets, token.tail)


def test_every_small_change_is_denied(authority: Authority) -> None:
    token = authority.mint().narrow(Aud("billing"))
    for raw in mutations(token.raw):
        if raw != token.raw:
            with pytest.raises(Denied):
                authority.verify(raw)
    authority.verify(token)


def test_a_removed_reordered_changed_repeated_or_inserted_caveat_is_denied(authority: Authority) -> None:
    token = authority.mint(Exp(5)).narrow(Act("r"), Aud("a"))
    exp, act, aud = (encode(caveat) for caveat in (Exp(5), Act("r"), Aud("a")))
    authority.verify(rewritten(token, exp, act, aud))
    for packets in [
        (exp, act), (exp, aud), (exp, aud, act), (act, exp, aud), (exp, act, aud, aud), (exp, act, act, aud),
        (exp, encode(Act("rw")), aud), (exp, encode(Aud("x")), act, aud), (exp, act + aud), (encode(Exp(6)), act, aud),
    ]:  # fmt: skip
        with pytest.raises(BadSignature, match="doesn't match its chain"):
            authority.verify(rewritten(token, *packets))


def test_the_tail_of_another_token_is_denied(authority: Authority) -> None:
    token, other = authority.mint(), authority.mint(Exp(9)).narrow(Act("r"))
    for tail in (other.tail, bytes(32), b"\xff" * 32, token.tail[::-1], token.narrow(Act("r")).tail):
        with pytest.raises(BadSignature):
            authority.verify(token.raw[:-32] + tail)


def test_a_childs_tail_does_not_verify_its_parent(authority: Authority) -> None:
    parent = authority.mint()
    child = parent.narrow(Act("r"))
    with pytest.raises(BadSignature):
        authority.verify(write_packets(parent.location, parent.identifier, parent.packets, child.tail))


def test_an_identifier_with_another_m_or_time_is_denied(authority: Authority) -> None:
    token = authority.mint(Exp(5), Act("rw")).narrow(Act("r"))
    for m in (0, 1, 3):
        with pytest.raises(BadSignature):
            authority.verify(rewritten(token, identifier=token.identifier[:33] + bytes([m])))
    later = build(kid=KID, time_ms=NOW_MS + 1, random=b"randomness", m=2)
    with pytest.raises(BadSignature):
        authority.verify(rewritten(token, identifier=later))


def test_a_rewritten_location_is_denied(authority: Authority) -> None:
    """The chain doesn't cover the location. If it weren't compared, a token could claim another authority."""
    token = authority.mint()
    for location in (b"tkdb.evil", b"tkdb.example.evil", b"TKDB.EXAMPLE", b"tkdb.exampl", b"\xff", b"t" * 200):
        with pytest.raises(MalformedToken, match=r"not to tkdb\.example"):
            authority.verify(rewritten(token, location=location))


def test_a_hostile_location_is_shown_escaped_and_truncated(authority: Authority) -> None:
    with pytest.raises(MalformedToken) as caught:
        authority.verify(rewritten(authority.mint(), location=b"\x1b[31m\n\xff" + b"x" * 5000))
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 400


def test_a_kid_swapped_between_organizations_is_denied(authority: Authority) -> None:
    authority.keys[OTHER_KID] = Key("initech", RootKeyState(OTHER_KEY))
    ours, theirs = authority.mint(), authority.mint(kid=OTHER_KID, root_key=OTHER_KEY)
    assert authority.verify(ours).organization == "acme"
    assert authority.verify(theirs).organization == "initech"
    for token, kid in ((ours, OTHER_KID), (theirs, KID)):
        identifier = token.identifier[:1] + kid + token.identifier[17:]
        with pytest.raises(BadSignature):
            authority.verify(rewritten(token, identifier=identifier))


def test_an_unknown_kid_is_named_and_nothing_is_hashed(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    token = authority.mint(kid=OTHER_KID)
    monkeypatch.setattr(chain, "sha256", None)
    with pytest.raises(UnknownKey, match=OTHER_KID.hex()):
        authority.verify(token)


def test_a_token_under_another_root_key_is_denied(authority: Authority) -> None:
    with pytest.raises(BadSignature):
        authority.verify(authority.mint(root_key=OTHER_KEY))


@given(st.binary(min_size=32, max_size=32), st.lists(st.binary(min_size=1, max_size=200), max_size=5))
def test_the_prepared_states_compute_hmac(root_key: bytes, cids: list[bytes]) -> None:
    assert chain.walk(RootKeyState(root_key).sign(b"identifier"), cids)[-1] == sign(root_key, b"identifier", *cids)


def test_verifying_hashes_each_caveat_once(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    plain = sha256

    def counted(*args: bytes) -> object:
        nonlocal count
        count += 1
        return plain(*args)

    token = authority.mint(Exp(5)).narrow(*[Act("r")] * 63)
    monkeypatch.setattr(chain, "sha256", counted)
    authority.verify(token)
    assert count == 2 * 64


# --- facts, and caveats of discharges ---------------------------------------------------------------------------


def test_a_fact_appended_by_a_holder_is_denied(authority: Authority) -> None:
    token = authority.mint(Exp(5), Act("rw"))
    forged = with_packets(token, encode(Sub("admin")))
    with pytest.raises(
        CaveatUnmet, match="caveat 3 states a fact, but the authority wrote only the first 2 caveats"
    ) as caught:
        authority.verify(forged)
    assert caught.value.caveat == 3
    authority.verify(with_packets(token, encode(Act("r"))))  # the control: a restriction is fine


def test_a_second_subject_appended_is_denied(authority: Authority) -> None:
    with pytest.raises(CaveatUnmet, match="caveat 3 states a fact"):
        authority.verify(with_packets(authority.mint(Exp(5), Sub("kim")), encode(Sub("kim"))))


@pytest.mark.parametrize("caveat", [Bind("A" * 22), Usr("admin"), Org("acme")])
def test_a_discharge_caveat_in_a_root_is_denied(authority: Authority, caveat: Bind | Usr | Org) -> None:
    with pytest.raises(CaveatUnmet, match="caveat 3 is allowed only in a discharge"):
        authority.verify(with_packets(authority.mint(), encode(caveat)))


@pytest.mark.parametrize("cid", [b"account = 3", b'["zzz",1]', b'["act", "r"]', b"\xff", b'["x:a",1.5]'])
def test_an_unreadable_caveat_is_denied(authority: Authority, cid: bytes) -> None:
    with pytest.raises(UnknownCaveat, match="can't be read"):
        authority.verify(with_packets(authority.mint(), cid))


def test_caveats_are_read_only_if_the_chain_is_valid(authority: Authority) -> None:
    """An attacker who can't sign learns nothing about caveats, because the signature is checked first."""
    forged = with_packets(authority.mint(root_key=OTHER_KEY), b"account = 3")
    with pytest.raises(BadSignature):
        authority.verify(forged)


# --- third parties ----------------------------------------------------------------------------------------------


def test_a_third_party_caveat_without_its_discharge_is_denied_with_its_index(authority: Authority) -> None:
    token = with_third_party(authority.mint(), THIRD_PARTY)
    for presented in (token, token.narrow(Act("r")), token.narrow(Act("r"), Aud("a"))):
        with pytest.raises(
            DischargeMissing, match=r"caveat 3 needs a discharge from 'https://login\.example'"
        ) as caught:
            authority.verify(presented)
        assert caught.value.caveat == 3


def test_a_third_partys_location_is_shown_escaped_and_truncated(authority: Authority) -> None:
    token = with_third_party(authority.mint(), ThirdParty(b"\x1b[31m\xff" + b"x" * 5000, b"t", b"v" * 72))
    with pytest.raises(DischargeMissing) as caught:
        authority.verify(token)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_changed_or_dropped_third_party_caveat_is_denied(authority: Authority) -> None:
    token = with_third_party(authority.mint(), THIRD_PARTY)
    *others, third = token.packets
    assert isinstance(third, ThirdParty)
    for packets in (
        others,
        [*others, ThirdParty(third.location, b"other", third.vid)],
        [*others, ThirdParty(third.location, third.ticket, b"w" * 72)],
        [*others, third.ticket],
        [*others, third, third],
    ):
        with pytest.raises(BadSignature):
            authority.verify(rewritten(token, *packets))


def test_a_discharge_that_matches_no_caveat_is_denied(authority: Authority) -> None:
    token = authority.mint()
    with pytest.raises(DischargeInvalid, match="matches no caveat"):
        authority.verify(f"{token.text},{token.text}")


# --- revocation -------------------------------------------------------------------------------------------------


def test_a_revoked_lineage_is_denied_with_all_its_descendants(authority: Authority) -> None:
    token, other = authority.mint(), authority.mint(time_ms=NOW_MS - 1)
    child = token.narrow(Act("r"))
    authority.revoked[token.lineage] = True
    for revoked in (token, child, child.narrow(Aud("a"))):
        with pytest.raises(RevokedToken, match="whole lineage"):
            authority.verify(revoked)
    authority.verify(other)


def test_a_revoked_branch_denies_only_itself_and_its_descendants(authority: Authority) -> None:
    token = authority.mint()
    child, sibling = token.narrow(Act("r")), token.narrow(Act("w"))
    authority.revoked[token.lineage] = frozenset({child.branch})
    for revoked in (child, child.narrow(Aud("a")), child.narrow(Aud("a"), Aud("b"))):
        with pytest.raises(RevokedToken, match="or one that it was attenuated from"):
            authority.verify(revoked)
    for valid in (token, sibling, sibling.narrow(Act("r")), token.narrow(Aud("a"), Act("r"))):
        authority.verify(valid)


def test_a_revoked_parent_denies_its_children(authority: Authority) -> None:
    token = authority.mint()
    authority.revoked[token.lineage] = frozenset({token.branch})
    for revoked in (token, token.narrow(Act("r")), token.narrow(Act("w"))):
        with pytest.raises(RevokedToken):
            authority.verify(revoked)


def test_a_revoked_grandchild_leaves_its_ancestors_valid(authority: Authority) -> None:
    token = authority.mint()
    child = token.narrow(Act("r"))
    authority.revoked[token.lineage] = frozenset({child.narrow(Aud("a")).branch, b"another branch.."})
    authority.verify(token)
    authority.verify(child)


def test_the_first_tail_of_a_lineage_can_be_revoked_as_a_branch(authority: Authority) -> None:
    token = authority.mint()
    bare = chain.branch(sign(ROOT_KEY, token.identifier))
    authority.revoked[token.lineage] = frozenset({bare})
    with pytest.raises(RevokedToken):
        authority.verify(token)


def test_tails_are_hashed_only_if_a_branch_of_the_lineage_is_revoked(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = authority.mint()
    monkeypatch.setattr("tkdb.macaroon.verify.branch", None)
    authority.verify(token)
    authority.revoked[token.lineage] = frozenset({bytes(16)})
    with pytest.raises(TypeError):
        authority.verify(token)


@pytest.mark.parametrize(
    ("before_ms", "revoked"), [(NOW_MS, False), (NOW_MS + 1, True), (NOW_MS - 1, False), (0, False)]
)
def test_tokens_issued_before_a_time_are_revoked_and_tokens_issued_at_it_are_not(
    authority: Authority, before_ms: int, *, revoked: bool
) -> None:
    authority.keys[KID] = Key("acme", RootKeyState(ROOT_KEY), issued_from=before_ms.to_bytes(6))
    if revoked:
        with pytest.raises(RevokedToken, match="issued to the organization before"):
            authority.verify(authority.mint())
    else:
        authority.verify(authority.mint())


@pytest.mark.parametrize(("before_ms", "revoked"), [(NOW_MS, False), (NOW_MS + 1, True)])
def test_only_the_subjects_tokens_issued_before_a_time_are_revoked(
    authority: Authority, before_ms: int, *, revoked: bool
) -> None:
    subjects = {subject_digest("kim"): before_ms}
    authority.keys[KID] = Key("acme", RootKeyState(ROOT_KEY), subjects=subjects)
    authority.verify(authority.mint(Exp(5), Sub("lee")))
    authority.verify(authority.mint(Exp(5)))
    token = authority.mint(Exp(5), Sub("kim"))
    for presented in (token, token.narrow(Act("r"))):
        if revoked:
            with pytest.raises(RevokedToken, match="issued to the subject before"):
                authority.verify(presented)
        else:
            authority.verify(presented)


def test_a_retired_key_is_unknown(authority: Authority) -> None:
    token = authority.mint()
    del authority.keys[KID]
    with pytest.raises(UnknownKey):
        authority.verify(token)


@pytest.mark.parametrize(("ahead_ms", "denied"), [(MAX_AHEAD_MS, False), (MAX_AHEAD_MS + 1, True), (2**48 - 1, True)])
def test_a_minting_time_too_far_in_the_future_is_denied(authority: Authority, ahead_ms: int, *, denied: bool) -> None:
    token = authority.mint(time_ms=min(NOW_MS + ahead_ms, 2**48 - 1))
    if denied:
        with pytest.raises(NotYetValid, match="minting time is in the future"):
            authority.verify(token)
    else:
        authority.verify(token)


def test_a_revoked_token_with_an_unreadable_caveat_is_denied_as_revoked(authority: Authority) -> None:
    token = with_packets(authority.mint(), b"account = 3")
    authority.revoked[token.lineage] = True
    with pytest.raises(RevokedToken):
        authority.verify(token)


# --- check, and other authorities -------------------------------------------------------------------------------


def test_check_reads_no_caveats(authority: Authority) -> None:
    """A token can be revoked even if its caveats can't be read."""
    token = with_packets(authority.mint(), b"account = 3")
    assert authority.verifier.check(token, NOW_MS).organization == "acme"
    authority.revoked[token.lineage] = True
    with pytest.raises(RevokedToken):
        authority.verifier.check(token, NOW_MS)
    with pytest.raises(BadSignature):
        authority.verifier.check(with_packets(authority.mint(root_key=OTHER_KEY), b"account = 3"), NOW_MS)


def test_a_token_of_another_authority_is_denied(authority: Authority) -> None:
    other = Verifier("tkdb.other", find_key=authority.keys.get, find_revocation=authority.revoked.get)
    with pytest.raises(MalformedToken, match=rf"to the authority '{NAME}', not to tkdb\.other"):
        other.verify(authority.mint().text, NOW_MS)


@given(st.binary(max_size=200) | st.text(max_size=100))
def test_any_invalid_token_raises_a_subclass_of_denied(presented: bytes | str) -> None:
    with pytest.raises(Denied):
        Authority().verify(presented)


def test_an_app_caveat_is_returned_to_the_app(authority: Authority) -> None:
    assert authority.verify(authority.mint().narrow(App("tier", "gold"))).caveats[-1] == App("tier", "gold")
