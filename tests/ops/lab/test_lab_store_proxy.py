"""The way to the object store passes everything on in order, late, or not at all, as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tkdb_ops.lab.store_proxy import StoreFault, StoreProxy, dated

PATIENCE_S = 30
HEAD = b"HTTP/1.1 200 OK\r\nDate: Thu, 26 Nov 2026 23:30:00 GMT\r\nContent-Length: 2\r\n\r\nok"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(HEAD if piece == b"date" else piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def through(act: Callable[[StoreProxy], Awaitable[None]], **settings: float) -> None:
    """Do something with a gate before a server that says what it hears."""

    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        gate = StoreProxy("127.0.0.1", server.sockets[0].getsockname()[1], **settings)
        await gate.open()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await act(gate)
        finally:
            await gate.close()
            server.close()

    asyncio.run(run())


async def said(gate: StoreProxy, *pieces: bytes) -> bytes:
    """Say something through the gate, and return what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    heard = await reader.readexactly(len(HEAD) if pieces == (b"date",) else sum(map(len, pieces)))
    writer.close()
    return heard


@pytest.mark.parametrize("delay_ms", [0, 20])
def test_everything_arrives_in_order_whatever_the_delay_becomes_meanwhile(delay_ms: float) -> None:
    async def act(gate: StoreProxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        sent = b""
        for number in range(200):
            gate.change(slower_ms=(number * 7) % 30)
            piece = number.to_bytes(4, "big") * 1_000
            writer.write(piece)
            sent += piece
        assert await reader.readexactly(len(sent)) == sent
        writer.close()

    through(act, delay_ms=delay_ms)


def test_a_delay_is_spent_in_both_directions_and_does_not_add_up_over_pieces() -> None:
    async def act(gate: StoreProxy) -> None:
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        await said(gate, *[bytes([number]) * 70_000 for number in range(200)])  # each takes the whole delay by itself
        assert now_s() >= began_s + 0.4

    through(act, delay_ms=200)


def test_what_is_stalled_passes_once_it_is_over() -> None:
    async def act(gate: StoreProxy) -> None:
        gate.change(fault=StoreFault.STALL)
        waiting = asyncio.create_task(said(gate, b"hello"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.1)
        gate.change()
        assert await waiting == b"hello"

    through(act)


def test_what_is_cut_is_reset_and_well_again_afterwards() -> None:
    async def act(gate: StoreProxy) -> None:
        gate.change(fault=StoreFault.CUT)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await said(gate, b"hello")
        gate.change()
        assert await said(gate, b"hello") == b"hello"

    through(act)


def test_a_clock_that_is_elsewhere_shows_in_the_dates_of_answers_and_nowhere_else() -> None:
    async def act(gate: StoreProxy) -> None:
        gate.change(clock_ms=3_600_000)
        assert await said(gate, b"date") == HEAD.replace(b"26 Nov 2026 23:30", b"27 Nov 2026 00:30").replace(
            b"Thu", b"Fri"
        )
        assert await said(gate, b"hello") == b"hello"
        gate.change()
        assert await said(gate, b"date") == HEAD

    through(act)


@pytest.mark.parametrize("apart_ms", [-(10**9), -1, 0, 10**10])
def test_a_date_is_as_long_as_before(apart_ms: int) -> None:
    assert len(dated(HEAD, apart_ms)) == len(HEAD)
    assert dated(b"no date here\r\n", apart_ms) == b"no date here\r\n"
