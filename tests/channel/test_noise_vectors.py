"""The handshakes against the public test vectors of Noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tkdb.channel.dh import KeyPair, PublicKey, Random
from tkdb.channel.noise import IK, KK, Statics, initiate_ik, initiate_kk, respond_ik, respond_kk

FILES = sorted((Path(__file__).parent / "vectors").glob("*.json"))
VECTORS = [
    pytest.param(vector, id=f"{path.stem}-{vector['protocol_name'][6:8]}")
    for path in FILES
    for vector in json.loads(path.read_text())["vectors"]
]


def fixed(hexadecimal: str) -> Random:
    return lambda size: bytes.fromhex(hexadecimal)[:size]


def test_both_sources_have_vectors_for_both_patterns() -> None:
    found = [(path.stem, v["protocol_name"]) for path in FILES for v in json.loads(path.read_text())["vectors"]]
    assert sorted(found) == sorted((s, p.decode()) for s in ("cacophony", "snow") for p in (IK, KK))


@pytest.mark.parametrize("vector", VECTORS)
def test_the_initiator_matches_the_vectors(vector: dict[str, Any]) -> None:
    initiate = {IK: initiate_ik, KK: initiate_kk}[vector["protocol_name"].encode()]
    first, second = vector["messages"][:2]
    statics = Statics(
        KeyPair(bytes.fromhex(vector["init_static"])), PublicKey(bytes.fromhex(vector["init_remote_static"]))
    )
    message, waiting = initiate(
        bytes.fromhex(vector["init_prologue"]),
        statics,
        bytes.fromhex(first["payload"]),
        fixed(vector["init_ephemeral"]),
    )
    assert message.hex() == first["ciphertext"]
    state = waiting._state
    assert waiting.read(bytes.fromhex(second["ciphertext"])).hex() == second["payload"]
    assert state is not None
    assert state.hash.hex() == vector.get("handshake_hash", state.hash.hex())


@pytest.mark.parametrize("vector", VECTORS)
def test_the_responder_matches_the_vectors(vector: dict[str, Any]) -> None:
    first, second = vector["messages"][:2]
    prologue, message = bytes.fromhex(vector["resp_prologue"]), bytes.fromhex(first["ciphertext"])
    ours = KeyPair(bytes.fromhex(vector["resp_static"]))
    if vector["protocol_name"].encode() == IK:
        payload, answering = respond_ik(prologue, ours, message)
    else:
        theirs = PublicKey(bytes.fromhex(vector["resp_remote_static"]))
        payload, answering = respond_kk(prologue, Statics(ours, theirs), message)
    assert payload.hex() == first["payload"]
    reply = answering.write(bytes.fromhex(second["payload"]), fixed(vector["resp_ephemeral"]))
    assert reply.hex() == second["ciphertext"]
