"""Bounded work: limits of bytes, of time, and of concurrent requests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.waiting import until_awaited
from tkdb import api, errors
from tkdb.server.limits import Limits

VERIFY = api.Verify(["tkdb_x"])
POLL = api.Revocations([bytes(16)], after=0, wait_ms=20_000)
HEAD = b"POST /v1/verify HTTP/1.1\r\nhost: tkdb\r\n"


async def raw(server: Any, *parts: bytes) -> bytes:
    """Send these bytes, and return everything that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection(str(server.address.host), server.address.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def test_a_body_with_too_large_a_content_length_is_refused_before_it_is_sent(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(linger_ms=10)) as server:
            answer = await raw(server, HEAD + b"content-length: 65536\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"urn:tkdb:problem:too-large" in answer
            assert b"connection: close" in answer

    run(test())


def test_a_body_of_65_535_bytes_is_read(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            response = await server.http.post(api.VERIFY, content=bytes(65_535))
            assert response.json()["type"] == "urn:tkdb:problem:handshake"

    run(test())


def test_a_body_in_chunks_is_refused(start: Any, run: Any) -> None:
    async def chunks() -> Any:
        for _ in range(100):
            yield bytes(8_192)

    async def test() -> None:
        async with start() as server:
            response = await server.http.post(api.VERIFY, content=chunks())
            assert (response.status_code, response.json()["type"]) == (411, "urn:tkdb:problem:length-required")
            both = HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
            assert (await raw(server, both)).startswith(b"HTTP/1.1 411")
            assert (await server.http.get("/livez")).status_code == 200

    run(test())


def test_an_unread_body_ends_with_its_connection(start: Any, run: Any) -> None:
    """With Hypercorn's bounded queue, its reader would wait forever for an app that has already answered."""

    async def test() -> None:
        async with start() as server:
            head = b"POST /nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            answer = await raw(server, head + b"1\r\na\r\n" * 5_000)
            assert answer.startswith(b"HTTP/1.1 404")

    run(test())


def test_an_endless_body_ends_with_its_connection(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(linger_bytes=100_000)) as server:
            chunks = [b"2000\r\n" + bytes(0x2000) + b"\r\n"] * 10_000
            with pytest.raises(ConnectionError):
                await raw(server, HEAD + b"transfer-encoding: chunked\r\n\r\n", *chunks)

    run(test())


def test_a_slow_body_is_refused(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(read_ms=50, linger_ms=10, active_max=1)) as server:
            answer = await raw(server, HEAD + b"content-length: 100\r\n\r\n", b"a few bytes")
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"urn:tkdb:problem:slow-request" in answer
            await server.ask(api.VERIFY, VERIFY)

    run(test())


def test_requests_over_the_limit_get_a_503_with_retry_after(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(active_max=2)) as server:
            server.service.released.clear()
            held = [asyncio.create_task(server.ask(api.VERIFY, VERIFY)) for _ in range(2)]
            await until_awaited(lambda: len(server.service.calls) == 2)
            response = await server.post(api.VERIFY, VERIFY)
            assert response.status_code == 503
            assert response.json()["type"] == "urn:tkdb:problem:overloaded"
            assert response.headers["retry-after"] == "1"
            assert response.headers["fly-replay"].startswith("elsewhere=true")
            brought_back = await server.http.post(api.VERIFY, headers={"fly-replay-failed": "timeout"})
            write = await server.post(api.WRITE, api.CreateOrganization("acme"))
            assert [each.status_code for each in (brought_back, write)] == [503, 503]
            assert not {"fly-replay"} & (brought_back.headers.keys() | write.headers.keys())
            assert (await server.http.get("/livez")).status_code == 200
            server.service.released.set()
            await asyncio.gather(*held)
            await server.ask(api.VERIFY, VERIFY)

    run(test())


def test_long_polls_take_no_permit_of_other_requests(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(active_max=1, waiting_max=3)) as server:
            polls = [asyncio.create_task(server.ask(api.VERIFY, POLL)) for _ in range(3)]
            await until_awaited(lambda: len(server.service.calls) == 3)
            await server.ask(api.VERIFY, VERIFY)
            with pytest.raises(errors.Overloaded, match="3 long polls"):
                await server.ask(api.VERIFY, POLL)
            server.service.drain()
            assert [feed.position for feed in await asyncio.gather(*polls)] == [7, 7, 7]
            await server.ask(api.VERIFY, VERIFY)

    run(test())


def test_a_long_poll_frees_its_permit_when_its_caller_disconnects(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(waiting_max=1)) as server:
            poll = asyncio.create_task(server.ask(api.VERIFY, POLL))
            await until_awaited(lambda: len(server.service.calls) == 1)
            poll.cancel()
            await until_awaited(lambda: server.service.finished == 1)
            server.service.drain()
            await server.ask(api.VERIFY, POLL)

    run(test())


def test_a_read_has_a_deadline(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(answer_ms=30)) as server:
            server.service.released.clear()
            with pytest.raises(errors.DeadlineExceeded):
                await server.ask(api.VERIFY, VERIFY)

    run(test())


def test_a_write_past_its_deadline_continues_and_its_outcome_is_unknown(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(answer_ms=30)) as server:
            server.service.released.clear()
            with pytest.raises(errors.OutcomeUnknown):
                await server.ask(api.WRITE, api.CreateOrganization("acme"))
            assert server.service.finished == 0
            server.service.released.set()
            await until_awaited(lambda: server.service.finished == 1)

    run(test())


def test_a_write_past_its_deadline_finishes_before_the_service_closes(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(answer_ms=30)) as server:
            service = server.service
            service.released.clear()
            with pytest.raises(errors.OutcomeUnknown):
                await server.ask(api.WRITE, api.CreateOrganization("acme"))
            asyncio.get_running_loop().call_later(0.05, service.released.set)
        assert (service.finished, service.closed) == (1, True)

    run(test())


def test_headers_are_bounded(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(header_bytes=2_000)) as server:
            head = b"GET /livez HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 3_000
            endless, whole = await raw(server, head), await raw(server, head + b"\r\n\r\n")
            assert endless.startswith(b"HTTP/1.1 431")
            assert whole.startswith(b"HTTP/1.1 431")
            assert b"urn:tkdb:problem:headers-too-large" in whole
            assert (await server.http.get("/livez", headers={"x": "a" * 500})).status_code == 200

    run(test())


def test_a_connection_that_sends_no_complete_head_is_closed(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(keep_alive_ms=50)) as server:
            assert await raw(server, b"POST /v1/ver") == b""

    run(test())


def test_websockets_are_refused(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            assert "server" not in (await server.http.get("/livez")).headers
            upgrade = {"connection": "upgrade", "upgrade": "websocket"}
            keys = {"sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}
            assert (await server.http.get("/livez", headers=upgrade | keys)).status_code == 403

    run(test())
