"""Strangers: callers without any key who hold connections, heads, bodies and answers. Others are still answered."""

from __future__ import annotations

import asyncio
import resource
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypercorn.protocol.h11 import H11Protocol

from tests.waiting import until_awaited
from tkdb import api, errors
from tkdb.server.arrivals import Arrivals, GivenUp
from tkdb.server.connections import Connections, Http11
from tkdb.server.limits import Limits
from tkdb.server.work import Work

VERIFY = api.Verify(["tkdb_x"])
HALF_HEAD = b"POST /v1/verify HTTP/1.1\r\nhost: "
HEAD = b"POST /v1/verify HTTP/1.1\r\nhost: tkdb\r\n"
SLOW_BODY = HEAD + b"content-length: 352\r\n\r\n"
FEW = Limits(linger_ms=10, arriving_max=4, active_max=2, waiting_max=2, idle_max=2)
"""At most ten connections, so that a test can hold them all."""


@asynccontextmanager
async def holding(server: Any, count: int, sent: bytes) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Hold ``count`` connections on each of which these bytes were sent."""
    opened = [await asyncio.open_connection(str(server.address.host), server.address.port) for _ in range(count)]
    for _, writer in opened:
        writer.write(sent)
    for _ in range(100):  # The server runs in this event loop, and reads everything that was sent.
        await asyncio.sleep(0)
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def check_all_are_answered(server: Any) -> None:
    """Check that honest callers and health checks get their answers."""
    await server.ask(api.VERIFY, VERIFY)
    for path in ("/livez", "/readyz"):
        assert (await server.http.get(path)).status_code == 200


@pytest.mark.parametrize("sent", [b"", HALF_HEAD, SLOW_BODY, SLOW_BODY + b"a"], ids=["none", "head", "body", "more"])
def test_strangers_who_hold_all_connections_keep_nobody_out(sent: bytes, start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=FEW) as server, holding(server, 40, sent):
            for _ in range(3):
                await check_all_are_answered(server)

    run(test())


def test_without_a_limit_that_closes_the_oldest_connection_strangers_keep_all_out(
    monkeypatch: pytest.MonkeyPatch, start: Any, run: Any
) -> None:
    """The negative control of the previous test, for idle connections."""
    monkeypatch.setattr(Connections, "_give_up", lambda self, connection: None)

    def has_room(self: Connections) -> bool:
        return len(self._open) < self.limits.connections_max

    monkeypatch.setattr(Connections, "_has_room", has_room)

    async def test() -> None:
        async with start(limits=FEW) as server, holding(server, 40, b""):
            with pytest.raises(Exception, match=r"disconnected|reset|ReadError|^$"):
                await check_all_are_answered(server)

    run(test())


def test_slow_bodies_in_places_deny_everyone(monkeypatch: pytest.MonkeyPatch, start: Any, run: Any) -> None:
    """The negative control of the test above, for bodies."""
    read = Work.read

    async def read_in_a_place(self: Work, scope: Any, receive: Any) -> bytes:
        with self.enter(scope):
            return await read(self, scope, receive)

    monkeypatch.setattr(Work, "read", read_in_a_place)

    async def test() -> None:
        async with start(limits=FEW) as server, holding(server, 2, SLOW_BODY):
            assert (await server.post(api.VERIFY, VERIFY)).status_code == 503

    run(test())


@pytest.mark.parametrize("limits", [Limits(arriving_max=2), Limits(arriving_bytes=800)], ids=["number", "bytes"])
def test_the_oldest_body_is_given_up_when_too_many_are_arriving(limits: Limits, start: Any, run: Any) -> None:
    async def test() -> None:
        async with (
            start(limits=limits) as server,
            holding(server, 1, SLOW_BODY) as first,
            holding(server, 1, SLOW_BODY) as second,
        ):
            await check_all_are_answered(server)
            async with holding(server, 1, SLOW_BODY):
                answer = await first[0].read()
                assert answer.startswith(b"HTTP/1.1 503")
                assert b"urn:tkdb:problem:overloaded" in answer
                assert b"retry-after: 1" in answer
            assert not second[0].at_eof()

    run(test())


def test_a_body_that_came_with_its_head_ends_no_other(run: Any) -> None:
    async def test() -> None:
        arrivals = Arrivals(count_max=1, bytes_max=1_000)

        async def slow() -> None:
            async with arrivals.wait(10, 60_000):
                await asyncio.Event().wait()

        waiting = asyncio.create_task(slow())
        await asyncio.sleep(0)
        async with arrivals.wait(10, 60_000):
            pass
        await asyncio.sleep(0.01)
        assert (waiting.done(), len(arrivals)) == (False, 1)
        async with arrivals.wait(10, 60_000):
            with pytest.raises(GivenUp):
                await waiting
        assert len(arrivals) == 0

    run(test())


@pytest.mark.parametrize(("size", "allowed_ms"), [(0, 2_000), (352, 2_016), (65_535, 5_000)])
def test_a_body_has_time_in_proportion_to_its_length(size: int, allowed_ms: int) -> None:
    assert round(Limits().body_ms(size)) == allowed_ms


UPGRADE = (
    b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
)


async def first_line(server: Any, sent: bytes) -> bytes:
    async with holding(server, 1, sent) as readers:
        return await readers[0].readline()


def test_a_connection_is_never_upgraded_to_http_2(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            assert await first_line(server, UPGRADE) == b"HTTP/1.1 200 \r\n"
            preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
            assert await first_line(server, preface) == b"HTTP/1.1 505 \r\n"

    run(test())


def test_hypercorn_itself_upgrades_to_http_2(monkeypatch: pytest.MonkeyPatch, start: Any, run: Any) -> None:
    """The negative control of the previous test."""
    monkeypatch.setattr(Http11, "_check_protocol", H11Protocol._check_protocol)

    async def test() -> None:
        async with start() as server:
            assert await first_line(server, UPGRADE) == b"HTTP/1.1 101 \r\n"

    run(test())


async def never_read(server: Any, count: int) -> socket.socket:
    """Request ``count`` large answers on one connection, and read none of them."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (str(server.address.host), server.address.port))
    await loop.sock_sendall(connection, b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * count)
    return connection


def is_closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, 0)  # hang-ups and errors are always reported
    return bool(poll.poll(0))


@pytest.mark.parametrize("limits", [Limits(unsent_ms=100), Limits(unsent_bytes=1_000)], ids=["time", "bytes"])
def test_a_connection_whose_caller_does_not_read_is_closed(limits: Limits, start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=limits, dev=True) as server:
            connection = await never_read(server, 1_000)
            await until_awaited(lambda: is_closed(connection))
            connection.close()
            await check_all_are_answered(server)

    run(test())


def test_without_a_sweep_a_connection_whose_caller_does_not_read_stays_open(
    monkeypatch: pytest.MonkeyPatch, start: Any, run: Any
) -> None:
    """The negative control of the previous test."""
    swept = 0

    async def only_count(self: Connections) -> None:
        nonlocal swept
        while True:
            await asyncio.sleep(0.02)
            swept += 1

    monkeypatch.setattr(Connections, "_sweep", only_count)

    async def test() -> None:
        async with start(limits=Limits(unsent_ms=100), dev=True) as server:
            connection = await never_read(server, 1_000)
            await until_awaited(lambda: swept > 20)
            assert not is_closed(connection)
            connection.close()

    run(test())


def test_a_connection_whose_caller_reads_slowly_gives_way_to_new_ones(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(limits=FEW, dev=True) as server:
            slow = [await never_read(server, 1_000) for _ in range(12)]
            await check_all_are_answered(server)
            for each in slow:
                each.close()

    run(test())


def test_files_are_kept_for_other_things_than_connections(
    monkeypatch: pytest.MonkeyPatch, start: Any, run: Any
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 9_000))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: raised.append(limit))

    async def test() -> None:
        async with start():
            pass

    run(test())
    assert raised == [(7_936, 9_000)]
    assert Limits().connections_max + 1_024 + 512 == 7_936


def test_a_process_with_too_few_files_does_not_start(monkeypatch: pytest.MonkeyPatch, start: Any, run: Any) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4_096))

    def refuse(which: int, limit: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)

    async def test() -> None:
        with pytest.raises(errors.ConfigurationError, match="at most 4096 open files, and needs 7936"):
            async with start():
                pass

    run(test())
