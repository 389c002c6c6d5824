"""The handshakes against another implementation of Noise, ``noiseprotocol``."""

from __future__ import annotations

import os

import pytest
from noise.connection import Keypair, NoiseConnection

from tkdb.channel.dh import KeyPair
from tkdb.channel.noise import IK, KK, Statics, initiate_ik, initiate_kk, respond_ik, respond_kk

PROLOGUE = b"tkdb channel 1"
SIZES = [0, 1, 255, 600, 65_280]


def peer(protocol: bytes, static: bytes, remote: bytes | None) -> NoiseConnection:
    connection = NoiseConnection.from_name(protocol)
    connection.set_prologue(PROLOGUE)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, static)
    if remote is not None:
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
    return connection


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("protocol", [IK, KK])
def test_our_initiator_works_with_another_responder(protocol: bytes, size: int) -> None:
    payload, our_secret, their_secret = os.urandom(size), os.urandom(32), os.urandom(32)
    ours, theirs = KeyPair(our_secret), KeyPair(their_secret)
    initiate = {IK: initiate_ik, KK: initiate_kk}[protocol]
    message, waiting = initiate(PROLOGUE, Statics(ours, theirs.public), payload, os.urandom)

    other = peer(protocol, their_secret, ours.public.raw if protocol == KK else None)
    other.set_as_responder()
    other.start_handshake()
    assert other.read_message(message) == payload
    assert waiting.read(bytes(other.write_message(payload[::-1]))) == payload[::-1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("protocol", [IK, KK])
def test_our_responder_works_with_another_initiator(protocol: bytes, size: int) -> None:
    payload, our_secret, their_secret = os.urandom(size), os.urandom(32), os.urandom(32)
    ours, theirs = KeyPair(our_secret), KeyPair(their_secret)
    other = peer(protocol, their_secret, ours.public.raw)
    other.set_as_initiator()
    other.start_handshake()
    message = bytes(other.write_message(payload))

    if protocol == IK:
        received, answering = respond_ik(PROLOGUE, ours, message)
    else:
        received, answering = respond_kk(PROLOGUE, Statics(ours, theirs.public), message)
    assert received == payload
    assert other.read_message(answering.write(payload[::-1], os.urandom)) == payload[::-1]
