"""Attacks with recorded messages and with a stolen static key, against a real process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.node import NAME, Node
from tkdb import api, errors
from tkdb.channel import noise
from tkdb.channel.client import KEY_HEADER, SIGNER_HEADER, Initiator, Sealed
from tkdb.channel.dh import KeyPair, PublicKey
from tkdb.channel.envelope import Envelope, encode, prologue, signed_bytes
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.channel.padding import pad


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def http(node: Node) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.url, trust_env=False) as client:
        yield client


def sealed(node: Node, path: str, call: Any, *, name: str = NAME, at_ms: int | None = None) -> Sealed:
    identity = AuthorityIdentity(name, node.keys.identity.keys)
    initiator = Initiator(identity, signer=node.keys.signer, random=os.urandom)
    return initiator.seal(
        path, api.encode(call), request_id=os.urandom(16), now_ms=now_ms() if at_ms is None else at_ms
    )


def send(http: httpx.Client, path: str, message: Sealed) -> httpx.Response:
    return http.post(path, content=message.message, headers=message.headers)


def is_refused(response: httpx.Response) -> bool:
    return response.status_code == 400 and response.json()["type"] == "urn:tkdb:problem:handshake"


def organizations(node: Node) -> set[str]:
    with node.client() as client:
        return {each.name for each in client.list_organizations()}


def test_a_stolen_authority_key_cannot_sign_at_a_running_authority(node: Node, http: httpx.Client) -> None:
    victim = node.keys.signer.public
    # Either secret gives the product of the two static keys, so the handshake alone would accept this message.
    statics = noise.Statics(KeyPair(bytes(32)), PublicKey(node.keys.authority.public.point.raw))
    statics.ours.public = victim.point
    statics.product = noise.Statics(node.keys.authority.pair, victim.point).product
    headers = {KEY_HEADER: node.keys.authority.public.thumbprint.hex(), SIGNER_HEADER: victim.thumbprint.hex()}
    thief = SignerSecret.generate(os.urandom)
    before = organizations(node)
    for path, call in ((api.WRITE, api.CreateOrganization("stolen")), (api.SIGN, api.Mint("acme"))):
        body, context, request_id, at_ms = api.encode(call), prologue(path, NAME), os.urandom(16), now_ms()
        signed = signed_bytes(context, at_ms, request_id, body)
        for signature in (b"", bytes(64), thief.sign(signed)):
            payload = pad(encode(Envelope(at_ms, request_id, 0, body, signature)))
            message, _ = noise.initiate_kk(context, statics, payload, os.urandom)
            assert is_refused(http.post(path, content=message, headers=headers))
        # The control: the same message with the signer's signature is accepted, without the signer's static secret.
        payload = pad(encode(Envelope(at_ms, request_id, 0, body, node.keys.signer.sign(signed))))
        message, _ = noise.initiate_kk(context, statics, payload, os.urandom)
        assert http.post(path, content=message, headers=headers).status_code == 200
    assert organizations(node) == before | {"stolen"}


@pytest.mark.parametrize("path", sorted(api.CALLS_BY_PATH))
def test_a_request_is_valid_for_one_path_of_one_authority(node: Node, http: httpx.Client, path: str) -> None:
    call: Any = {
        api.VERIFY: api.Status(),
        api.REVOKE: api.RevokeOwn("x"),
        api.SIGN: api.Mint("acme"),
        api.WRITE: api.CreateOrganization("replayed"),
    }[path]
    before = organizations(node)
    recorded = sealed(node, path, call)
    for other in set(api.CALLS_BY_PATH) - {path}:
        assert is_refused(send(http, other, recorded))
    assert is_refused(send(http, path, sealed(node, path, call, name="other.example")))
    assert organizations(node) == before


def test_a_message_that_is_sent_twice_is_one_write(node: Node, http: httpx.Client) -> None:
    with node.client() as client:
        kid = client.create_organization("twice").keys[0].kid
        recorded = sealed(node, api.WRITE, api.RotateKey("twice"))
        first, second = send(http, api.WRITE, recorded), send(http, api.WRITE, recorded)
        assert (first.status_code, second.status_code) == (200, 200)
        result = api.decode_result(api.RotateKey("twice"), api.decode_answer(recorded.open(first.content)))
        [listed] = [each for each in client.list_organizations() if each.name == "twice"]
        assert listed == result
        assert [key.kid for key in listed.keys][1:] == [kid]
        # An attacker who replays the message can't read the new answer: it is sealed for the sender of the request.
        assert second.content != first.content


def test_a_request_from_another_time_is_refused_in_the_sealed_answer(node: Node, http: httpx.Client) -> None:
    for offset_ms in (-31_000, 3_600_000):
        call = api.CreateOrganization("late")
        late = sealed(node, api.WRITE, call, at_ms=now_ms() + offset_ms)
        response = send(http, api.WRITE, late)
        with pytest.raises(errors.OutOfTime, match="clock"):
            api.decode_result(call, api.decode_answer(late.open(response.content)))
    assert "late" not in organizations(node)


def test_an_unknown_signer_and_a_false_signer_get_the_same_answer(node: Node, http: httpx.Client) -> None:
    stranger = Initiator(node.keys.identity, signer=SignerSecret.generate(os.urandom), random=os.urandom)
    unknown = stranger.seal(api.SIGN, api.encode(api.Mint("acme")), request_id=bytes(16), now_ms=now_ms())
    claimed = {**unknown.headers, SIGNER_HEADER: node.keys.signer.public.thumbprint.hex()}
    answers = [
        http.post(api.SIGN, content=unknown.message, headers=headers) for headers in (dict(unknown.headers), claimed)
    ]
    assert all(map(is_refused, answers))
    assert answers[0].content == answers[1].content
