"""The channel refuses attacks from the network, and attacks with a stolen key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from tkdb import api, errors
from tkdb.channel import noise
from tkdb.channel.client import KEY_HEADER, SIGNER_HEADER, Initiator, Sealed
from tkdb.channel.dh import KEY_BYTES, KeyPair, PublicKey, Shared, unreadable
from tkdb.channel.envelope import Envelope, encode, prologue, signed_bytes
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerPublic, SignerSecret
from tkdb.channel.padding import pad
from tkdb.channel.server import Responder
from tkdb.channel.symmetric import SymmetricState

if TYPE_CHECKING:
    from conftest import Scene

NAME = "tkdb.example"
NOW_MS = 1_700_000_000_000
PATHS = sorted(api.CALLS_BY_PATH)
ERROR_TEXT = str(unreadable())

P = 2**255 - 19
ORDER_8 = [
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]
LOW_ORDER = [n.to_bytes(32, "little") for n in (0, 1, *ORDER_8, P - 1, P, P + 1)]
LOW_ORDER += [bytes([*raw[:31], raw[31] | 0x80]) for raw in LOW_ORDER]


def assert_refused(responder: Responder, path: str, headers: Mapping[str, str], message: bytes) -> None:
    """Assert that the message is refused, with the same text for every cause, and with no cause attached."""
    with pytest.raises(errors.ChannelError) as caught:
        responder.open(path, headers, message)
    assert str(caught.value) == ERROR_TEXT
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("path", PATHS)
def test_a_request_and_its_answer_pass(scene: Scene, path: str) -> None:
    sealed = scene.seal(path)
    opened = scene.responder.open(path, sealed.headers, sealed.message)
    assert opened.envelope.body == b"body"
    assert opened.signer == (scene.signer.public if path in api.SIGNED_PATHS else None)
    assert sealed.open(opened.seal(b"answer")) == b"answer"


@pytest.mark.parametrize("other", PATHS)
@pytest.mark.parametrize("path", PATHS)
def test_a_replayed_message_is_refused_on_another_path(scene: Scene, path: str, other: str) -> None:
    sealed = scene.seal(path)
    if path == other:  # the control: on its own path a replay opens; its time and request id are checked later
        scene.responder.open(path, sealed.headers, sealed.message)
        scene.responder.open(path, sealed.headers, sealed.message)
    else:
        assert_refused(scene.responder, other, sealed.headers, sealed.message)


@pytest.mark.parametrize("path", PATHS)
def test_a_message_for_one_authority_is_refused_by_another_with_the_same_keys(scene: Scene, path: str) -> None:
    sealed = scene.seal(path)
    assert_refused(scene.responder_with("tkdb.staging"), path, sealed.headers, sealed.message)


@pytest.mark.parametrize("path", ["/v1/nothing", "", "/v1/sign/", "/V1/SIGN"])
def test_an_unknown_path_is_refused(scene: Scene, path: str) -> None:
    sealed = scene.seal(api.SIGN)
    assert_refused(scene.responder, path, sealed.headers, sealed.message)


@pytest.mark.parametrize("path", [api.VERIFY, api.SIGN])
def test_message_1_altered_at_any_byte_is_refused(scene: Scene, path: str) -> None:
    sealed = scene.seal(path)
    for at in range(len(sealed.message)):
        altered = bytearray(sealed.message)
        altered[at] ^= 0x80
        assert_refused(scene.responder, path, sealed.headers, bytes(altered))


@pytest.mark.parametrize("path", [api.VERIFY, api.SIGN])
def test_message_1_cut_or_extended_is_refused(scene: Scene, path: str) -> None:
    sealed = scene.seal(path)
    for size in [*range(100), 256, len(sealed.message) - 1]:
        assert_refused(scene.responder, path, sealed.headers, sealed.message[:size])
    for more in (1, 256, 70_000):
        assert_refused(scene.responder, path, sealed.headers, sealed.message + bytes(more))


def test_message_2_altered_at_any_byte_is_refused(scene: Scene) -> None:
    size = len(request_and_answer(scene)[1])
    for at in range(size):
        sealed, answer = request_and_answer(scene)
        altered = bytearray(answer)
        altered[at] ^= 0x80
        with pytest.raises(errors.ChannelError):
            sealed.open(bytes(altered))


def test_an_answer_to_another_request_is_refused(scene: Scene) -> None:
    sealed, _ = request_and_answer(scene)
    _, other_answer = request_and_answer(scene)
    with pytest.raises(errors.ChannelError, match=ERROR_TEXT):
        sealed.open(other_answer)


def test_an_authority_with_another_key_cannot_answer(scene: Scene) -> None:
    sealed = scene.seal(api.VERIFY)
    impostor = Responder(NAME, [AuthoritySecret.generate(scene.random)], [], random=scene.random)
    assert_refused(impostor, api.VERIFY, sealed.headers, sealed.message)
    (own_key,) = impostor._secrets
    assert_refused(impostor, api.VERIFY, {KEY_HEADER: own_key}, sealed.message)


@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
@pytest.mark.parametrize("path", [api.VERIFY, api.SIGN])
def test_a_low_order_ephemeral_key_is_refused_on_either_side(scene: Scene, path: str, point: bytes) -> None:
    sealed = scene.seal(path)
    assert_refused(scene.responder, path, sealed.headers, point + sealed.message[KEY_BYTES:])
    with pytest.raises(errors.ChannelError, match=ERROR_TEXT):
        sealed.open(point + bytes(272))


@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
def test_a_low_order_key_is_refused_even_if_the_message_is_sealed_under_its_zero_product(
    scene: Scene, point: bytes
) -> None:
    theirs = scene.authority.pair.public
    good = KeyPair(scene.random(KEY_BYTES))
    product, zero = good.exchange(theirs), Shared(bytes(32))
    headers = scene.seal(api.VERIFY).headers
    # The control: a message made in this way opens if its keys are good.
    message = handmade_message_1(scene, good.public.raw, product, good.public.raw, product)
    assert scene.responder.open(api.VERIFY, headers, message).envelope.body == b"body"

    assert_refused(
        scene.responder, api.VERIFY, headers, handmade_message_1(scene, point, zero, good.public.raw, product)
    )
    assert_refused(
        scene.responder, api.VERIFY, headers, handmade_message_1(scene, good.public.raw, product, point, zero)
    )


@pytest.mark.parametrize("size", [0, 1, 16, 31])
def test_a_static_key_that_is_too_short_is_refused_even_if_it_is_sealed_correctly(scene: Scene, size: int) -> None:
    good = KeyPair(scene.random(KEY_BYTES))
    product = good.exchange(scene.authority.pair.public)
    message = handmade_message_1(scene, good.public.raw, product, bytes(range(size)), product)
    headers = scene.seal(api.VERIFY).headers
    assert_refused(scene.responder, api.VERIFY, headers, message)
    assert_refused(scene.responder, api.VERIFY, headers, message[: KEY_BYTES + size + 16])


def test_a_stolen_authority_key_cannot_sign_requests(scene: Scene) -> None:
    victim = scene.signer.public
    context = prologue(api.SIGN, NAME)
    headers = scene.seal(api.SIGN).headers
    attacker = SignerSecret.generate(scene.random)
    for signature in (b"", bytes(64), attacker.sign(signed_bytes(context, NOW_MS, bytes(16), b"mint"))):
        payload = pad(encode(Envelope(NOW_MS, bytes(16), 0, b"mint", signature)))
        statics = statics_without_the_signers_secret(scene.authority, victim)
        message, _ = noise.initiate_kk(context, statics, payload, scene.random)

        # The control: the handshake alone accepts this as a message from the signer.
        opened, _ = noise.respond_kk(context, noise.Statics(scene.authority.pair, victim.point), message)
        assert opened == payload

        assert_refused(scene.responder, api.SIGN, headers, message)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: Envelope(e.time_ms + 1, e.request_id, e.position, e.body, e.signature),
        lambda e: Envelope(e.time_ms, bytes(15) + b"x", e.position, e.body, e.signature),
        lambda e: Envelope(e.time_ms, e.request_id, e.position, e.body + b"x", e.signature),
        lambda e: Envelope(e.time_ms, e.request_id, e.position, e.body, e.signature[:-1]),
        lambda e: Envelope(e.time_ms, e.request_id, e.position, e.body),
    ],
    ids=["time", "request id", "body", "signature cut", "signature missing"],
)
def test_a_signature_is_valid_for_one_request_only(scene: Scene, change: Callable[[Envelope], Envelope]) -> None:
    sealed = scene.seal(api.WRITE)
    true = scene.responder.open(api.WRITE, sealed.headers, sealed.message).envelope
    for envelope, good in ((true, True), (change(true), False)):
        message = message_1_from_signer(scene, encode(envelope))
        if good:
            scene.responder.open(api.WRITE, sealed.headers, message)
        else:
            assert_refused(scene.responder, api.WRITE, sealed.headers, message)


def test_a_signature_for_signing_is_refused_for_writing(scene: Scene) -> None:
    sealed = scene.seal(api.SIGN)
    envelope = scene.responder.open(api.SIGN, sealed.headers, sealed.message).envelope
    assert_refused(scene.responder, api.WRITE, sealed.headers, message_1_from_signer(scene, encode(envelope)))


def test_a_signature_on_an_unsigned_path_is_refused(scene: Scene) -> None:
    payload = pad(encode(Envelope(NOW_MS, bytes(16), 0, b"body", bytes(64))))
    statics = noise.Statics(KeyPair(scene.random(32)), scene.authority.pair.public)
    message, _ = noise.initiate_ik(prologue(api.VERIFY, NAME), statics, payload, scene.random)
    assert_refused(scene.responder, api.VERIFY, scene.seal(api.VERIFY).headers, message)


@pytest.mark.parametrize("payload", [b"", bytes(256), b"\xff" * 256, pad(b"no envelope"), pad(b"")])
def test_a_signers_message_without_a_valid_envelope_is_refused(scene: Scene, payload: bytes) -> None:
    statics = noise.Statics(scene.signer.pair, scene.authority.pair.public)
    message, _ = noise.initiate_kk(prologue(api.SIGN, NAME), statics, payload, scene.random)
    assert_refused(scene.responder, api.SIGN, scene.seal(api.SIGN).headers, message)


def test_unknown_keys_get_the_same_error_as_a_failed_handshake(scene: Scene) -> None:
    sealed = scene.seal(api.SIGN)
    stranger = SignerSecret.generate(scene.random)
    as_stranger = Initiator(scene.identity, signer=stranger, random=scene.random).seal(
        api.SIGN, b"body", request_id=bytes(16), now_ms=NOW_MS
    )
    assert_refused(scene.responder, api.SIGN, as_stranger.headers, as_stranger.message)
    # A good message with an unknown signer's name, and an unknown signer's message with a known name.
    assert_refused(scene.responder, api.SIGN, as_stranger.headers, sealed.message)
    assert_refused(scene.responder, api.SIGN, sealed.headers, as_stranger.message)
    for header in (KEY_HEADER, SIGNER_HEADER):
        for value in ("", "00" * 16, "Ä", sealed.headers[header].upper() + "0"):
            assert_refused(scene.responder, api.SIGN, sealed.headers | {header: value}, sealed.message)
        without = {name: value for name, value in sealed.headers.items() if name != header}
        assert_refused(scene.responder, api.SIGN, without, sealed.message)


def test_a_message_in_the_name_of_the_placeholder_signer_is_refused(scene: Scene) -> None:
    sealed = scene.seal(api.SIGN)
    headers = sealed.headers | {SIGNER_HEADER: scene.responder._nobody.thumbprint.hex()}
    assert_refused(scene.responder, api.SIGN, headers, sealed.message)


def test_an_answer_can_be_sealed_and_opened_only_once(scene: Scene) -> None:
    sealed = scene.seal(api.VERIFY)
    opened = scene.responder.open(api.VERIFY, sealed.headers, sealed.message)
    answer = opened.seal(b"answer")
    with pytest.raises(RuntimeError, match="sealed already"):
        opened.seal(b"another answer")
    sealed.open(answer)
    with pytest.raises(RuntimeError, match="opened already"):
        sealed.open(answer)


def test_an_answer_that_failed_to_open_cannot_be_opened_again(scene: Scene) -> None:
    sealed, answer = request_and_answer(scene)
    with pytest.raises(errors.ChannelError):
        sealed.open(answer[:-1])
    with pytest.raises(RuntimeError, match="opened already"):
        sealed.open(answer)


def test_two_authority_keys_are_accepted_while_one_is_rotated(scene: Scene) -> None:
    old, new = scene.authority, AuthoritySecret.generate(scene.random)
    identity = AuthorityIdentity(NAME, (old.public, new.public))
    initiator = Initiator(identity, signer=scene.signer, random=scene.random)
    only_old, both, only_new = (
        Responder(NAME, secrets, [scene.signer.public], random=scene.random) for secrets in ([old], [old, new], [new])
    )
    for path in (api.VERIFY, api.SIGN):
        for key, accepted_by in ((0, (only_old, both)), (1, (both, only_new))):
            for responder in (only_old, both, only_new):
                sealed = initiator.seal(path, b"body", request_id=bytes(16), now_ms=NOW_MS, key=key)
                if responder in accepted_by:
                    opened = responder.open(path, sealed.headers, sealed.message)
                    assert sealed.open(opened.seal(b"answer")) == b"answer"
                else:
                    assert_refused(responder, path, sealed.headers, sealed.message)


def request_and_answer(scene: Scene) -> tuple[Sealed, bytes]:
    """Return a sealed request, and the sealed answer to it."""
    sealed = scene.seal(api.VERIFY)
    answer = scene.responder.open(api.VERIFY, sealed.headers, sealed.message).seal(b"answer")
    return sealed, answer


def message_1_from_signer(scene: Scene, payload: bytes) -> bytes:
    """Return a message 1 that a signer can send without our client: it may contain any payload."""
    statics = noise.Statics(scene.signer.pair, scene.authority.pair.public)
    return noise.initiate_kk(prologue(api.WRITE, NAME), statics, pad(payload), scene.random)[0]


def handmade_message_1(
    scene: Scene, ephemeral: bytes, ephemeral_product: Shared, static: bytes, static_product: Shared
) -> bytes:
    """Return message 1 of Noise_IK with any bytes as keys, and with everything sealed under these products."""
    state = SymmetricState(noise.IK, prologue(api.VERIFY, NAME))
    state.mix_hash(scene.authority.pair.public.raw)
    state.mix_hash(ephemeral)
    state.mix_key(ephemeral_product)
    sealed_static = state.encrypt_and_hash(static)
    state.mix_key(static_product)
    payload = pad(encode(Envelope(NOW_MS, bytes(16), 0, b"body")))
    return ephemeral + sealed_static + state.encrypt_and_hash(payload)


def statics_without_the_signers_secret(authority: AuthoritySecret, signer: SignerPublic) -> noise.Statics:
    """Return the signer's statics, made with the authority's stolen secret: either secret gives the same product."""
    mirrored = noise.Statics(authority.pair, signer.point)
    stolen = noise.Statics(KeyPair(bytes(32)), PublicKey(authority.pair.public.raw))
    stolen.ours.public = signer.point
    stolen.product = mirrored.product
    return stolen
