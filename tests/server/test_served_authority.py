"""The real authority behind the real server: the life of a token, over Noise and over plain JSON."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tkdb import api, errors
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.macaroon.token import Macaroon
from tkdb.settings import Settings
from tkdb.signers import Signers
from tkdb_client import AsyncClient

WRITE = api.CreateOrganization("initech")


def test_a_token_is_minted_and_revoked_and_stays_revoked_after_a_restart(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(real=True) as server:
            organization = await server.ask(api.WRITE, api.CreateOrganization("acme"))
            token = (await server.ask(api.SIGN, api.Mint("acme", [b'["act","r"]']))).token
            valid = await server.ask(api.VERIFY, api.Verify([token, token[:-1]]))
            assert valid.results[0] == api.Valid("acme")
            assert valid.results[1].reason is errors.Reason.TRUNCATED
            assert await server.ask(api.REVOKE, api.RevokeOwn(token)) == api.Revoked(already=False)
            assert await server.ask(api.REVOKE, api.RevokeOwn(token)) == api.Revoked(already=True)
        async with start(real=True) as server:
            [denied] = (await server.ask(api.VERIFY, api.Verify([token]))).results
            assert denied.reason is errors.Reason.REVOKED
            listed = await server.ask(api.SIGN, api.ListOrganizations())
            assert listed.organizations == [organization]

    run(test())


def test_a_retired_signer_is_refused_like_an_unknown_one(
    start: Any, run: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_signer = settings.signers.by_name("api")
    retired = Signers([replace(api_signer, may=frozenset())])

    async def test() -> None:
        async with start(real=True) as server:
            await server.ask(api.WRITE, api.CreateOrganization("acme"))
        async with start(real=True, signers=retired) as server:
            for path, call in ((api.SIGN, api.Mint("acme")), (api.SIGN, api.ListOrganizations()), (api.WRITE, WRITE)):
                response = await server.post(path, call)
                assert (response.status_code, "can't be opened" in response.text) == (400, True)
        # The control: with all keys in the channel, the message is opened. Then the permissions refuse it.
        monkeypatch.setattr(Signers, "active_keys", lambda signers: [signer.key for signer in signers])
        async with start(real=True, signers=retired) as server:
            with pytest.raises(errors.NotPermitted):
                await server.ask(api.SIGN, api.Mint("acme"))
            assert (await server.ask(api.SIGN, api.ListOrganizations())).organizations == []

    run(test())


async def _write_while_locked(server: Any, signer: SignerSecret, database: Path) -> list[Any]:
    """Return the errors of two concurrent writes while another program holds the database's lock."""
    identity = AuthorityIdentity("tkdb.example", (server.settings.authority_keys[0].public,))
    other = sqlite3.connect(database, isolation_level=None)
    async with AsyncClient(
        f"http://{server.address}", authority=identity, signer=signer, timeout_ms=3_000, cache_bytes=0
    ) as client:
        await client.create_organization("acme")
        other.execute("BEGIN IMMEDIATE")
        try:
            writes = [client.rotate_key("acme"), client.create_organization("initech")]
            failures = await asyncio.gather(*writes, return_exceptions=True)
        finally:
            other.close()
        await client.rotate_key("acme")  # the lock is released, and the same client writes again
    return failures


def test_a_locked_database_is_reported_as_unwritable_with_its_cause(
    start: Any, run: Any, signer: SignerSecret, tmp_path: Path
) -> None:
    async def test() -> None:
        async with start(real=True) as server:
            for error in await _write_while_locked(server, signer, tmp_path / "tkdb.db"):
                assert (type(error), error.hint) == (errors.StoreUnwritable, "stop the other process that has it open")
                assert "database is locked" in error.message

    run(test())


def test_with_a_lock_wait_longer_than_an_attempt_the_outcome_of_a_write_is_unknown(
    start: Any, run: Any, signer: SignerSecret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkdb.database.connection.BUSY_TIMEOUT_MS", 2_000)

    async def test() -> None:
        async with start(real=True) as server:
            failures = await _write_while_locked(server, signer, tmp_path / "tkdb.db")
            assert {type(error) for error in failures} == {errors.OutcomeUnknown}

    run(test())


def test_a_repeated_write_is_done_once(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(real=True) as server:
            request_id = bytes(range(16))
            first = await server.ask(api.WRITE, api.CreateOrganization("acme"), request_id=request_id)
            again = await server.ask(api.WRITE, api.CreateOrganization("acme"), request_id=request_id)
            assert first == again
            with pytest.raises(errors.Conflict):
                await server.ask(api.WRITE, api.CreateOrganization("acme"))

    run(test())


def test_a_long_poll_returns_a_new_revocation(start: Any, run: Any, open_answer: Any) -> None:
    async def test() -> None:
        async with start(real=True) as server:
            await server.ask(api.WRITE, api.CreateOrganization("acme"))
            token = Macaroon.parse((await server.ask(api.SIGN, api.Mint("acme"))).token)
            poll = api.Revocations([token.kid], after=0, wait_ms=20_000)
            waiting = asyncio.create_task(server.post(api.VERIFY, poll))
            lineage = api.Lineage(token.kid, token.nonce)
            written = open_answer(await server.post(api.WRITE, api.Revoke([lineage])))
            answer = open_answer(await waiting)
            feed = api.decode_result(poll, answer)
            assert feed.position >= written.position
            assert feed.revocations == [api.Lineage(token.kid, token.nonce)]

    run(test())


def test_a_token_is_minted_verified_and_revoked_over_plain_json(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(real=True, dev=True, database=":memory:") as server:

            async def post(method: str, body: Any) -> Any:
                response = await server.http.post(f"/dev/{method}", json=body)
                assert response.status_code == 200, response.text
                return response.json()

            created = await post("organization.create", {"name": "acme"})
            minted = await post("mint", {"organization": "acme", "caveats": [["act", "r"]], "expires_in_s": 60})
            token = minted["result"]["token"]
            assert (await post("verify", {"bundles": [token]}))["result"]["results"][0]["type"] == "valid"
            target = {"type": "key", "kid": created["result"]["keys"][0]["kid"]}
            revoked = await post("revoke", {"targets": [target]})
            assert revoked["position"] > created["position"]
            [denied] = (await post("verify", {"bundles": [token]}))["result"]["results"]
            assert denied["reason"] in {"revoked", "unknown key"}
            refused = await server.http.post("/dev/mint", json={"organization": "nobody"})
            assert refused.status_code in {403, 404}

    run(test())
