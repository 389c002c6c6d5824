"""Connections that the other side resets as soon as they are made, on the event loop that the server runs on."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import uvloop

from tkdb.net.url import Url
from tkdb_client.calls.transport import AsyncTransport, Lost, Send
from tkdb_replication.bucket.objects import Unknown
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket, Credentials

TIMES, AT_ONCE = 40, 20
"""About one connection of sixty meets the moment that matters."""


@pytest.fixture
def resetting() -> Iterator[Url]:
    """Where every connection is accepted, and reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                connection, _ = server.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield Url.parse(f"http://127.0.0.1:{port}")
        over.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()


def test_a_connection_that_is_reset_at_once_is_lost_and_nothing_foreign_is_raised(resetting: Url) -> None:
    async def ask() -> set[type[object]]:
        transport, met = AsyncTransport(), set()
        for _ in range(TIMES):
            sends = [transport.post(Send(resetting, "/v1/verify", b"1", {}, 5_000)) for _ in range(AT_ONCE)]
            met |= set(map(type, await asyncio.gather(*sends)))
        await transport.close()
        return met

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == {Lost}


def test_an_object_store_that_resets_at_once_is_unknown_and_nothing_foreign_is_raised(resetting: Url) -> None:
    bucket = Bucket("bucket", resetting, "auto", Credentials("id", "secret"))

    async def ask() -> set[type[object]]:
        met: set[type[object]] = set()
        async with S3Objects(bucket, now_ms=lambda: 0) as objects:
            for _ in range(TIMES):
                gets = [objects.get("head", timeout_ms=5_000) for _ in range(AT_ONCE)]
                met |= set(map(type, await asyncio.gather(*gets)))
        return met

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == {Unknown}
