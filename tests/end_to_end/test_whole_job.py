"""The main methods, with the real blocking and asynchronous clients, against a real process."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.node import Node
from tkdb import api, errors
from tkdb.macaroon.caveats import Sub
from tkdb_client import Access, Macaroon


class BlockingCalls:
    """Blocking calls of a client of either kind."""

    def __init__(self, client: Any, runner: asyncio.Runner | None) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = getattr(self._client, method)(*arguments, **options)
            return self._runner.run(result) if self._runner and inspect.iscoroutine(result) else result

        return call


@pytest.fixture(params=["blocking", "awaited"])
def connect(request: pytest.FixtureRequest, node: Node) -> Iterator[Callable[..., Any]]:
    runner = asyncio.Runner() if request.param == "awaited" else None
    made: list[Any] = []

    def connect(**settings: Any) -> Any:
        make = node.async_client if runner else node.client
        made.append(BlockingCalls(make(**settings), runner))
        return made[-1]

    yield connect
    for client in made:
        client.close()
    if runner:
        runner.close()


def test_a_token_is_minted_narrowed_verified_cleared_and_revoked(connect: Callable[..., Any]) -> None:
    signer, app = connect(), connect(signer=None)
    token = signer.mint("acme", action="rw", resource={"app": {"shop": "rw"}}, subject="ann", expires_in_s=600)
    child = app.narrow(token, action="r", expires_in_s=60)

    verified = app.verify(child.text)
    assert (verified.organization, verified.subject) == ("acme", "ann")
    verified.clear(Access(organization="acme", action="r", resource={"app": "shop"}))
    with pytest.raises(errors.CaveatUnmet, match="the request is w"):
        verified.clear(Access(organization="acme", action="w", resource={"app": "shop"}))
    with pytest.raises(errors.CaveatUnmet):
        verified.clear(Access(organization="acme", action="r", resource={"app": "bank"}))

    assert app.revoke(child) is False
    assert app.revoke(child) is True
    with pytest.raises(errors.RevokedToken):
        app.verify(child)
    app.verify(token)
    assert signer.revoke(token) is False
    for dead in (token, app.narrow(token, action="w")):
        with pytest.raises(errors.RevokedToken):
            app.verify(dead)


def test_each_fault_of_a_token_has_its_error_class(connect: Callable[..., Any]) -> None:
    signer, app = connect(), connect(signer=None)
    token = signer.mint("acme")
    forged = Macaroon.parse(token.raw[:-32] + bytes(32))
    for text, kind in (
        (forged.text, errors.BadSignature),
        (token.text[:-4], errors.TruncatedToken),
        (token.raw[:1].hex(), errors.MalformedToken),
        (token.extend([Sub("admin")]).text, errors.CaveatUnmet),
    ):
        with pytest.raises(kind):
            app.verify(text)


def test_a_signer_has_only_its_listed_permissions(connect: Callable[..., Any], node: Node) -> None:
    minter, stranger = connect(signer=node.keys.minter), connect(signer=None)
    token = minter.mint("acme")
    for refused in (
        lambda: minter.create_organization("mine"),
        lambda: minter.mint("initech"),
        lambda: minter.rotate_key("acme"),
        lambda: minter.reseal(),
        lambda: minter.revoke_before("acme"),
    ):
        with pytest.raises(errors.NotPermitted, match="the signer minter may not"):
            refused()
    with pytest.raises(errors.NotFound):
        minter.revoke(token)
    with pytest.raises(errors.ConfigurationError, match="signer"):
        stranger.mint("acme")
    stranger.verify(token)


def test_an_organization_is_created_rotated_limited_and_deleted(
    connect: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    signer = connect()
    name = f"org-{request.node.callspec.id}"
    assert signer.create_organization(name, max_lifetime_s=600).keys[0].state == "signing"
    with pytest.raises(errors.Conflict):
        signer.create_organization(name)
    old = signer.mint(name)
    assert [key.state for key in signer.rotate_key(name).keys] == ["signing", "verifying"]
    new = signer.mint(name)
    assert signer.configure_organization(name, max_lifetime_s=60).max_lifetime_s == 60
    with pytest.raises(errors.InvalidRequest, match="allows 60 s"):
        signer.mint(name, expires_in_s=61)
    signer.verify(old)
    signer.retire_key(old.kid)
    with pytest.raises(errors.UnknownKey):
        signer.verify(old)
    signer.revoke_before(name)
    with pytest.raises(errors.RevokedToken):
        signer.verify(new)
    last = signer.mint(name)
    signer.verify(last)
    signer.delete_organization(name)
    with pytest.raises(errors.UnknownKey):
        signer.verify(last)
    assert signer.reseal() == 0


def test_the_largest_batch_is_answered_in_order(connect: Callable[..., Any]) -> None:
    signer, app = connect(), connect(signer=None)
    good, dead = signer.mint("acme"), signer.mint("acme")
    signer.revoke(dead)
    tokens = [(good if index % 3 else dead).text for index in range(2 * api.MAX_BUNDLES)]
    results = app.verify_many([*tokens, "nonsense"])
    assert len(results) == len(tokens) + 1
    for index, result in enumerate(results[:-1]):
        assert isinstance(result, errors.RevokedToken) == (index % 3 == 0)
    assert isinstance(results[-1], errors.MalformedToken)


def test_many_tokens_are_revoked_at_once(connect: Callable[..., Any]) -> None:
    signer = connect()
    tokens = [signer.mint("acme") for _ in range(20)]
    nonce = tokens[0].nonce[:6]
    padding = [api.Lineage(tokens[0].kid, nonce + index.to_bytes(10)) for index in range(1_500)]
    assert signer.revoke_many([*tokens, *padding]) is False
    assert {type(result) for result in signer.verify_many(tokens)} == {errors.RevokedToken}
    assert signer.revoke_many([*tokens, *padding]) is True


def test_a_long_poll_returns_a_revocation_when_it_happens(connect: Callable[..., Any], node: Node) -> None:
    signer, follower = connect(), connect(signer=None)
    token, other = signer.mint("acme"), signer.mint("acme")
    at, more = 0, True
    while more:
        page = follower.revocations([token.kid], after=at)
        at, more = page.position, page.more
    with node.client() as revoking:
        later = threading.Timer(0.05, revoking.revoke, [other])
        later.start()
        feed = follower.revocations([token.kid], after=at, wait_ms=10_000)
        later.join()
    assert feed.revocations == [api.Lineage(other.kid, other.nonce)]
    assert feed.position == at + 1
    assert follower.revocations([token.kid], after=feed.position, wait_ms=1).revocations == []


def test_a_follower_gets_every_revocation_of_a_large_batch(node: Node) -> None:
    with node.client() as client:
        kid = client.create_organization("crowded").keys[0].kid
        at = start = client.revocations([kid]).position
        targets = [api.Before("crowded", subject=f"subject-{index:040}") for index in range(1_000)]
        client.revoke_many(targets)
        largest = [api.Branch(kid, bytes(16), index.to_bytes(16)) for index in range(2_000)]
        client.revoke_many(largest)
        count = 0
        while (feed := client.revocations([kid], after=at)).position > at:
            count += sum(len(each.subjects) if isinstance(each, api.IssuedBefore) else 1 for each in feed.revocations)
            at = feed.position
        assert count == len(targets) + len(largest)
        assert at > start + 2


def test_health_checks_succeed_and_dev_paths_do_not_exist(node: Node) -> None:
    with httpx.Client(base_url=node.url, trust_env=False) as http:
        assert http.get("/livez").text == "live\n"
        assert http.get("/readyz").text == "ready\n"
        assert http.post("/dev/mint", json={}).status_code == 404
