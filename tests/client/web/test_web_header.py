"""The header reader: it accepts one header with one scheme and one bundle, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb.errors import Reason
from tkdb_client.web.header import MAX_BYTES, bundle_text
from tkdb_client.web.rejection import Rejection

TOKEN = "tkdb_AgELdGtkYi50ZXN0"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (f" {TOKEN}", TOKEN),
        (f"   {TOKEN}  ", TOKEN),
        (f" {TOKEN},{TOKEN}", f"{TOKEN},{TOKEN}"),
        (f" {TOKEN} , {TOKEN}", f"{TOKEN} , {TOKEN}"),
        (" AgELdGtk+/==", "AgELdGtk+/=="),
    ],
)
def test_a_bundle_is_read_with_any_case_of_the_scheme(scheme: str, rest: str, text: str) -> None:
    assert bundle_text([f"{scheme}{rest}".encode()]) == text


@pytest.mark.parametrize("values", [[], [b"Basic a2ltOmtpbQ=="], [b"Digest x"], [TOKEN.encode()], [b""], [b"\xff"]])
def test_another_scheme_presents_no_token(values: list[bytes]) -> None:
    assert bundle_text(values) is None


@pytest.mark.parametrize(
    "values",
    [
        [b"Bearer a", b"Bearer a"],
        [b"Bearer a", b"Basic b"],
        [b"", b"Bearer a"],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer a, Bearer b"],
        [b"Bearer a,"],
        [b"Bearer ,a"],
        [b"Bearer a b"],
        [b"Bearer a\x00b"],
        [b"Bearer a\tb"],
        [b"Bearer a\r\nx-admin: 1"],
        [b"Bearer t\xc3\xb6ken"],
        [b"Bearer \xff"],
        [b'Bearer "a"'],
        [b"Bearer Bearer a"],
        [b"Bearer a\n"],
    ],
)
def test_a_header_that_is_not_one_bundle_is_malformed(values: list[bytes]) -> None:
    with pytest.raises(Rejection) as caught:
        bundle_text(values)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


def test_a_header_of_a_megabyte_is_over_the_limit() -> None:
    with pytest.raises(Rejection) as caught:
        bundle_text([b"Bearer " + b"a" * 1_000_000])
    assert (caught.value.status, caught.value.reason) == (401, Reason.OVER_LIMIT)
    assert bundle_text([b"Bearer " + b"a" * (MAX_BYTES - 7)]) == "a" * (MAX_BYTES - 7)


@given(st.lists(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(b"Bearer ".__add__)), max_size=3))
def test_any_header_gives_a_bundle_none_or_a_rejection(values: list[bytes]) -> None:
    try:
        text = bundle_text(values)
    except Rejection:
        return
    if text is not None:
        (value,) = values
        assert value[:7].lower() == b"bearer "
        assert value[7:].strip(b" ") == text.encode("ascii")
        assert not set(text) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=, ")


@given(st.text(st.sampled_from("ab,= \t"), max_size=200))
def test_any_number_of_separators_is_read_or_rejected(rest: str) -> None:
    try:
        text = bundle_text([b"Bearer " + rest.encode()])
    except Rejection:
        assert not rest.strip() or any(
            not part.strip() or " " in part.strip() or "\t" in part for part in rest.split(",")
        )
    else:
        assert text == rest.strip(" ")
