"""Clients with a cache, and a real authority: revocations reach them, and cached tokens clear until the bound."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.end_to_end.node import Node
from tests.waiting import until
from tkdb import api, errors
from tkdb.macaroon.token import Macaroon
from tkdb_client import Client


def is_revoked(client: Client, token: Macaroon) -> bool:
    try:
        client.verify(token.text)
    except (errors.RevokedToken, errors.UnknownKey):  # The second follows after the token's key is retired.
        return True
    return False


def test_every_kind_of_revocation_reaches_a_client_that_has_cached_the_token(node: Node) -> None:
    with node.client() as signer, node.client(signer=None, cache_bytes=1 << 20) as app:
        signer.create_organization("cached")
        tokens = [signer.mint("cached", action="rw", subject=f"user-{number}", expires_in_s=600) for number in range(5)]
        children = [app.narrow(token, action="r") for token in tokens]
        for each in (*tokens, *children, *children):
            app.verify(each.text)
        misses = app.cache_info().misses
        revoked: list[tuple[Macaroon | api.Target, list[Macaroon]]] = [
            (tokens[0], [tokens[0], children[0]]),
            (api.Branch(tokens[1].kid, tokens[1].nonce, children[1].branch), [children[1]]),
            (api.Before(organization="cached", subject="user-2"), [tokens[2], children[2]]),
            (api.RetireKey(tokens[3].kid), [tokens[1], tokens[3], tokens[4], children[4]]),
        ]
        assert misses == len(tokens)
        for target, dead in revoked:
            signer.revoke_many([target])
            for token in dead:
                until(lambda token=token: is_revoked(app, token))  # type: ignore[misc]


def test_a_new_client_gets_the_branches_that_were_revoked_earlier(node: Node) -> None:
    with node.client() as signer, node.client(signer=None, cache_bytes=1 << 20) as app:
        token = signer.mint("acme", action="rw")
        child = app.narrow(token, action="r")
        signer.revoke(child)
        app.verify(token.text)
        for dead in (child, app.narrow(child, audience="shop")):
            with pytest.raises(errors.RevokedToken):
                app.verify(dead.text)
        assert app.cache_info().misses == 1  # The client already has the branch's revocation.


def test_cached_tokens_are_accepted_until_the_bound_after_the_authority_is_killed(tmp_path: Path) -> None:
    with Node(tmp_path / "tkdb.db") as node, node.client() as signer:
        signer.create_organization("acme")
        token = signer.mint("acme", action="r")
        with node.client(signer=None, cache_bytes=1 << 20, when_stale="refuse") as app:
            app.verify(token.text)
            node.kill()
            killed_s = time.monotonic()
            app.verify(token.text)
            accepted_s = killed_s

            def is_stale() -> bool:
                nonlocal accepted_s
                try:
                    app.verify(token.text)
                except errors.StaleAuthority:
                    return True
                accepted_s = time.monotonic()
                return False

            until(is_stale)
            assert accepted_s <= killed_s + 5.1
