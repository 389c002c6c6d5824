"""Writes on a replica: a proxy replays each one to the primary, once. Without a proxy, the answer names the primary.

A machine with a wrong clock has its mints and verifications replayed to another machine.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.server.conftest import Running
from tkdb import api, errors
from tkdb.server.limits import Limits

WRITE = api.CreateOrganization("acme")
READ = api.Verify(["tkdb_x"])


class Proxy(httpx.AsyncBaseTransport):
    """A proxy that sends each request to its first machine, and then obeys ``fly-replay``."""

    def __init__(self, first: Running, **machines: Running) -> None:
        self._first = first
        self._machines = machines
        self._inner = httpx.AsyncHTTPTransport()
        self.bodies: list[tuple[str, bytes]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._send(request, self._first, "first")
        asked = response.headers.get("fly-replay")
        if asked is None:
            return response
        fields = dict(field.split("=") for field in asked.split(";"))
        assert {"timeout", "fallback"} < set(fields) <= {"instance", "elsewhere", "timeout", "fallback"}
        name = fields["instance"] if "instance" in fields else next(iter(self._machines), "none")
        target = self._machines.get(name)
        if target is None:
            return await self._send(request, self._first, "again", {"fly-replay-failed": "instance not found"})
        return await self._send(request, target, name, {"fly-replay-src": "instance=first;region=syd"})

    async def _send(
        self, request: httpx.Request, to: Running, name: str, more: Mapping[str, str] | None = None
    ) -> httpx.Response:
        body = await request.aread()
        self.bodies.append((name, body))
        url = request.url.copy_with(host=str(to.address.host), port=to.address.port)
        headers = {**request.headers, **(more or {})}
        again = httpx.Request(request.method, url, headers=headers, content=body)
        response = await self._inner.handle_async_request(again)
        await response.aread()
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def behind(proxy: Proxy, server: Running) -> Running:
    """Send the requests for ``server`` through ``proxy``."""
    server.http = httpx.AsyncClient(base_url="http://tkdb.flycast", transport=proxy)
    return server


async def reach_position(server: Running, position: int) -> None:
    """Let the stand-in reach a position after 10 ms."""
    await asyncio.sleep(0.01)
    server.service.position = position
    server.service.moved.set()


def test_a_proxy_passes_a_write_to_the_primary_byte_for_byte(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as replica, start() as primary:
            replica.service.primary = "m-2"
            proxy = Proxy(replica, **{"m-2": primary})
            async with behind(proxy, replica).http:
                made = await replica.ask(api.WRITE, WRITE)
                assert made.name == "acme"
                revoked = await replica.ask(api.REVOKE, api.RevokeOwn("tkdb_" + "x" * 30_000))
                assert revoked == api.Revoked(already=False)
            assert replica.service.calls == []
            assert [call for call, _ in primary.service.calls] == [WRITE, api.RevokeOwn("tkdb_" + "x" * 30_000)]
            (_, first), (_, second), (_, third), (_, fourth) = proxy.bodies
            assert (first, third) == (second, fourth)

    run(test())


def test_a_replica_names_the_primary_in_a_header_and_inside_message_2(start: Any, run: Any, open_answer: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.primary = "m-2"
            response = await server.post(api.WRITE, WRITE)
            assert response.headers["fly-replay"] == "instance=m-2;timeout=1s;fallback=force_self"
            assert response.headers["cache-control"] == "no-store"
            with pytest.raises(errors.NoPrimary, match="m-2 is: ask m-2"):
                api.decode_result(WRITE, open_answer(response))
            assert server.service.calls == []

    run(test())


def test_a_replica_answers_reads_itself(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.primary = "m-2"
            response = await server.post(api.VERIFY, READ)
            assert "fly-replay" not in response.headers
            assert len(server.service.calls) == 1

    run(test())


@pytest.mark.parametrize("name", ["fly-replay-src", "Fly-Replay-Src", "fly-replay-failed"])
@pytest.mark.parametrize("value", ["", "instance=m-1;region=syd;t=1", "\x7f=;;" * 50])
def test_a_replayed_request_is_never_replayed_again(start: Any, run: Any, name: str, value: str) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.primary = "m-2"
            server.service.raises = errors.NoPrimary("no machine is primary")
            server.http.headers[name] = value
            response = await server.post(api.WRITE, WRITE)
            assert (response.status_code, "fly-replay" in response.headers) == (200, False)
            assert len(server.service.calls) == 1

    run(test())


def test_two_machines_that_name_each_other_as_primary_make_no_loop(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as one, start() as two:
            one.service.primary, two.service.primary = "m-2", "m-1"
            two.service.raises = errors.NoPrimary("this machine isn't primary")
            proxy = Proxy(one, **{"m-1": one, "m-2": two})
            async with behind(proxy, one).http:
                with pytest.raises(errors.NoPrimary):
                    await one.ask(api.WRITE, WRITE)
            assert [name for name, _ in proxy.bodies] == ["first", "m-2"]

    run(test())


def test_a_write_to_an_unreachable_primary_has_an_unknown_outcome(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.primary = "m-gone"
            server.service.raises = errors.NoPrimary("this machine isn't primary", retry_after_ms=250)
            proxy = Proxy(server)
            async with behind(proxy, server).http:
                with pytest.raises(errors.OutcomeUnknown, match="passed on") as raised:
                    await server.ask(api.WRITE, WRITE)
            assert raised.value.retry_after_ms == 250
            assert [name for name, _ in proxy.bodies] == ["first", "again"]

    run(test())


def test_a_write_that_the_proxy_returns_is_done_if_this_machine_is_now_primary(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.http.headers["fly-replay-failed"] = "timeout"
            assert (await server.ask(api.WRITE, WRITE)).name == "acme"

    run(test())


# A machine with a wrong clock.

MINT = api.Mint("acme", [])
WRONG_CLOCK = errors.Unavailable("this machine's clock is 3600 s from the object store's", hint="correct it")


@pytest.mark.parametrize(("path", "call"), [(api.SIGN, MINT), (api.VERIFY, READ)], ids=["mint", "verify"])
def test_a_mint_or_a_verification_goes_to_a_machine_with_a_correct_clock(
    start: Any, run: Any, path: str, call: Any
) -> None:
    async def test() -> None:
        async with start() as wrong, start() as right:
            wrong.service.clock_is_wrong, wrong.service.raises = True, WRONG_CLOCK
            proxy = Proxy(wrong, right=right)
            async with behind(proxy, wrong).http:
                await wrong.ask(path, call)
            assert [call for call, _ in right.service.calls] == [call]
            assert [name for name, _ in proxy.bodies] == ["first", "right"]

    run(test())


def test_a_verification_is_answered_without_a_loop_if_every_clock_is_wrong(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as one, start() as two:
            one.service.clock_is_wrong = two.service.clock_is_wrong = True
            proxy = Proxy(one, two=two)
            async with behind(proxy, one).http:
                assert (await one.ask(api.VERIFY, READ)).results == [api.Valid("acme")]
            assert [name for name, _ in proxy.bodies] == ["first", "two"]

    run(test())


def test_a_machine_with_a_wrong_clock_verifies_if_no_other_machine_answers(
    start: Any, run: Any, open_answer: Any
) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.clock_is_wrong = True
            response = await server.post(api.VERIFY, READ)
            assert response.headers["fly-replay"] == "elsewhere=true;timeout=1s;fallback=force_self"
            assert api.decode_result(READ, open_answer(response)).results == [api.Valid("acme")]
            server.http.headers["fly-replay-failed"] = "no candidate"
            response = await server.post(api.VERIFY, READ)
            assert "fly-replay" not in response.headers
            assert api.decode_result(READ, open_answer(response)).results == [api.Valid("acme")]

    run(test())


def test_a_machine_with_a_wrong_clock_replays_no_write_and_no_status_call(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.clock_is_wrong = True
            calls = [(api.WRITE, WRITE), (api.REVOKE, api.RevokeOwn("tkdb_x")), (api.SIGN, api.TakeOver())]
            for path, call in [*calls, (api.VERIFY, api.Status())]:
                assert "fly-replay" not in (await server.post(path, call)).headers

    run(test())


def test_a_machine_with_a_wrong_clock_never_refuses_a_request_as_out_of_time(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            old_ms = time.time_ns() // 1_000_000 - 3_600_000
            with pytest.raises(errors.OutOfTime):
                await server.ask(api.VERIFY, READ, now_ms=old_ms)
            server.service.clock_is_wrong = True
            response = await server.post(api.VERIFY, READ, now_ms=old_ms)
            assert response.headers["fly-replay"].startswith("elsewhere=true")
            with pytest.raises(errors.Unavailable, match="clock"):
                await server.ask(api.VERIFY, READ, now_ms=old_ms)
            assert server.service.calls == []

    run(test())


def test_no_response_is_sent_before_the_body_is_complete(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.primary = "m-2"
            sealed = server.initiator.seal(api.WRITE, api.encode(WRITE), request_id=bytes(16), now_ms=0)
            reader, writer = await asyncio.open_connection(str(server.address.host), server.address.port)
            head = [f"POST {api.WRITE} HTTP/1.1", "host: x", f"content-length: {len(sealed.message)}"]
            head += [f"{name}: {value}" for name, value in sealed.headers.items()]
            writer.write("\r\n".join([*head, "", ""]).encode() + sealed.message[:-1])
            await writer.drain()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.1)
            writer.write(sealed.message[-1:])
            answer = await reader.readuntil(b"\r\n\r\n")
            assert re.search(rb"fly-replay: instance=m-2;", answer, re.IGNORECASE)
            writer.close()

    run(test())


def test_a_body_over_the_limit_is_not_replayed(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.primary = "m-2"
            for content in (b"x" * 65_536, b"x" * 70_000):
                response = await server.http.post(api.WRITE, content=content)
                assert (response.status_code, "fly-replay" in response.headers) == (413, False)

    run(test())


def test_an_invalid_message_is_not_replayed(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.primary = "m-2"
            response = await server.http.post(api.WRITE, content=b"x" * 200)
            assert (response.status_code, "fly-replay" in response.headers) == (400, False)

    run(test())


def test_the_server_waits_for_a_position_that_arrives_soon(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            coming = asyncio.create_task(reach_position(server, 8))
            assert (await server.ask(api.VERIFY, READ, position=8)).results == [api.Valid("acme")]
            await coming

    run(test())


def test_a_position_that_does_not_arrive_is_unavailable_and_makes_no_call(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            with pytest.raises(errors.Unavailable, match="position 8") as raised:
                await server.ask(api.VERIFY, READ, position=8)
            assert raised.value.retry_after_ms == 250
            assert server.service.calls == []

    run(test())


def test_calls_with_a_false_future_position_block_no_other_call(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=Limits(active_max=1, waiting_max=2)) as server:
            ahead = [asyncio.create_task(server.ask(api.VERIFY, READ, position=2**53 - 1)) for _ in range(2)]
            while (response := await server.post(api.VERIFY, READ)).status_code == 503:  # noqa: ASYNC110  no event shows when the permits are taken
                await asyncio.sleep(0.01)
            assert response.status_code == 200
            for refused in await asyncio.gather(*ahead, return_exceptions=True):
                assert isinstance(refused, errors.Unavailable)

    run(test())


def test_a_stale_machine_reports_it_inside_message_2(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            server.service.raises = errors.StaleAuthority("the head was last read 6.1 s ago", hint="ask another region")
            with pytest.raises(errors.StaleAuthority, match=r"6\.1 s ago: ask another region"):
                await server.ask(api.VERIFY, READ)

    run(test())
