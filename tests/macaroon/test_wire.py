"""The strict reader: for each rule, a token that breaks only that rule. Each token has one encoding. Work is linear."""

from __future__ import annotations

import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.macaroon.forge import (
    HEADER,
    IDENTIFIED,
    IDENTIFIER,
    LOCATION,
    NAME,
    SIGNATURE,
    SIGNED,
    VERIFIED,
    VID,
    field,
    first_party,
    macaroon,
    mutations,
    section,
    third_party,
    write_packets,
)
from tkdb.armor import armor
from tkdb.errors import Denied, MalformedToken, OverLimit, TruncatedToken
from tkdb.macaroon import wire
from tkdb.macaroon.identifier import build
from tkdb.macaroon.limits import Limits
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import ThirdParty, decode_text, encode_text, read

LOCATION_FIELD = field(LOCATION, NAME.encode())
ID_FIELD = field(IDENTIFIED, IDENTIFIER)
CAVEAT = field(IDENTIFIED, b"caveat")
OTHER_LOCATION = field(LOCATION, b"elsewhere")
VID_FIELD = field(VERIFIED, VID)
GOOD = macaroon(first_party(), third_party(), first_party(b"c" * 200), third_party(b"l" * 130, b"t" * 300))


def cut(kind: int, claimed: int, value: bytes) -> bytes:
    """Return a field that claims another length than it has."""
    return bytes([kind, claimed]) + value


BROKEN = {
    "empty": b"",
    "version 1": b"0021location " + GOOD,
    "version 3": b"\x03" + GOOD[1:],
    "trailing byte": GOOD + b"\x00",
    "trailing macaroon": GOOD + GOOD,
    "leading byte": b"\x00" + GOOD,
    "no location": macaroon(header=section(ID_FIELD)),
    "empty location": macaroon(header=section(field(LOCATION, b""), ID_FIELD)),
    "no identifier": macaroon(header=section(LOCATION_FIELD)),
    "empty identifier": macaroon(header=section(LOCATION_FIELD, field(IDENTIFIED, b""))),
    "header out of order": macaroon(header=section(ID_FIELD, LOCATION_FIELD)),
    "location twice": macaroon(header=section(LOCATION_FIELD, LOCATION_FIELD, ID_FIELD)),
    "identifier twice": macaroon(header=section(LOCATION_FIELD, ID_FIELD, ID_FIELD)),
    "header with a vid": macaroon(header=section(LOCATION_FIELD, ID_FIELD, VID_FIELD)),
    "header with an unknown field": macaroon(header=section(LOCATION_FIELD, ID_FIELD, field(3, b"x"))),
    "header without an end": macaroon(header=LOCATION_FIELD + ID_FIELD),
    "padded location length": macaroon(header=section(field(LOCATION, NAME.encode(), length_bytes=2), ID_FIELD)),
    "padded identifier length": macaroon(header=section(LOCATION_FIELD, field(IDENTIFIED, IDENTIFIER, length_bytes=2))),
    "first-party location": macaroon(section(OTHER_LOCATION, CAVEAT)),
    "third party without location": macaroon(section(CAVEAT, VID_FIELD)),
    "third party with an empty location": macaroon(third_party(location=b"")),
    "empty caveat": macaroon(first_party(b"")),
    "empty caveat, padded length": macaroon(section(field(IDENTIFIED, b"", length_bytes=2))),
    "empty ticket": macaroon(third_party(ticket=b"")),
    "vid of 71 bytes": macaroon(third_party(vid=VID[1:])),
    "vid of 73 bytes": macaroon(third_party(vid=VID + b"v")),
    "empty vid": macaroon(third_party(vid=b"")),
    "padded vid length": macaroon(section(OTHER_LOCATION, CAVEAT, field(VERIFIED, VID, length_bytes=2))),
    "vid twice": macaroon(section(OTHER_LOCATION, CAVEAT, VID_FIELD, VID_FIELD)),
    "caveat location twice": macaroon(section(OTHER_LOCATION, OTHER_LOCATION, CAVEAT, VID_FIELD)),
    "caveat identifier twice": macaroon(section(CAVEAT, CAVEAT)),
    "caveat out of order": macaroon(section(CAVEAT, OTHER_LOCATION, VID_FIELD)),
    "vid before identifier": macaroon(section(OTHER_LOCATION, VID_FIELD, CAVEAT)),
    "caveat of a location alone": macaroon(section(OTHER_LOCATION)),
    "caveat of a vid alone": macaroon(section(VID_FIELD)),
    "caveat with a signature": macaroon(section(CAVEAT, field(SIGNED, SIGNATURE))),
    "caveat with an unknown field": macaroon(section(CAVEAT, field(3, b"x"))),
    "caveat of an unknown field": macaroon(section(field(5, b"x"))),
    "caveat without an end": macaroon(CAVEAT),
    "empty section": macaroon(b"\x00"),
    "caveat after the end": macaroon(first_party(), b"\x00", first_party()),
    "padded caveat length": macaroon(section(field(IDENTIFIED, b"caveat", length_bytes=2))),
    "padded length of a long caveat": macaroon(section(field(IDENTIFIED, b"c" * 200, length_bytes=3))),
    "padded ticket length": macaroon(section(OTHER_LOCATION, field(IDENTIFIED, b"ticket", length_bytes=2), VID_FIELD)),
    "length of four bytes": macaroon(section(b"\x02\x80\x80\x80\x01" + b"c" * 100)),
    "length that never ends": macaroon(section(b"\x02" + b"\xff" * 100)),
    "caveat longer than the token": macaroon(section(cut(IDENTIFIED, 100, b"caveat"))),
    "caveat that ends in the signature": macaroon(section(cut(IDENTIFIED, 20, b"caveat"))),
    "location longer than the token": macaroon(header=section(cut(LOCATION, 127, NAME.encode()), ID_FIELD)),
    "ticket longer than the token": macaroon(section(OTHER_LOCATION, b"\x02\xff\x7f" + b"t")),
    "no signature": macaroon(signature=b""),
    "empty signature": macaroon(signature=field(SIGNED, b"")),
    "signature of 31 bytes": macaroon(signature=field(SIGNED, SIGNATURE[1:])),
    "signature of 33 bytes": macaroon(signature=field(SIGNED, SIGNATURE + b"s")),
    "padded signature length": macaroon(signature=field(SIGNED, SIGNATURE, length_bytes=2)),
    "another type of signature": macaroon(signature=field(5, SIGNATURE)),
    "no end of caveats": macaroon(first_party())[:-35] + field(SIGNED, SIGNATURE),
    "extra end": macaroon(b"\x00\x00\x00"),
}


def test_a_well_formed_token_is_read() -> None:
    location, identifier, packets = read(GOOD)
    assert (location, identifier) == (NAME.encode(), IDENTIFIER)
    assert packets == [
        b"caveat",
        ThirdParty(b"elsewhere", b"ticket", VID),
        b"c" * 200,
        ThirdParty(b"l" * 130, b"t" * 300, VID),
    ]
    assert write_packets(location, identifier, packets, SIGNATURE) == GOOD
    assert read(macaroon()) == (NAME.encode(), IDENTIFIER, [])


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN.keys())
def test_a_token_that_breaks_one_rule_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedToken) as caught:
        read(raw)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("size", [1, 33, 35, 200])
def test_a_root_identifier_of_another_length_is_malformed(size: int) -> None:
    raw = macaroon(header=section(LOCATION_FIELD, field(IDENTIFIED, (IDENTIFIER * 7)[:size])))
    assert read(raw)[1] == (IDENTIFIER * 7)[:size]  # a discharge may have such an identifier
    with pytest.raises(MalformedToken, match="not one of a tkdb authority"):
        Macaroon.parse(raw)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_root_identifier_of_another_version_is_malformed(version: int) -> None:
    raw = macaroon(header=section(LOCATION_FIELD, field(IDENTIFIED, bytes([version]) + IDENTIFIER[1:])))
    with pytest.raises(MalformedToken, match="not one of a tkdb authority"):
        Macaroon.parse(raw)


@pytest.mark.parametrize("m", [1, 3, 64, 255])
def test_a_token_that_lacks_a_caveat_of_the_authority_is_malformed(m: int) -> None:
    header = section(LOCATION_FIELD, field(IDENTIFIED, build(kid=bytes(16), time_ms=0, random=bytes(10), m=m)))
    with pytest.raises(MalformedToken, match="caveats that the authority wrote are missing"):
        Macaroon.parse(macaroon(*[first_party()] * (m - 1 if m < 64 else 0), header=header))
    if m <= 64:
        assert Macaroon.parse(macaroon(*[first_party()] * m, header=header)).m == m


@given(st.binary(max_size=120).map(lambda tail: b"\x02" + tail) | st.binary(max_size=120))
def test_any_bytes_are_read_in_one_encoding_or_denied(raw: bytes) -> None:
    assert_one_encoding(raw)


SECTIONS = st.lists(
    st.binary(min_size=1, max_size=140).map(first_party)
    | st.builds(third_party, st.binary(min_size=1, max_size=140), st.binary(min_size=1, max_size=300))
    | st.sampled_from([b"\x00", CAVEAT, section(OTHER_LOCATION, CAVEAT), section(VID_FIELD), b"\x02", b"\x80"]),
    max_size=5,
)


@given(SECTIONS, st.binary(min_size=32, max_size=32))
def test_any_sections_are_read_in_one_encoding_or_denied(sections: list[bytes], signature: bytes) -> None:
    assert_one_encoding(macaroon(*sections, signature=field(SIGNED, signature)))


def test_every_small_change_is_read_in_one_encoding_or_denied() -> None:
    for raw in mutations(macaroon(first_party(), third_party(), first_party(b"c" * 130))):
        assert_one_encoding(raw)


def assert_one_encoding(raw: bytes) -> None:
    try:
        location, identifier, packets = read(raw)
    except (MalformedToken, OverLimit):
        return
    assert write_packets(location, identifier, packets, raw[-32:]) == raw


# --- text -------------------------------------------------------------------------------------------------------


def test_a_token_is_read_as_text_as_base64url_and_as_bytes() -> None:
    for form in (encode_text(GOOD), encode_text(GOOD).encode(), urlsafe(GOOD), urlsafe(GOOD).encode(), GOOD):
        assert decode_text(form) == GOOD


def test_every_cut_of_a_text_is_truncated() -> None:
    text = encode_text(GOOD)
    for size in range(len("tkdb_"), len(text)):
        with pytest.raises(TruncatedToken, match="ends early or was altered"):
            decode_text(text[:size])


def test_every_altered_character_of_a_text_is_truncated_or_malformed() -> None:
    text = encode_text(macaroon(first_party()))
    for at in range(len(text)):
        for character in map(chr, range(128)):
            if character != text[at]:
                with pytest.raises((TruncatedToken, MalformedToken)):
                    Macaroon.parse(text[:at] + character + text[at + 1 :])


@pytest.mark.parametrize("size", range(150, 156))
def test_bare_base64url_has_one_form(size: int) -> None:
    raw = macaroon(first_party(b"c" * size))
    text = urlsafe(raw)
    assert decode_text(text) == raw
    padded = text + "=" * (-len(text) % 4 or 4)
    standard = b64encode(raw.replace(b"s" * 32, b"\xff" * 32)).decode().rstrip("=")
    for other in (padded, standard, text + "\n", text + " ", f" {text}", text[:8] + "\n" + text[8:], text + "A"):
        with pytest.raises(MalformedToken):
            read(decode_text(other))
    if len(text) % 4:
        with pytest.raises(MalformedToken, match="stray bits"):
            decode_text(text[:-1] + chr(ord(text[-1]) + 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tkdb",
        "Bearer tkdb_x",
        '"tkdb_x"',
        "é",
        "\ud800",
        "tkdb_é",
        "AhAé",
        "Ah\ud800",
        "fm1_lJPE",
        b"\xff\xfe",
        b"\x01",
    ],
)
def test_a_text_in_another_form_is_malformed(text: str | bytes) -> None:
    with pytest.raises(MalformedToken):
        Macaroon.parse(text)


def test_a_key_in_place_of_a_token_is_malformed_and_not_shown() -> None:
    key = armor("tkdbauth_", b"secret" * 6)
    with pytest.raises(MalformedToken) as caught:
        decode_text(key)
    assert key[9:17] not in str(caught.value)


@given(st.text(max_size=60) | st.text(max_size=60).map("tkdb_".__add__) | st.binary(max_size=60))
def test_any_random_text_is_denied(text: str | bytes) -> None:
    with pytest.raises(Denied):
        Macaroon.parse(text)


# --- limits -----------------------------------------------------------------------------------------------------


def test_a_token_at_its_byte_limit_is_read_and_one_byte_more_is_denied() -> None:
    limits = Limits(token_bytes=len(GOOD))
    assert Macaroon.parse(GOOD, limits).raw == GOOD
    for longer in (GOOD + b"x", encode_text(GOOD + b"x")):
        with pytest.raises(OverLimit, match=f"has {len(GOOD) + 1} bytes; at most {len(GOOD)} are read"):
            Macaroon.parse(longer, limits)


def test_a_token_with_64_caveats_is_read_and_one_with_65_is_denied() -> None:
    assert len(read(macaroon(*[first_party()] * 64))[2]) == 64
    with pytest.raises(OverLimit, match="has 65 caveats; at most 64"):
        read(macaroon(*[first_party()] * 65))


def test_third_party_caveats_count_toward_the_limit() -> None:
    with pytest.raises(OverLimit, match="has 5 caveats; at most 4"):
        read(GOOD[:-35] + first_party() + GOOD[-35:], Limits(caveats=4))


def test_a_text_far_over_the_limit_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "dearmor", None)
    monkeypatch.setattr(wire, "b64url_bytes", None)
    for text in ("tkdb_" + "A" * 32_768, "Ag" + "A" * 32_768, b"tkdb_" + b"A" * 32_768):
        with pytest.raises(OverLimit):
            decode_text(text)


def test_the_default_limits_have_the_documented_values() -> None:
    assert Limits() == Limits(token_bytes=16_384, caveats=64, discharges=16, depth=4, bundle_bytes=32_768)


# --- linear work ------------------------------------------------------------------------------------------------

HOSTILE: dict[str, Callable[[int], bytes]] = {
    "shortest caveats": lambda size: filled(b"\x02\x01x\x00", size),
    "long lengths": lambda size: filled(first_party(b"c" * 128), size),
    "third parties": lambda size: filled(third_party(b"l", b"t"), size),
    "one caveat": lambda size: macaroon(first_party(b"c" * (size - 200))),
    "ends": lambda size: filled(b"\x00", size),
    "high bits": lambda size: filled(b"\x02\xff\xff", size),
    "locations": lambda size: filled(b"\x01\x01x", size),
}


def filled(pattern: bytes, size: int) -> bytes:
    return macaroon(pattern * ((size - 200) // len(pattern)))


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_costs_linear_work(hostile: Callable[[int], bytes]) -> None:
    lines = [lines_run(hostile(size)) for size in (4_000, 8_000, 16_000)]
    assert lines[1] <= 2.2 * lines[0] + 20
    assert lines[2] <= 2.2 * lines[1] + 20
    assert lines[2] <= 8 * 16_000


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_packets_of_a_token_are_smaller_than_the_token(hostile: Callable[[int], bytes]) -> None:
    raw = hostile(16_000)
    try:
        _, _, packets = read(raw, Limits(caveats=10**6))
    except MalformedToken:
        return
    size = sum(len(p) if isinstance(p, bytes) else len(p.location + p.ticket + p.vid) for p in packets)
    assert size < len(raw)


def lines_run(raw: bytes) -> int:
    """Return the number of lines that the reader runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != wire.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read(raw)
    except Denied:
        pass
    finally:
        sys.settrace(before)
    return count


def urlsafe(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def test_the_hand_written_header_follows_the_format() -> None:
    assert HEADER[:2] == b"\x01\x0c"
    assert HEADER.endswith(b"\x00")
