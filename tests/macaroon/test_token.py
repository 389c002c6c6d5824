"""Any holder can attenuate a token, and no holder can widen it. No repr and no error contains a token."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.forge import IDENTIFIER, KID, NAME, NOW_MS, ROOT_KEY, Authority, sign, with_third_party
from tests.macaroon.strategies import MINTABLE, RESTRICTIONS
from tkdb.errors import InvalidCaveat, MalformedToken, OverLimit, TkdbError
from tkdb.macaroon.caveats import Act, AnyCaveat, App, Aud, Bind, Exp, Org, Req, Res, Sub, Usr, encode
from tkdb.macaroon.identifier import LINEAGE, NONCE, build
from tkdb.macaroon.limits import Limits
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import ThirdParty

NOW_S = NOW_MS // 1000


def make(*caveats: AnyCaveat) -> Macaroon:
    return Authority().mint(*caveats)


# --- mint -------------------------------------------------------------------------------------------------------


def test_a_minted_token_names_its_authority_and_counts_the_authoritys_caveats() -> None:
    token = make(Exp(5), Sub("kim"))
    assert (token.authority, token.kid, token.issued_ms, token.m) == (NAME, KID, NOW_MS, 2)
    assert token.nonce == NOW_MS.to_bytes(6) + b"randomness"
    assert token.lineage == KID + token.nonce
    assert token.minted
    assert not token.narrow(Act("r")).minted
    assert token.narrow(Act("r")).m == 2


def test_the_identifier_has_the_documented_layout() -> None:
    raw = build(kid=b"k" * 16, time_ms=NOW_MS, random=b"r" * 10, m=7)
    assert raw == b"\x01" + b"k" * 16 + NOW_MS.to_bytes(6, "big") + b"r" * 10 + b"\x07"
    assert (len(raw), raw[LINEAGE], raw[NONCE]) == (34, raw[1:33], raw[17:33])


def test_the_chain_is_hmac_over_identifier_and_caveats() -> None:
    token = make(Exp(5), Act("rw")).narrow(Act("r"))
    assert token.tail == sign(ROOT_KEY, token.identifier, b'["exp",5]', b'["act","rw"]', b'["act","r"]')


@pytest.mark.parametrize("caveat", [Bind("A" * 22), Usr("kim"), Org("acme")])
def test_a_discharge_caveat_is_not_minted(caveat: AnyCaveat) -> None:
    with pytest.raises(InvalidCaveat, match="only in a discharge"):
        make(Exp(5), caveat)


def test_a_second_subject_is_not_minted() -> None:
    assert make(Exp(5), Sub("kim")).m == 2
    with pytest.raises(InvalidCaveat, match="one subject at most"):
        make(Exp(5), Sub("kim"), Sub("admin"))


@pytest.mark.parametrize("count", [65, 255, 256, 1000])
def test_more_caveats_than_the_limit_are_not_minted(count: int) -> None:
    assert make(*[Act("r")] * 64).m == 64
    with pytest.raises(OverLimit, match=f"would have {count} caveats; 64 are read at most"):
        make(*[Act("r")] * count)


def test_no_limit_lets_m_exceed_one_byte() -> None:
    arguments: dict[str, Any] = {"kid": KID, "time_ms": 0, "random": bytes(10), "limits": Limits(caveats=1000)}
    assert mint(NAME, ROOT_KEY, caveats=[Act("r")] * 255, **arguments).m == 255
    with pytest.raises(OverLimit, match="would have 256 caveats; 255 are read at most"):
        mint(NAME, ROOT_KEY, caveats=[Act("r")] * 256, **arguments)


def test_a_token_over_the_byte_limit_is_not_minted() -> None:
    with pytest.raises(OverLimit, match="16384 are read at most"):
        make(App("long", "a" * 16_384))


@given(st.lists(MINTABLE, max_size=4))
def test_a_minted_token_can_be_read(caveats: list[AnyCaveat]) -> None:
    try:
        token = make(Exp(5), *caveats)
    except InvalidCaveat:
        return  # two subjects
    assert Macaroon.parse(token.text) == Macaroon.parse(token.raw) == token
    assert token.caveats == (Exp(5), *caveats)


# --- attenuate --------------------------------------------------------------------------------------------------


@given(st.lists(RESTRICTIONS, min_size=1, max_size=4))
def test_an_attenuated_token_can_be_read_and_verifies(caveats: list[AnyCaveat]) -> None:
    authority = Authority()
    token = authority.mint()
    child = token.narrow(*caveats)
    assert Macaroon.parse(child.text) == child
    assert child.lineage == token.lineage
    assert child.caveats == (*token.caveats, *caveats)
    assert authority.verify(child).caveats == child.caveats


def test_attenuating_in_steps_or_at_once_gives_the_same_token() -> None:
    token = make()
    assert token.narrow(Act("r")).narrow(Aud("a")) == token.narrow(Act("r"), Aud("a"))
    assert token.narrow() == token


def test_attenuating_leaves_the_parent_unchanged() -> None:
    token = make()
    raw, packets = token.raw, token.packets
    token.narrow(Act("r"))
    assert (token.raw, token.packets) == (raw, packets)


@pytest.mark.parametrize("name", ["raw", "location", "identifier", "packets"])
def test_a_token_is_immutable(name: str) -> None:
    token = make()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(token, name, getattr(token, name))


@pytest.mark.parametrize("fact", [Sub("admin"), Usr("admin"), Org("acme")])
def test_a_holder_cannot_add_a_fact(fact: AnyCaveat) -> None:
    with pytest.raises(InvalidCaveat, match="states a fact, which only the authority may"):
        make().narrow(Act("r"), fact)


def test_attenuating_beyond_a_limit_raises_over_limit() -> None:
    token = make(*[Act("r")] * 63)
    full = token.narrow(Act("r"))
    with pytest.raises(OverLimit, match="would have 65 caveats"):
        full.narrow(Act("r"))
    with pytest.raises(OverLimit, match="16384 are read at most"):
        make().narrow(App("long", "a" * 16_384))
    room = Limits(token_bytes=len(token.raw) + len(b'\x02\x09["act","r"]\x00'))
    assert len(token.narrow(Act("r"), limits=room).raw) == room.token_bytes
    with pytest.raises(OverLimit):
        token.narrow(Act("rw"), limits=room)


def test_attenuating_keeps_a_third_party_caveat_byte_for_byte() -> None:
    third = ThirdParty(b"https://login.example", bytes(range(1, 256)), bytes(range(72)))
    token = with_third_party(make(), third)
    child = token.narrow(Act("r"), Exp(5))
    assert child.raw.startswith(token.raw[:-35])
    assert Macaroon.parse(child.text).packets == (*token.packets, b'["act","r"]', b'["exp",5]')
    assert third in child.caveats


# --- branches and lineages --------------------------------------------------------------------------------------


def test_every_token_of_a_lineage_has_a_different_branch() -> None:
    token = make()
    tokens = [token, token.narrow(Act("r")), token.narrow(Act("w")), token.narrow(Act("r"), Act("w"))]
    assert len({each.branch for each in tokens}) == len(tokens)
    assert len({each.lineage for each in tokens}) == 1
    assert {len(each.branch) for each in tokens} == {16}


# --- narrow -----------------------------------------------------------------------------------------------------


def test_narrow_orders_its_caveats_and_puts_the_expiry_last() -> None:
    child = make().narrow(
        expires_in_s=60,
        now_s=NOW_S,
        path="/v1/*",
        method="GET",
        resource={"app": {"a": "r"}},
        action="r",
        audience="billing",
    )
    assert child.caveats[2:] == (
        Aud("billing"),
        Act("r"),
        Res("app", {"a": "r"}),
        Req(("GET",), ("/v1/*",)),
        Exp(1_700_000_070),
    )


def test_equal_narrow_calls_a_few_seconds_apart_give_the_same_token() -> None:
    token = make()
    tokens = {
        token.narrow(action="r", expires_in_s=60, now_s=NOW_S + late_ms / 1000).raw for late_ms in range(0, 4_000, 50)
    }
    assert len(tokens) == 1


@given(st.floats(1, 10_000), st.floats(0, 2e9))
def test_narrow_never_shortens_the_lifetime_and_adds_at_most_a_quarter_or_1_s(
    expires_in_s: float, now_s: float
) -> None:
    *_, exp = make().narrow(expires_in_s=expires_in_s, now_s=now_s).caveats
    assert isinstance(exp, Exp)
    assert now_s + expires_in_s <= exp.at_s <= now_s + expires_in_s + max(1, expires_in_s / 4) + 1e-5


def test_narrow_restricts_only_the_given_parts() -> None:
    assert make().narrow(method="GET").caveats[2:] == (Req(("GET",), ("/", "/**")),)
    assert make().narrow(path="/a").caveats[2:] == (Req(("*",), ("/a",)),)
    assert make().narrow().caveats[2:] == ()


@pytest.mark.parametrize(
    ("expires_in_s", "now_s"),
    [
        (60, None), (0, NOW_S), (0.5, NOW_S), (-1, NOW_S), (2**40, NOW_S), (float("nan"), NOW_S), (float("inf"), NOW_S),
        (60, float("nan")), (60, float("inf")), (60, float("-inf")), (60, -1), (60, 2**53),
    ],
)  # fmt: skip
def test_narrow_refuses_an_invalid_lifetime_or_time(expires_in_s: float, now_s: float | None) -> None:
    with pytest.raises(InvalidCaveat, match=r"^(expires_in_s|now_s)=\S+ is not a (duration|time)"):
        make().narrow(expires_in_s=expires_in_s, now_s=now_s)


@pytest.mark.parametrize(
    "wrong", [{"action": "wr"}, {"audience": ""}, {"method": "get"}, {"path": "v1"}, {"resource": {"app": {}}}]
)
def test_narrow_refuses_an_unreadable_caveat(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidCaveat):
        make().narrow(**wrong)


# --- secrecy ----------------------------------------------------------------------------------------------------


def assert_hidden(shown: str, *tokens: Macaroon) -> None:
    """Assert that ``shown`` contains no 8 consecutive characters of any token's tail, in any form."""
    for token in tokens:
        secrets = [token.text[-49:], token.tail.hex(), token.tail.hex().upper(), repr(token.tail)[2:-1]]
        for secret in secrets:
            for at in range(len(secret) - 7):
                assert secret[at : at + 8] not in shown


@given(st.lists(RESTRICTIONS, max_size=3), st.binary(min_size=10, max_size=10), st.data())
def test_no_repr_and_no_error_contains_a_tail(caveats: list[AnyCaveat], random: bytes, data: st.DataObject) -> None:
    token = mint(NAME, ROOT_KEY, kid=KID, time_ms=NOW_MS, random=random, caveats=[Exp(5), *caveats])
    authority = Authority()
    verified = authority.verify(token)
    shown = [repr(token), str(token), repr(verified.macaroon), f"{token}", repr(Authority().verifier)]
    at = data.draw(st.integers(0, len(token.raw) - 1))
    attempts: list[str | bytes] = [
        token.text[:at],
        token.text[:at] + "!" + token.text[at:],
        f"Bearer {token.text}",
        token.text + ",x",
    ]
    attempts += [token.raw[:at], token.raw + b"x", token.raw[:at] + b"\x80" + token.raw[at:], token.raw[::-1]]
    for attempt in attempts:
        with pytest.raises(TkdbError) as caught:
            authority.verify(attempt)
        shown += [str(caught.value), repr(caught.value)]
    assert_hidden("\n".join(shown), token)


def test_the_repr_of_a_verified_token_contains_no_tail() -> None:
    token = make()
    assert_hidden(repr(Authority().verify(token)), token)
    for shown in (token.text, token.tail.hex(), repr(token.raw)):  # the control: a shown token would be found
        with pytest.raises(AssertionError):
            assert_hidden(shown, token)


def test_a_repr_names_the_lineage() -> None:
    assert repr(make()) == "Macaroon(tkdb.example, lineage 6b6b6b6b…/018bcfe56800…, 2 caveats, m 2)"


def test_a_descendant_contains_no_part_of_its_parents_tail() -> None:
    token = make()
    tokens = [token, token.narrow(Act("r")), token.narrow(Act("r"), Act("r"))]
    for parent, child in pairwise(tokens):
        assert_hidden(child.text + child.raw.hex(), parent)


def test_an_identifier_alone_is_malformed() -> None:
    with pytest.raises(MalformedToken):
        Macaroon.parse(IDENTIFIER)


def test_a_token_reads_back_as_the_packets_that_were_written() -> None:
    token = make(Exp(5), App("long", "a" * 300))
    assert token.packets == (encode(Exp(5)), encode(App("long", "a" * 300)))
    assert Macaroon.parse(token.raw).packets == token.packets


def test_narrow_ignores_the_order_of_resources() -> None:
    token = make()
    one = token.narrow(resource={"db": {"b": "r", "a": "rw"}, "app": {"shop": "r"}})
    other = token.narrow(resource={"app": {"shop": "r"}, "db": {"a": "rw", "b": "r"}})
    assert one == other


def test_a_bind_cannot_be_added_to_a_root() -> None:
    with pytest.raises(InvalidCaveat, match="allowed only in a discharge"):
        make().narrow(Bind.from_branch(b"b" * 16))
