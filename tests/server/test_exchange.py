"""Noise over HTTP: which answers are inside message 2, and which aren't."""

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


def test_a_call_is_answered_with_position_and_age(start: Any, run: Any, open_answer: Any) -> None:
    async def test() -> None:
        async with start() as server:
            answer = open_answer(await server.post(api.VERIFY, VERIFY))
            assert (answer.position, answer.age_ms, answer.journal) == (7, 3, bytes(16))
            assert api.decode_result(VERIFY, answer) == api.Verified([api.Valid("acme")])

    run(test())


def test_the_service_gets_the_signer_and_the_signed_request(start: Any, run: Any) -> None:
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


def test_a_caller_of_an_unsigned_path_has_no_signer(start: Any, run: Any) -> None:
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
def test_an_error_is_answered_inside_message_2_and_never_as_an_http_status(start: Any, run: Any, error: Any) -> None:
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


def test_a_call_with_a_later_position_than_the_machines_is_unavailable(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            await server.ask(api.VERIFY, VERIFY, position=7)
            with pytest.raises(errors.Unavailable, match="position 8"):
                await server.ask(api.VERIFY, VERIFY, position=8)

    run(test())


def test_a_message_replayed_on_another_path_gets_the_same_problem_as_an_invalid_one(start: Any, run: Any) -> None:
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


def test_an_unexpected_error_becomes_a_typed_error_without_details(start: Any, run: Any, log: Any) -> None:
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


def test_an_answer_larger_than_a_message_is_refused_inside_message_2(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:

            async def long_answer(call: Any, caller: Any) -> Any:
                return api.Minted("x" * 70_000, 1)

            server.service.answer = long_answer
            with pytest.raises(errors.InvalidRequest, match="one message carries at most"):
                await server.ask(api.SIGN, MINT)

    run(test())


def test_no_log_line_contains_a_token_a_body_a_key_or_a_header(start: Any, run: Any, log: Any, settings: Any) -> None:
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


def test_the_answer_to_a_read_has_the_position_from_before_the_call(start: Any, run: Any, open_answer: Any) -> None:
    """With a later position, a cache could trust the answer for a revocation that the answer doesn't include."""

    async def test() -> None:
        async with start() as server:
            server.service.released.clear()
            asking = asyncio.create_task(server.post(api.VERIFY, VERIFY))
            await server.service.called.wait()
            server.service.position += 1  # after the service got the call
            server.service.released.set()
            answer = open_answer(await asking)
            assert answer.position == server.service.position - 1

    run(test())


def test_the_answer_to_a_write_has_the_position_after_the_write(start: Any, run: Any, open_answer: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.released.clear()
            writing = asyncio.create_task(server.post(api.WRITE, api.CreateOrganization("acme")))
            await server.service.called.wait()
            server.service.position += 1
            server.service.released.set()
            assert open_answer(await writing).position == server.service.position

    run(test())
