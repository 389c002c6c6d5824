"""The limits of one message, and that arbitrary bytes raise only the errors of tkdb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkdb import api, errors
from tkdb.channel.client import Initiator
from tkdb.channel.dh import unreadable
from tkdb.channel.noise import MAX_MESSAGE_BYTES
from tkdb.channel.padding import MAX_PAYLOAD_BYTES
from tkdb.channel.server import Responder

if TYPE_CHECKING:
    from conftest import Scene

NOW_MS = 1_700_000_000_000
PATHS = sorted(api.CALLS_BY_PATH)
SHARED_SCENE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def largest_body(path: str) -> int:
    """Return the room in a payload next to the envelope's other parts: array, time, id, position, the body's header."""
    signature_bytes = 2 + 64 if path in api.SIGNED_PATHS else 2
    return MAX_PAYLOAD_BYTES - (1 + 9 + 18 + 1 + 3 + signature_bytes)


@pytest.mark.parametrize("path", PATHS)
def test_the_largest_request_and_answer_pass_and_one_byte_more_is_refused_before_sending(
    scene: Scene, path: str
) -> None:
    sealed = scene.seal(path, bytes(largest_body(path)))
    assert len(sealed.message) <= MAX_MESSAGE_BYTES
    opened = scene.responder.open(path, sealed.headers, sealed.message)
    with pytest.raises(errors.InvalidRequest, match="65,277 bytes, and one message carries at most 65,276"):
        opened.seal(bytes(MAX_PAYLOAD_BYTES + 1))
    # The refused answer used up nothing, so the error itself can still be sealed.
    assert sealed.open(opened.seal(bytes(MAX_PAYLOAD_BYTES))) == bytes(MAX_PAYLOAD_BYTES)

    with pytest.raises(errors.InvalidRequest, match="65,277 bytes, and one message") as caught:
        scene.seal(path, bytes(largest_body(path) + 1))
    assert caught.value.hint == "ask for fewer in one request"


def test_requests_of_similar_length_have_the_same_sealed_length(scene: Scene) -> None:
    assert len({len(scene.seal(api.VERIFY, bytes(size)).message) for size in range(200)}) == 1


def test_sealing_for_a_signed_path_without_a_signer_is_a_configuration_error(scene: Scene) -> None:
    anonymous = Initiator(scene.identity, signer=None, random=scene.random)
    for path in sorted(api.SIGNED_PATHS):
        with pytest.raises(errors.ConfigurationError, match="no signer's secret"):
            anonymous.seal(path, b"", request_id=bytes(16), now_ms=NOW_MS)


@pytest.mark.parametrize("path", ["", "/v1/verify/", "/v2/verify"])
def test_a_request_for_an_unknown_path_is_not_sealed(scene: Scene, path: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="a path of the authority"):
        scene.seal(path)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_request_id_of_the_wrong_length_is_not_sealed(scene: Scene, size: int) -> None:
    with pytest.raises(errors.InvalidRequest, match="request id"):
        scene.initiator.seal(api.VERIFY, b"", request_id=bytes(size), now_ms=NOW_MS)


def test_a_responder_needs_a_key_and_a_name(scene: Scene) -> None:
    with pytest.raises(errors.ConfigurationError, match="secret key"):
        Responder("a", [], [], random=scene.random)
    with pytest.raises(errors.ConfigurationError, match="name"):
        Responder("not a name", [scene.authority], [], random=scene.random)


def test_anonymous_callers_have_different_static_keys_and_new_ephemeral_keys_for_each_request(scene: Scene) -> None:
    one, other = (Initiator(scene.identity, signer=None, random=scene.random) for _ in range(2))
    assert one._anonymous[0].ours.public.raw != other._anonymous[0].ours.public.raw
    first, second = (one.seal(api.VERIFY, b"", request_id=bytes(16), now_ms=NOW_MS) for _ in range(2))
    assert first.message[:32] != second.message[:32]


@SHARED_SCENE
@given(st.sampled_from(PATHS), st.binary(max_size=700))
def test_any_bytes_as_message_1_raise_the_same_error(scene: Scene, path: str, message: bytes) -> None:
    with pytest.raises(errors.ChannelError) as caught:
        scene.responder.open(path, scene.seal(path).headers, message)
    assert str(caught.value) == str(unreadable())


@SHARED_SCENE
@given(st.sampled_from(PATHS), st.binary(max_size=700))
def test_any_bytes_as_message_2_raise_the_same_error(scene: Scene, path: str, message: bytes) -> None:
    with pytest.raises(errors.ChannelError) as caught:
        scene.seal(path).open(message)
    assert str(caught.value) == str(unreadable())


@SHARED_SCENE
@given(st.text(), st.dictionaries(st.sampled_from(["tkdb-key", "tkdb-signer"]), st.text()))
def test_any_path_and_headers_raise_the_same_error(scene: Scene, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(errors.ChannelError) as caught:
        scene.responder.open(path, headers, scene.seal(api.VERIFY).message)
    assert str(caught.value) == str(unreadable())
