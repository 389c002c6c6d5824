"""Armored text: each value has one text, and a truncated or altered text is detected."""

from __future__ import annotations

import string
from base64 import urlsafe_b64encode
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb.armor import ArmorError, ChecksumMismatch, Stem, armor, b64url, b64url_bytes, dearmor

PREFIX = "tkdb_"
ALPHABET = string.ascii_letters + string.digits + "-_"


def sealed(body: str) -> str:
    """Return ``body`` with a correct checksum, even if the body itself is invalid."""
    return body + armor(body, b"")[len(body) :]


@given(st.binary(max_size=200))
def test_armored_bytes_are_read_back_unchanged(raw: bytes) -> None:
    assert dearmor(PREFIX, armor(PREFIX, raw)) == raw
    assert b64url_bytes(b64url(raw).encode()) == raw


@given(st.binary(max_size=64))
def test_the_text_is_prefix_base64url_and_checksum(raw: bytes) -> None:
    text = armor(PREFIX, raw)
    body, digits = text[:-6], text[-6:]
    assert body == PREFIX + urlsafe_b64encode(raw).rstrip(b"=").decode()
    number = 0
    for digit in digits:
        number = number * 62 + (string.digits + string.ascii_uppercase + string.ascii_lowercase).index(digit)
    assert number == crc32(body.encode())


@given(st.text(st.sampled_from(ALPHABET + "+/= \n\x00é"), max_size=12))
def test_each_value_has_one_text_even_if_the_checksum_is_right(body: str) -> None:
    text = sealed(PREFIX + body) if body.isascii() else PREFIX + body
    try:
        raw = dearmor(PREFIX, text)
    except ArmorError:
        return
    assert armor(PREFIX, raw) == text


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_stem_returns_the_rest_of_the_whole_text(known: bytes, more: bytes) -> None:
    stem = Stem.from_bytes(PREFIX, known)
    assert stem.rest(armor(PREFIX, known + more)) == more
    other = stem.rest(armor(PREFIX, more))
    assert other == (more[len(known) :] if more.startswith(known) else None)


@given(st.binary(max_size=9), st.text(st.sampled_from(ALPHABET + "+/= \n\x00"), max_size=12), st.booleans())
def test_a_stem_reads_as_strictly_as_dearmor(known: bytes, rest: str, seal: bool) -> None:
    stem = Stem.from_bytes(PREFIX, known)
    text = sealed(stem.text + rest) if seal else stem.text + rest
    try:
        whole = dearmor(PREFIX, text)
    except ArmorError as error:
        with pytest.raises(type(error)):
            stem.rest(text)
        return
    rest_bytes = stem.rest(text)
    assert rest_bytes == (whole[len(known) :] if whole.startswith(known) else None)


@pytest.mark.parametrize("body", ["Ag==", "AgA=", "AgAA====", "=AAA", "A=AA", "===="])
def test_padding_is_refused(body: str) -> None:
    with pytest.raises(ArmorError, match="outside base64url"):
        b64url_bytes(body.encode())
    with pytest.raises(ArmorError, match="outside base64url"):
        dearmor(PREFIX, sealed(PREFIX + body))


@pytest.mark.parametrize("body", ["+AAA", "AA/A", "AA+", "A A ", "AAA\n", "\tAAA", "A.AA", "AAA\x00", "AA?A"])
def test_characters_outside_base64url_are_refused(body: str) -> None:
    with pytest.raises(ArmorError):
        b64url_bytes(body.encode())


@pytest.mark.parametrize("last", sorted(set(ALPHABET) - set("AQgw")))
def test_stray_bits_after_one_byte_are_refused(last: str) -> None:
    with pytest.raises(ArmorError, match="stray bits"):
        b64url_bytes(f"A{last}".encode())


@pytest.mark.parametrize("last", sorted(set(ALPHABET) - set("AEIMQUYcgkosw048")))
def test_stray_bits_after_two_bytes_are_refused(last: str) -> None:
    with pytest.raises(ArmorError, match="stray bits"):
        b64url_bytes(f"AA{last}".encode())


@pytest.mark.parametrize("size", [1, 5, 9])
def test_an_impossible_length_is_refused(size: int) -> None:
    with pytest.raises(ArmorError, match="stray bits"):
        b64url_bytes(b"A" * size)


def test_every_truncation_is_detected() -> None:
    text = armor(PREFIX, bytes(range(40)))
    for size in range(len(PREFIX), len(text)):
        with pytest.raises(ChecksumMismatch):
            dearmor(PREFIX, text[:size])
    for size in range(len(PREFIX)):  # Without the prefix, the kind of text can't be known.
        with pytest.raises(ArmorError, match="doesn't begin with"):
            dearmor(PREFIX, text[:size])


def test_every_altered_character_is_detected() -> None:
    text = armor(PREFIX, bytes(range(40)))
    for at in range(len(text)):
        for character in ALPHABET + "+/=. \n\x00\x7f":
            if character != text[at]:
                with pytest.raises(ArmorError):
                    dearmor(PREFIX, text[:at] + character + text[at + 1 :])


@pytest.mark.parametrize(
    "text", ["tkdb_é", "tkdb_\ud800", "tkdb_aGVsbG8é0frkqS", "tkdb_" + "0" * 6 + "\N{FULLWIDTH DIGIT ONE}"]
)
def test_a_non_ascii_character_is_refused(text: str) -> None:
    with pytest.raises(ArmorError, match="not ASCII"):
        dearmor(PREFIX, text)


@pytest.mark.parametrize("prefix", ["tkdbauth_", "tkd", "TKDB_", ""])
def test_another_prefix_is_not_reported_as_truncation(prefix: str) -> None:
    with pytest.raises(ArmorError, match="doesn't begin with tkdb_") as caught:
        dearmor(PREFIX, armor(prefix, b"hello"))
    assert not isinstance(caught.value, ChecksumMismatch)


@given(st.text(max_size=40) | st.text(max_size=40).map(PREFIX.__add__))
def test_any_text_is_read_or_raises_armor_error(text: str) -> None:
    try:
        raw = dearmor(PREFIX, text)
    except ArmorError:
        return
    assert armor(PREFIX, raw) == text
