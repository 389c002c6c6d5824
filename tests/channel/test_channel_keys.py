"""Keys and identities as text: each has one form, a wrong one is refused with its reason, and no secret is shown."""

from __future__ import annotations

import hmac
import os
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import errors
from tkdb.armor import armor
from tkdb.channel.dh import KeyPair
from tkdb.channel.keys import (
    AuthorityIdentity,
    AuthorityPublic,
    AuthoritySecret,
    SignerPublic,
    SignerSecret,
    parse_name,
)

KINDS = [AuthoritySecret, AuthorityPublic, SignerSecret, SignerPublic]
AUTHORITY, SIGNER = AuthoritySecret(bytes(range(32))), SignerSecret(bytes(range(32)))
KEYS = [AUTHORITY, AUTHORITY.public, SIGNER, SIGNER.public]
OTHER = AuthoritySecret(bytes(32)).public


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_a_key_survives_formatting_and_parsing(
    key: AuthoritySecret | AuthorityPublic | SignerSecret | SignerPublic,
) -> None:
    again = type(key).parse(key.text())
    assert again.text() == key.text()
    assert key.text().startswith(key.PREFIX)


def test_the_text_format_of_every_key_never_changes() -> None:
    assert [key.text() for key in KEYS] == [
        "tkdbauth_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh81caO7D",
        "tkdbpub_j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF84MRDEv",
        "tkdbsigner_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh83Y835D",
        "tkdbsignerpub_zfL76nbtJj_ARzVHuceHGyRTiys_a5h7jByRzA8HuHJ2-lq1zoqTeoMbbwE600Yu7P_DZmpynC9M-tiQEfKsTQ0s4gxF",
    ]
    assert AUTHORITY.public.thumbprint.hex() == "0b9e3771dfd4d8505209fabe712aa760"
    assert SIGNER.public.thumbprint.hex() == "2a432a3903696aac2c67822678d6758e"


@pytest.mark.parametrize(("expected", "given_kind"), list(permutations(KINDS, 2)))
def test_a_key_of_the_wrong_kind_is_named_and_never_echoed(expected: type[AuthorityPublic], given_kind: type) -> None:
    key = next(key for key in KEYS if type(key) is given_kind)
    with pytest.raises(errors.ConfigurationError) as caught:
        expected.parse(key.text())
    message = str(caught.value)
    assert expected.KIND in message
    assert f"{key.KIND} was given" in message
    assert key.text()[len(key.PREFIX) :][:8] not in message
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_was_cut_short_is_reported_as_such(kind: type[AuthorityPublic]) -> None:
    key = next(key for key in KEYS if type(key) is kind)
    with pytest.raises(errors.ConfigurationError, match="cut short or altered"):
        kind.parse(key.text()[:-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_a_key_of_the_wrong_length_is_refused(kind: type[AuthorityPublic], size: int) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"this one has {size}"):
        kind.parse(armor(kind.PREFIX, bytes(size)))


@given(st.sampled_from(KINDS), st.text() | st.sampled_from(KINDS).flatmap(lambda k: st.text().map(k.PREFIX.__add__)))
def test_any_text_is_a_key_or_a_configuration_error(kind: type[AuthorityPublic], text: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        kind.parse(text)


@given(st.sampled_from([AuthorityPublic, SignerPublic]), st.binary(min_size=64, max_size=64))
def test_any_bytes_are_a_public_key_or_a_configuration_error(kind: type[AuthorityPublic], raw: bytes) -> None:
    try:
        key = kind.parse(armor(kind.PREFIX, raw[: kind.RAW_BYTES]))
    except errors.ConfigurationError:
        return
    assert kind.parse(key.text()) == key


def test_a_public_key_of_low_order_is_refused_in_the_configuration() -> None:
    with pytest.raises(errors.ConfigurationError, match="low order"):
        AuthorityPublic(bytes(32))
    with pytest.raises(errors.ConfigurationError, match="low order"):
        SignerPublic(bytes([1]) + bytes(63))


def test_no_repr_shows_a_secret() -> None:
    for key in (AUTHORITY, SIGNER):
        shown = repr(key) + str(key) + f"{key!s}" + repr([key, {"key": key}])
        assert key.text() not in shown
        assert key.text()[len(key.PREFIX) :][:10] not in shown
        assert key._raw.hex() not in shown
    assert "object at" in repr(KeyPair(bytes(range(32))))


def test_public_keys_compare_by_bytes_and_secrets_by_identity() -> None:
    assert AuthorityPublic.parse(AUTHORITY.public.text()) == AUTHORITY.public
    assert len({AUTHORITY.public, AuthorityPublic.parse(AUTHORITY.public.text()), OTHER}) == 2
    assert AUTHORITY.public != AUTHORITY.public.text()
    assert AuthoritySecret.parse(AUTHORITY.text()) != AUTHORITY
    assert len({AUTHORITY, SIGNER}) == 2


def test_a_signers_two_keys_are_derived_from_one_secret_by_hkdf() -> None:
    """Compute RFC 5869 by hand: extract, then one block of expand for each label."""
    extracted = hmac.digest(b"tkdb signer secret 1", bytes(range(32)), "sha256")
    scalar, seed = (hmac.digest(extracted, info + b"\x01", "sha256") for info in (b"x25519", b"ed25519"))
    assert KeyPair(scalar).public.raw == SIGNER.pair.public.raw
    assert seed != scalar
    SIGNER.public.verify(SIGNER.sign(b"message"), b"message")


def test_the_same_secret_gives_unrelated_keys_to_an_authority_and_a_signer() -> None:
    assert AUTHORITY.public.point.raw != SIGNER.public.point.raw
    assert AUTHORITY.public.thumbprint != SIGNER.public.thumbprint


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63), bytes(65)])
def test_an_invalid_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(errors.ChannelError):
        SIGNER.public.verify(signature, b"message")


def test_generated_keys_use_the_given_randomness() -> None:
    assert AuthoritySecret.generate(lambda size: bytes(range(size))).text() == AUTHORITY.text()
    assert SignerSecret.generate(lambda size: bytes(range(size))).text() == SIGNER.text()
    assert AuthoritySecret.generate(os.urandom).text() != AuthoritySecret.generate(os.urandom).text()


@pytest.mark.parametrize("keys", [(AUTHORITY.public,), (AUTHORITY.public, OTHER)])
def test_an_identity_survives_formatting_and_parsing(keys: tuple[AuthorityPublic, ...]) -> None:
    identity = AuthorityIdentity("https://tkdb.example:8080/a_b-c", keys)
    assert AuthorityIdentity.parse(identity.text()) == identity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an authority's identity, NAME=tkdbpub_…, was expected, and something else was given"),
        (AUTHORITY.public.text(), "and an authority's public key was given"),
        (SIGNER.text(), "and a signer's secret key was given"),
        ("a=", "an authority's public key"),
        (f"={OTHER.text()}", "name"),
        (f"a={OTHER.text()},{OTHER.text()}", "same public key"),
        (f"a={OTHER.text()},", "an authority's public key"),
        (f"a={OTHER.text()},{AUTHORITY.public.text()},{OTHER.text()}", "3 were given"),
        (f"a={OTHER.text()},{AUTHORITY.public.text()}" + f",{OTHER.text()}" * 9, "11 were given"),
        (f"a={AUTHORITY.text()}", "an authority's secret key was given"),
    ],
)
def test_an_invalid_identity_is_refused_and_never_echoed(text: str, expected: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        AuthorityIdentity.parse(text)
    assert expected in str(caught.value)
    assert AUTHORITY.text()[9:20] not in str(caught.value)


def test_an_identity_needs_a_key() -> None:
    with pytest.raises(errors.ConfigurationError, match="0 were given"):
        AuthorityIdentity("a", ())


@given(st.text() | st.text().map(lambda text: f"a={text}") | st.text().map(lambda text: f"a=tkdbpub_{text}"))
def test_any_text_is_an_identity_or_a_configuration_error(text: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        AuthorityIdentity.parse(text)


@pytest.mark.parametrize("name", ["a", "0", "tkdb.example", "http://a", "A" + "b" * 127, "a:1/x_y-z."])
def test_a_name_may_contain_letters_digits_and_some_signs(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a\n", "é", "a=b", "a,b", "A" + "b" * 128, "٣"])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="name can't be used"):
        parse_name(name)


def test_a_signers_public_key_that_is_not_on_the_curve_verifies_nothing() -> None:
    off_curve = SignerPublic(SIGNER.public.point.raw + b"\x02" + bytes(30) + b"\x7f")
    with pytest.raises(errors.ChannelError):
        off_curve.verify(SIGNER.sign(b"message"), b"message")
