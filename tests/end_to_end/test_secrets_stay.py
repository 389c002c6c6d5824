"""Secrets don't leak: every key and token in use is searched for in the log, in answers and in the database."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.node import Node
from tkdb import api, errors
from tkdb.armor import dearmor
from tkdb.database.database import Database
from tkdb.journal.seal import SealKeys
from tkdb.macaroon.caveats import Act
from tkdb_client import Client, Macaroon


def forms(secret: bytes) -> set[bytes]:
    """Return the forms in which a secret could be written: raw, in hex, in base64, as a Python literal."""
    plain = {secret, secret.hex().encode(), b64encode(secret), urlsafe_b64encode(secret), repr(secret)[2:-1].encode()}
    return {form.rstrip(b"=") for form in plain} | {secret.hex().upper().encode()}


def token_forms(token: Macaroon) -> set[bytes]:
    return {token.text.encode(), token.text.encode()[:-6]} | forms(token.raw) | forms(token.tail)


def _key_forms(text: str) -> set[bytes]:
    prefix = text[: text.index("_") + 1]
    return {text.encode()} | forms(dearmor(prefix, text))


def _use(signer: Client, holder: Client) -> list[Macaroon]:
    """Make successful and failing calls of many methods. Return every token that was used."""
    signer.create_organization("acme")
    token = signer.mint("acme", action="rw", subject="ann.subject@example.com")
    child, dead = token.narrow(Act("r")), signer.mint("acme")
    forged = Macaroon.parse(token.raw[:-32] + os.urandom(32))
    for each in (token, child):
        holder.verify(each)
    holder.revoke(child)
    signer.revoke(dead)
    signer.revoke_before("acme", subject="ann.subject@example.com")
    holder.verify_many([token, child, dead, forged, token.text[:-1]])
    for wrong in (
        lambda: holder.revoke(forged),
        lambda: signer.mint("nobody"),
        lambda: signer.create_organization("acme"),
        lambda: holder.verify(f"{token.text},{child.text}"),
    ):
        with pytest.raises(errors.TkdbError):
            wrong()
    signer.rotate_key("acme")
    return [token, child, dead, forged]


def _send_in_wrong_places(node: Node, secret: str) -> list[bytes]:
    """Send a secret in places where a caller might put it by mistake, and return the answers."""
    bodies = []
    with httpx.Client(base_url=node.url, trust_env=False, headers={"connection": "close"}) as http:
        for path in (*api.CALLS_BY_PATH, "/readyz", "/", f"/{secret[:2000]}"):
            for response in (
                http.post(path, content=secret),
                http.post(path, content=secret, headers={"tkdb-key": node.keys.authority.public.thumbprint.hex()}),
                http.post(path, params={"token": secret[:2000]}, headers={"authorization": f"Bearer {secret[:2000]}"}),
                http.get(path, headers={"tkdb-key": secret[:2000], "tkdb-signer": secret[:2000]}),
                http.request(secret[:20].upper().replace("_", "-"), path),
            ):
                bodies += [response.content, repr(response.headers).encode()]
    return bodies


async def _root_keys(node: Node) -> list[bytes]:
    ring = SealKeys([node.keys.seal])
    async with await Database.open(node.database, read_only=True) as database:
        state = await database.load()
        chain = [
            ring.unseal_chain_key(row.sealed, journal=state.journal, generation=row.generation).raw
            for row in state.chain_keys.values()
        ]
        return chain + [
            ring.unseal_root_key(row.sealed, organization=row.organization, kid=row.kid, generation=row.generation).raw
            for row in state.keys.values()
            if row.sealed
        ]


def test_no_secret_is_logged_answered_or_stored(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node:
        with node.client() as signer, node.holder() as holder:
            tokens = _use(signer, holder)
        keys = node.keys
        texts = [keys.authority.text(), keys.seal.text(), keys.signer.text(), keys.minter.text(), tokens[0].text]
        answered = b"".join(body for text in texts for body in _send_in_wrong_places(node, text))
        # Read these while the process runs, so that the write-ahead log is included.
        stored = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file != node.log)
        root_keys = asyncio.run(_root_keys(node))
        assert node.stop() == 0
        stored += node.database.read_bytes()
        logged = node.log.read_bytes()

    secrets = {
        "a secret of the configuration": set().union(*map(_key_forms, texts[:4])),
        "a root key": set().union(*map(forms, root_keys)),
        "a token": set().union(*map(token_forms, tokens)),
    }
    assert len(root_keys) == 3
    for name, forbidden in secrets.items():
        for place, content in (("the log", logged), ("an answer", answered), ("the database", stored)):
            assert not any(form in content for form in forbidden), f"{name} in {place}"
    # The control: data that isn't secret is where it belongs.
    assert b'"method":"mint"' in logged
    assert b"handshake" in answered
    assert b"acme" in stored
    assert b"ann.subject@example.com" not in logged + answered
