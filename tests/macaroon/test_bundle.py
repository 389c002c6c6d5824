"""The tokens of one header: the reader accepts only one form, and limits the size of every part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.forge import Authority, field, first_party, macaroon, section
from tkdb.armor import armor
from tkdb.errors import Denied, MalformedToken, OverLimit, TruncatedToken
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, App
from tkdb.macaroon.limits import Limits
from tkdb.macaroon.wire import PREFIX, encode_text

TOKEN = Authority().mint()
DISCHARGE = macaroon(first_party(), header=section(field(1, b"https://login.example"), field(2, b"ticket")))
PAIR = f"{TOKEN.text},{encode_text(DISCHARGE)}"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer  ", "bEaReR   "])
def test_the_scheme_is_bearer_in_any_case(scheme: str) -> None:
    assert Bundle.from_header(scheme + TOKEN.text).root == TOKEN
    assert Bundle.from_header(scheme + TOKEN.text + "  ").root == TOKEN


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Basic dXNlcg==", "Bearertkdb_", " Bearer x", "FlyV1 fm2_x", TOKEN.text, "Bearer\t" + TOKEN.text],
)
def test_another_scheme_is_malformed(value: str) -> None:
    with pytest.raises(MalformedToken, match="scheme is not Bearer") as caught:
        Bundle.from_header(value)
    assert TOKEN.text[10:20] not in str(caught.value)


@pytest.mark.parametrize("value", ["Bearer ", "Bearer x", "Bearer tkdb", "Bearer \u00a0" + TOKEN.text, "Bearer a b"])
def test_a_bearer_header_without_a_readable_token_is_malformed(value: str) -> None:
    with pytest.raises(MalformedToken):
        Bundle.from_header(value)


def test_a_root_and_its_discharges_are_read_in_order() -> None:
    other = macaroon(header=section(field(1, b"x"), field(2, b"y")))
    bundle = Bundle.parse(f"{TOKEN.text}, {encode_text(DISCHARGE)} ,{encode_text(other)}")
    assert (bundle.root, bundle.discharges) == (TOKEN, (DISCHARGE, other))
    assert Bundle.parse(bundle.text) == bundle
    assert Bundle.parse(TOKEN.text).discharges == ()
    assert Bundle.parse(TOKEN.raw).root == TOKEN


@pytest.mark.parametrize(
    "text",
    [",", f"{TOKEN.text},", f",{TOKEN.text}", f"{TOKEN.text},,{TOKEN.text}", f"{encode_text(DISCHARGE)},{TOKEN.text}",
     f"{TOKEN.text},x", f"{TOKEN.text};{TOKEN.text}", f"{TOKEN.text} {TOKEN.text}", f"{TOKEN.text},\t{TOKEN.text}"],
)  # fmt: skip
def test_a_bundle_in_another_form_is_malformed(text: str) -> None:
    with pytest.raises((MalformedToken, TruncatedToken)):
        Bundle.parse(text)


def test_a_discharge_with_a_trailing_byte_is_malformed() -> None:
    with pytest.raises(MalformedToken):
        Bundle.parse(f"{TOKEN.text},{armor(PREFIX, DISCHARGE + b'x')}")


def test_a_discharge_cut_short_is_truncated() -> None:
    with pytest.raises(TruncatedToken):
        Bundle.parse(PAIR[:-1])


def test_more_discharges_than_the_limit_are_denied() -> None:
    discharge = encode_text(DISCHARGE)
    assert len(Bundle.parse(",".join([TOKEN.text, *[discharge] * 16])).discharges) == 16
    with pytest.raises(OverLimit, match="has 17 discharges; at most 16 are read"):
        Bundle.parse(",".join([TOKEN.text, *[discharge] * 17]))


def test_a_bundle_of_commas_is_over_limit_before_any_token_is_read() -> None:
    with pytest.raises(OverLimit, match="discharges"):
        Bundle.parse("," * 1_000)
    with pytest.raises(OverLimit, match="characters"):
        Bundle.parse("," * 70_000)


def test_a_bundle_at_its_byte_limit_is_read_and_a_larger_one_is_denied() -> None:
    limits = Limits(bundle_bytes=len(TOKEN.raw) + len(DISCHARGE))
    assert Bundle.parse(PAIR, limits).discharges == (DISCHARGE,)
    with pytest.raises(OverLimit, match="more than the"):
        Bundle.parse(f"{TOKEN.narrow(Act('r')).text},{encode_text(DISCHARGE)}", limits)


def test_the_token_limits_hold_for_each_token_of_a_bundle() -> None:
    big = encode_text(macaroon(first_party(b"c" * 16_384), header=section(field(1, b"x"), field(2, b"y"))))
    many = encode_text(macaroon(*[first_party()] * 65, header=section(field(1, b"x"), field(2, b"y"))))
    for discharge in (big, many):
        with pytest.raises(OverLimit):
            Bundle.parse(f"{TOKEN.text},{discharge}")
    with pytest.raises(OverLimit):
        TOKEN.narrow(App("long", "a" * 16_384))


def test_the_repr_of_a_bundle_contains_no_token() -> None:
    shown = repr(Bundle.parse(PAIR))
    assert shown == f"Bundle({TOKEN!r}, 1 discharges)"
    assert encode_text(DISCHARGE)[10:30] not in shown


@given(st.text(max_size=80) | st.lists(st.sampled_from([TOKEN.text, PAIR, "", " ", "x"]), max_size=6).map(",".join))
def test_any_text_is_read_as_a_bundle_or_denied(text: str) -> None:
    for value in (text, f"Bearer {text}"):
        try:
            bundle = Bundle.from_header(value)
        except Denied:
            continue
        assert Bundle.parse(bundle.text) == bundle
