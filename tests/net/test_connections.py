"""Connections that the peer resets as soon as they are open, on the server's event loop."""

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
from tkdb_replication.bucket.credentials import Credentials, CredentialSource
from tkdb_replication.bucket.objects import Unknown
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket

ROUNDS, CONCURRENT = 40, 20
"""About one connection in sixty is reset at the critical moment, so each test opens 800."""


@pytest.fixture
def resetting_url() -> Iterator[Url]:
    """Yield the URL of a server that accepts and resets every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        stopped = threading.Event()

        def accept() -> None:
            while not stopped.is_set():
                connection, _ = server.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield Url.parse(f"http://127.0.0.1:{port}")
        stopped.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()


def test_a_connection_reset_at_once_is_lost_without_an_unexpected_error(resetting_url: Url) -> None:
    async def ask() -> set[type[object]]:
        transport, outcomes = AsyncTransport(), set()
        for _ in range(ROUNDS):
            sends = [transport.post(Send(resetting_url, "/v1/verify", b"1", {}, 5_000)) for _ in range(CONCURRENT)]
            outcomes |= set(map(type, await asyncio.gather(*sends)))
        await transport.close()
        return outcomes

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == {Lost}


def test_an_object_store_that_resets_connections_is_unknown_without_an_unexpected_error(resetting_url: Url) -> None:
    bucket = Bucket("bucket", resetting_url, "auto", CredentialSource.fixed(Credentials("id", "secret")))

    async def ask() -> set[type[object]]:
        outcomes: set[type[object]] = set()
        async with S3Objects(bucket, now_ms=lambda: 0) as objects:
            for _ in range(ROUNDS):
                gets = [objects.get("head", timeout_ms=5_000) for _ in range(CONCURRENT)]
                outcomes |= set(map(type, await asyncio.gather(*gets)))
        return outcomes

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == {Unknown}
