"""Tokens are exchanged with pymacaroons, the Python implementation of libmacaroons, and are equal byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymacaroons import MACAROON_V2, Verifier
from pymacaroons import Macaroon as Reference
from pymacaroons.exceptions import MacaroonInvalidSignatureException
from pymacaroons.serializers.binary_serializer import BinarySerializer

from tests.macaroon.forge import IDENTIFIER, KID, NAME, NOW_MS, ROOT_KEY, Authority
from tests.macaroon.strategies import MINTABLE, RESTRICTIONS
from tkdb.errors import BadSignature, DischargeMissing, InvalidCaveat, MalformedToken
from tkdb.macaroon.caveats import Act, AnyCaveat, App, Exp, encode
from tkdb.macaroon.identifier import build
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import ThirdParty

EXP = Exp(NOW_MS // 1000 + 3600)
LENGTHS = [1, 126, 127, 128, 129, 255, 256, 1000]


def raw_of(reference: Any) -> bytes:
    return bytes(BinarySerializer().serialize_raw(reference))


def reference_of(raw: bytes) -> Any:
    return BinarySerializer().deserialize_raw(raw)


def minted(*caveats: AnyCaveat, m: int = 0, key: bytes = ROOT_KEY) -> Any:
    identifier = build(kid=KID, time_ms=NOW_MS, random=b"randomness", m=m)
    reference = Reference(location=NAME, identifier=identifier, key=key, version=MACAROON_V2)
    for caveat in caveats:
        reference.add_first_party_caveat(encode(caveat))
    return reference


def caveats_verified_there(raw: bytes, key: bytes = ROOT_KEY) -> list[bytes]:
    seen: list[bytes] = []

    def see(cid: str | bytes) -> bool:
        seen.append(cid if isinstance(cid, bytes) else cid.encode())
        return True

    verifier = Verifier()
    verifier.satisfy_general(see)
    assert verifier.verify(reference_of(raw), key)
    return seen


@given(st.lists(MINTABLE, max_size=4), st.lists(RESTRICTIONS, max_size=3))
def test_both_libraries_make_the_same_bytes(own: list[AnyCaveat], appended: list[AnyCaveat]) -> None:
    try:
        ours = Authority().mint(EXP, *own).narrow(*appended)
    except InvalidCaveat:
        return  # two subjects
    assert raw_of(minted(EXP, *own, *appended, m=1 + len(own))) == ours.raw


@given(st.lists(RESTRICTIONS, min_size=1, max_size=4))
def test_our_tokens_verify_there(caveats: list[AnyCaveat]) -> None:
    token = Authority().mint(EXP).narrow(*caveats)
    assert caveats_verified_there(token.raw) == list(token.packets)
    assert raw_of(reference_of(token.raw)) == token.raw


def test_our_token_under_another_key_does_not_verify_there() -> None:
    with pytest.raises(MacaroonInvalidSignatureException):
        caveats_verified_there(Authority().mint().raw, key=b"x" * 32)


@given(st.lists(RESTRICTIONS, min_size=1, max_size=4))
def test_their_tokens_verify_here(caveats: list[AnyCaveat]) -> None:
    assert Authority().verify(raw_of(minted(EXP, *caveats, m=1))).caveats == (EXP, *caveats)


def test_their_token_under_another_key_does_not_verify_here() -> None:
    with pytest.raises(BadSignature):
        Authority().verify(raw_of(minted(EXP, m=1, key=b"x" * 32)))


def test_each_library_reads_the_others_text() -> None:
    reference = minted(EXP, m=1)
    assert Macaroon.parse(reference.serialize()).raw == raw_of(reference)
    bare = Macaroon.parse(reference.serialize()).text.removeprefix("tkdb_")[:-6]
    assert raw_of(Reference.deserialize(bare)) == raw_of(reference)


def test_each_library_attenuates_tokens_that_the_other_attenuated() -> None:
    reference = reference_of(Authority().mint(EXP).raw)
    reference.add_first_party_caveat(encode(Act("rw")))
    token = Macaroon.parse(raw_of(reference)).narrow(Act("r"))
    reference = reference_of(token.raw)
    reference.add_first_party_caveat(encode(App("tier", "gold")))
    raw = raw_of(reference)
    assert Authority().verify(raw).caveats == (EXP, Act("rw"), Act("r"), App("tier", "gold"))
    assert caveats_verified_there(raw) == list(Macaroon.parse(raw).packets)


@pytest.mark.parametrize("size", LENGTHS)
def test_caveats_of_every_length_have_the_same_bytes(size: int) -> None:
    caveat = App("a", "x" * size)
    for m, ours in ((1, Authority().mint(caveat)), (0, Macaroon.parse(raw_of(minted())).narrow(caveat))):
        assert ours.raw == raw_of(minted(caveat, m=m))
        assert caveats_verified_there(ours.raw) == [encode(caveat)]


@pytest.mark.parametrize("size", LENGTHS)
def test_a_third_party_caveat_added_there_is_kept_and_needs_a_discharge(size: int) -> None:
    reference = reference_of(Authority().mint(EXP).raw)
    reference.add_third_party_caveat("https://login.example", "shared key", "t" * size)
    raw = raw_of(reference)
    read = Macaroon.parse(raw)
    third = read.packets[-1]
    assert isinstance(third, ThirdParty)
    assert (third.location, third.ticket, len(third.vid)) == (b"https://login.example", b"t" * size, 72)

    child = read.narrow(Act("r"), App("tier", "gold"))
    reference.add_first_party_caveat(encode(Act("r")))
    reference.add_first_party_caveat(encode(App("tier", "gold")))
    assert child.raw == raw_of(reference)
    for presented in (read, child):
        with pytest.raises(DischargeMissing, match=r"caveat 2 needs a discharge from 'https://login\.example'"):
            Authority().verify(presented)


def test_a_third_party_caveat_that_we_kept_is_discharged_there() -> None:
    reference = reference_of(Authority().mint(EXP).raw)
    reference.add_third_party_caveat("https://login.example", "shared key", "ticket")
    child = Macaroon.parse(raw_of(reference)).narrow(Act("r"))
    discharge = Reference(location="https://login.example", identifier="ticket", key="shared key", version=MACAROON_V2)
    root = reference_of(child.raw)
    verifier = Verifier()
    verifier.satisfy_general(lambda _: True)
    assert verifier.verify(root, ROOT_KEY, [root.prepare_for_request(discharge)])


def test_other_encodings_that_they_accept_are_refused_here() -> None:
    """pymacaroons reads these other encodings as the same token."""
    raw = Authority().mint().raw
    long_length = raw[:1] + b"\x01\x8c\x00" + raw[3:]
    assert raw_of(reference_of(long_length)) == raw  # the control: pymacaroons reads the same token
    assert raw_of(reference_of(raw + b"trailing")) == raw
    for other in (long_length, raw + b"trailing"):
        with pytest.raises(MalformedToken):
            Authority().verify(other)


def test_version_1_is_refused() -> None:
    reference = Reference(location=NAME, identifier="id", key=ROOT_KEY, version=1)
    for form in (raw_of(reference), reference.serialize()):
        with pytest.raises(MalformedToken):
            Macaroon.parse(form)
    assert IDENTIFIER[0] == 1
