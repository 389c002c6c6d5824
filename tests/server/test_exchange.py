"""Noise over HTTP: what is answered inside message 2, and what isn't."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import pytest

from tkdb import api, errors

VERIFY = api.Verify(["tkdb_secret-token"])
MINT = api.Mint("acme")


def test_a_call_is_answered_with_position_and_age(start: Any, run: Any, opened: Any) -> None:
    async def test() -> None:
        async with start() as server:
            answer = opened(await server.post(api.VERIFY, VERIFY))
            assert (answer.position, answer.age_ms, answer.journal) == (7, 3, bytes(16))
            assert api.decode_result(VERIFY, answer) == api.Verified([api.Valid("acme")])

    run(test())


def test_a_signer_is_known_by_its_key_and_what_it_signed_is_handed_on(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            request_id = os.urandom(16)
            await server.ask(api.SIGN, MINT, request_id=request_id)
            [(call, caller)] = server.service.calls
            assert call == MINT
            assert caller.signer.name == "api"
            assert (caller.path, caller.request_id, caller.body) == (api.SIGN, request_id, api.encode(MINT))
            assert len(caller.signature) == 64

    run(test())


def test_a_caller_of_an_open_path_is_nobody(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            await server.ask(api.VERIFY, VERIFY)
            [(_, caller)] = server.service.calls
            assert caller.signer is None

    run(test())


@pytest.mark.parametrize(
    "error",
    [
        errors.RevokedToken("it was revoked"),
        errors.NotPermitted("not yours", hint="ask"),
        errors.StoreUnwritable("the disk is full", retry_after_ms=1000),
    ],
)
def test_a_denial_travels_inside_message_2_and_never_as_a_status(start: Any, run: Any, error: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.raises = error
            response = await server.post(api.SIGN, MINT)
            assert response.status_code == 200
            assert error.message.encode() not in response.content
            with pytest.raises(type(error), match=error.message):
                await server.ask(api.SIGN, MINT)

    run(test())


def test_an_old_request_is_refused_inside_message_2(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            old_ms = time.time_ns() // 1_000_000 - 31_000
            with pytest.raises(errors.OutOfTime):
                await server.ask(api.VERIFY, VERIFY, now_ms=old_ms)
            assert server.service.calls == []

    run(test())


def test_a_caller_that_has_seen_more_is_sent_on(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            await server.ask(api.VERIFY, VERIFY, position=7)
            with pytest.raises(errors.Unavailable, match="position 8"):
                await server.ask(api.VERIFY, VERIFY, position=8)

    run(test())


def test_a_message_replayed_on_another_path_is_one_and_the_same_problem(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            now_ms = time.time_ns() // 1_000_000
            sealed = server.initiator.seal(api.SIGN, api.encode(MINT), request_id=os.urandom(16), now_ms=now_ms)
            replayed = await server.http.post(api.WRITE, content=sealed.message, headers=sealed.headers)
            junk = await server.http.post(api.WRITE, content=b"\x00" * 200)
            empty = await server.http.post(api.VERIFY)
            assert replayed.content == junk.content == empty.content
            assert replayed.status_code == 400
            assert replayed.headers["content-type"] == "application/problem+json"
            assert replayed.json()["type"] == "urn:tkdb:problem:handshake"
            assert server.service.calls == []

    run(test())


def test_a_method_of_another_path_is_refused(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            with pytest.raises(errors.InvalidRequest, match="mint"):
                await server.ask(api.VERIFY, MINT)
            with pytest.raises(errors.InvalidRequest, match=r"organization\.create"):
                await server.ask(api.SIGN, api.CreateOrganization("acme"))

    run(test())


def test_an_unforeseen_failure_is_typed_and_tells_nothing(start: Any, run: Any, log: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.raises = ZeroDivisionError("planted-secret")
            with pytest.raises(errors.Unavailable, match="failed on this request") as caught:
                await server.ask(api.SIGN, MINT)
            assert "planted-secret" not in str(caught.value)
            with pytest.raises(errors.OutcomeUnknown, match="failed on this write"):
                await server.ask(api.WRITE, api.CreateOrganization("acme"))

    run(test())
    assert "planted-secret" not in log.getvalue()
    assert "ZeroDivisionError" in log.getvalue()


def test_an_answer_that_no_message_can_carry_is_refused_inside_message_2(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:

            async def long_answer(call: Any, caller: Any) -> Any:
                return api.Minted("x" * 70_000, 1)

            server.service.answer = long_answer
            with pytest.raises(errors.InvalidRequest, match="one message carries at most"):
                await server.ask(api.SIGN, MINT)

    run(test())


def test_no_log_line_holds_a_token_a_body_a_key_or_a_header(start: Any, run: Any, log: Any, settings: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.http.headers["authorization"] = "planted-header"
            await server.ask(api.VERIFY, VERIFY)
            await server.ask(api.SIGN, api.Mint("acme", [b'["sub","planted-subject"]']))
            server.service.raises = errors.MalformedToken("planted-message")
            with pytest.raises(errors.MalformedToken):
                await server.ask(api.REVOKE, api.RevokeOwn("tkdb_planted-token"))
            await server.http.post(api.VERIFY, content=b"planted-body")
            await server.http.post("/planted-path?planted-query")

    run(test())
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["outcome"]) for line in requests] == [
        ("verify", "ok"),
        ("mint", "ok"),
        ("revoke-own", "malformed"),
    ]
    assert requests[1]["signer"] == "api"
    assert len(requests[1]["request"]) == 8
    for secret in ("planted", "tkdb_", settings.authority_keys[0].text()):
        assert secret not in log.getvalue()


def test_what_an_answer_is_dated_by_was_known_before_it_was_found_out(start: Any, run: Any, opened: Any) -> None:
    """Else a cache that goes by it would take the answer for one that knows of what came in the meantime."""

    async def test() -> None:
        async with start() as server:
            server.service.hold.clear()
            asking = asyncio.create_task(server.post(api.VERIFY, VERIFY))
            await server.service.called.wait()
            server.service.position += 1  # after the call was taken up
            server.service.hold.set()
            answer = opened(await asking)
            assert answer.position == server.service.position - 1

    run(test())


def test_a_write_s_position_is_its_own(start: Any, run: Any, opened: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.hold.clear()
            writing = asyncio.create_task(server.post(api.WRITE, api.CreateOrganization("acme")))
            await server.service.called.wait()
            server.service.position += 1
            server.service.hold.set()
            assert opened(await writing).position == server.service.position

    run(test())
