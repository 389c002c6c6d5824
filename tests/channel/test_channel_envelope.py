"""The envelope of a request: its encoding, padding, signature and age limits."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import errors
from tkdb.channel.envelope import (
    MAX_AGE_MS,
    MAX_AHEAD_MS,
    Envelope,
    check_time,
    decode,
    encode,
    prologue,
    signed_bytes,
    verify_signature,
)
from tkdb.channel.keys import SignerSecret
from tkdb.channel.padding import MAX_PAYLOAD_BYTES, pad, unpad

NOW_MS = 1_700_000_000_000


def envelope_of(time_ms: int) -> Envelope:
    return Envelope(time_ms, bytes(16), 0, b"body")


@pytest.mark.parametrize("age_ms", [-MAX_AHEAD_MS, -1, 0, 1, MAX_AGE_MS])
def test_a_request_within_the_time_limits_passes(age_ms: int) -> None:
    check_time(envelope_of(NOW_MS - age_ms), NOW_MS)


@pytest.mark.parametrize("age_ms", [-NOW_MS, -MAX_AHEAD_MS - 1, MAX_AGE_MS + 1, NOW_MS])
def test_a_request_too_old_or_in_the_future_is_refused_with_both_times(age_ms: int) -> None:
    with pytest.raises(errors.OutOfTime) as caught:
        check_time(envelope_of(NOW_MS - age_ms), NOW_MS)
    assert str(NOW_MS) in caught.value.message
    assert str(NOW_MS - age_ms) in caught.value.message
    assert "clock" in caught.value.hint


def test_the_latest_time_that_an_envelope_can_contain_is_refused_as_out_of_time() -> None:
    with pytest.raises(errors.OutOfTime):
        check_time(decode(encode(envelope_of(2**53 - 1))), NOW_MS)


def test_prologues_of_different_paths_and_names_differ() -> None:
    parts = ["", "a", "aa", "/v1/sign", "\0", "\0\x01a", "\0\0"]
    made = {prologue(path, name) for path, name in product(parts, parts)}
    assert len(made) == len(parts) ** 2


def test_the_bytes_of_the_prologue_and_the_signed_bytes_never_change() -> None:
    """The journal stores signatures, and they must verify years later: any change here needs a new label."""
    context = prologue("/v1/sign", "a.b")
    assert context == b"tkdb channel 1\0\x08/v1/sign\0\x03a.b"
    assert signed_bytes(context, 258, b"i" * 16, b"body") == (
        b"tkdb request 1\0\x1dtkdb channel 1\0\x08/v1/sign\0\x03a.b\0\0\0\0\0\0\x01\x02iiiiiiiiiiiiiiii\0\0\0\x04body"
    )


def test_a_stored_signature_verifies_only_with_its_own_request_and_signer() -> None:
    signer = SignerSecret(bytes(range(32)))
    context = prologue("/v1/write", "tkdb.example")
    signature = signer.sign(signed_bytes(context, NOW_MS, bytes(16), b"body"))
    verify_signature(signer.public, context, NOW_MS, bytes(16), b"body", signature)
    other = SignerSecret(bytes(32))
    for wrong in (
        (other.public, context, NOW_MS, bytes(16), b"body", signature),
        (signer.public, prologue("/v1/sign", "tkdb.example"), NOW_MS, bytes(16), b"body", signature),
        (signer.public, prologue("/v1/write", "tkdb.other"), NOW_MS, bytes(16), b"body", signature),
        (signer.public, context, NOW_MS + 1, bytes(16), b"body", signature),
        (signer.public, context, NOW_MS, bytes([1] * 16), b"body", signature),
        (signer.public, context, NOW_MS, bytes(16), b"bodY", signature),
        (signer.public, context, NOW_MS, bytes(16), b"body", b""),
    ):
        with pytest.raises(errors.ChannelError):
            verify_signature(*wrong)


COUNTS = st.integers(0, 2**53 - 1)


@given(COUNTS, st.binary(min_size=16, max_size=16), COUNTS, st.binary(), st.binary(max_size=64))
def test_an_envelope_survives_encoding(
    time_ms: int, request_id: bytes, position: int, body: bytes, signature: bytes
) -> None:
    envelope = Envelope(time_ms, request_id, position, body, signature)
    assert decode(encode(envelope)) == envelope


@given(st.binary())
def test_any_bytes_are_an_envelope_or_a_channel_error(payload: bytes) -> None:
    try:
        envelope = decode(payload)
    except errors.ChannelError:
        return
    assert len(envelope.request_id) == 16


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(-1, bytes(16), 0, b""),
        Envelope(2**53, bytes(16), 0, b""),
        Envelope(0, bytes(15), 0, b""),
        Envelope(0, bytes(17), 0, b""),
        Envelope(0, bytes(16), -1, b""),
        Envelope(0, bytes(16), 0, b"", bytes(65)),
    ],
)
def test_an_envelope_with_a_field_out_of_range_is_refused(envelope: Envelope) -> None:
    with pytest.raises(errors.ChannelError):
        decode(encode(envelope))


def test_an_envelope_with_an_extra_field_is_refused() -> None:
    longer = encode(Envelope(0, bytes(16), 0, b""))
    assert longer[0] == 0x95  # msgpack: an array of 5
    with pytest.raises(errors.ChannelError):
        decode(b"\x96" + longer[1:] + b"\x00")


@given(st.binary(max_size=1024))
def test_padding_rounds_lengths_up_to_steps_and_can_be_removed(payload: bytes) -> None:
    assert len(pad(payload)) % 256 == 0
    assert len(pad(payload)) - len(payload) < 4 + 256
    assert unpad(pad(payload)) == payload


@given(st.binary(max_size=600))
def test_each_payload_has_one_padded_form(padded: bytes) -> None:
    try:
        payload = unpad(padded)
    except errors.ChannelError:
        return
    assert pad(payload) == padded


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        bytes(4),
        pad(b"x") + bytes(256),
        pad(b"x")[:-1],
        pad(b"x")[:-1] + b"\x01",
        b"\0\0\0\xfd" + bytes(252),
        b"\xff\xff\xff\xff" + bytes(252),
        (MAX_PAYLOAD_BYTES + 1).to_bytes(4, "big") + bytes(MAX_PAYLOAD_BYTES + 256),
    ],
    ids=[
        "empty",
        "not a whole step",
        "an extra step",
        "cut",
        "not zeros",
        "wrong length",
        "huge length",
        "over the limit",
    ],
)
def test_wrong_padding_is_refused(padded: bytes) -> None:
    with pytest.raises(errors.ChannelError):
        unpad(padded)
