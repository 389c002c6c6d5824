"""The lab's proxy of the object store passes bytes on in order, late, or not at all, as configured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tkdb_ops.lab.store_proxy import StoreFault, StoreProxy, dated

TIMEOUT_S = 30
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


def with_proxy(act: Callable[[StoreProxy], Awaitable[None]], **settings: float) -> None:
    """Run ``act`` with a proxy in front of an echo server."""

    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        proxy = StoreProxy("127.0.0.1", server.sockets[0].getsockname()[1], **settings)
        await proxy.open()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await act(proxy)
        finally:
            await proxy.close()
            server.close()

    asyncio.run(run())


async def send_through(proxy: StoreProxy, *pieces: bytes) -> bytes:
    """Send bytes through the proxy and return the echoed bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    received = await reader.readexactly(len(HEAD) if pieces == (b"date",) else sum(map(len, pieces)))
    writer.close()
    return received


@pytest.mark.parametrize("delay_ms", [0, 20])
def test_bytes_arrive_in_order_while_the_delay_changes(delay_ms: float) -> None:
    async def act(proxy: StoreProxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        sent = b""
        for number in range(200):
            proxy.change(slower_ms=(number * 7) % 30)
            piece = number.to_bytes(4, "big") * 1_000
            writer.write(piece)
            sent += piece
        assert await reader.readexactly(len(sent)) == sent
        writer.close()

    with_proxy(act, delay_ms=delay_ms)


def test_a_delay_applies_in_both_directions_and_does_not_add_up() -> None:
    async def act(proxy: StoreProxy) -> None:
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        # Delays that add up would exceed the timeout.
        await send_through(proxy, *[bytes([number]) * 70_000 for number in range(200)])
        assert now_s() >= began_s + 0.4

    with_proxy(act, delay_ms=200)


def test_stalled_bytes_pass_once_the_stall_is_over() -> None:
    async def act(proxy: StoreProxy) -> None:
        proxy.change(fault=StoreFault.STALL)
        waiting = asyncio.create_task(send_through(proxy, b"hello"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.1)
        proxy.change()
        assert await waiting == b"hello"

    with_proxy(act)


def test_a_cut_connection_is_reset_and_works_after_the_cut() -> None:
    async def act(proxy: StoreProxy) -> None:
        proxy.change(fault=StoreFault.CUT)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await send_through(proxy, b"hello")
        proxy.change()
        assert await send_through(proxy, b"hello") == b"hello"

    with_proxy(act)


def test_a_skewed_clock_changes_only_the_date_header() -> None:
    async def act(proxy: StoreProxy) -> None:
        proxy.change(clock_ms=3_600_000)
        assert await send_through(proxy, b"date") == HEAD.replace(b"26 Nov 2026 23:30", b"27 Nov 2026 00:30").replace(
            b"Thu", b"Fri"
        )
        assert await send_through(proxy, b"hello") == b"hello"
        proxy.change()
        assert await send_through(proxy, b"date") == HEAD

    with_proxy(act)


@pytest.mark.parametrize("offset_ms", [-(10**9), -1, 0, 10**10])
def test_a_changed_date_keeps_its_length(offset_ms: int) -> None:
    assert len(dated(HEAD, offset_ms)) == len(HEAD)
    assert dated(b"no date here\r\n", offset_ms) == b"no date here\r\n"
