"""Both pools over TLS: large bodies, kept connections, and connections that the other side has closed."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.background import Background
from tkdb.net.names import Names
from tkdb.net.pool import AsyncPool, Pool

SETTINGS: dict[str, Any] = {"max_connections": 2, "keepalive_expiry": 60}
LARGE = bytes(range(256)) * 8_192  # 2 MB: more than an asynchronous stream reads ahead
TIMEOUT_S = 60


class Server:
    """An HTTPS server that returns each body. After a request to ``/last`` it closes the connection."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem, private = folder / "server.pem", folder / "server.key"
        pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(pem, private)
        self.tls = ssl.create_default_context(cafile=str(pem))
        self.connections = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(size)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + body)
                await writer.drain()
                if b"/last" in head.split(b"\r\n")[0]:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        writer.close()

    def request(self, path: str, body: bytes) -> httpcore.Request:
        url = httpcore.URL(scheme="https", host="127.0.0.1", port=self.port, target=path)
        headers = [("host", "127.0.0.1"), ("content-length", str(len(body)))]
        return httpcore.Request("POST", url, headers=headers, content=body, extensions={"timeout": {"connect": 60}})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made, background = Server(tmp_path), Background("server")
    background.start()
    background.do(made.start())
    yield made
    background.do(made.stop())
    background.stop()


def ask_blocking(server: Server, asked: list[tuple[str, bytes]]) -> list[bytes]:
    pool, found = Pool(Names(), ssl_context=server.tls, **SETTINGS), []
    for path, body in asked:
        with pool.stream(server.request(path, body), TIMEOUT_S) as response:
            found.append(b"".join(response.iter_stream()))
        assert pool.lanes.taken == 0
    pool.close()
    return found


def ask_awaited(server: Server, asked: list[tuple[str, bytes]], loop_factory: Any) -> list[bytes]:
    async def ask() -> list[bytes]:
        pool, found = AsyncPool(Names(), ssl_context=server.tls, **SETTINGS), []
        for path, body in asked:
            async with asyncio.timeout(TIMEOUT_S), pool.stream(server.request(path, body)) as response:
                found.append(b"".join([part async for part in response.aiter_stream()]))
            assert pool.lanes.taken == 0
            await asyncio.sleep(0.05)
        pool.close()
        await asyncio.sleep(0)
        return found

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(ask())


@pytest.mark.parametrize("kind", ["blocking", "asyncio", "uvloop"])
def test_large_bodies_pass_over_one_kept_connection(server: Server, kind: str) -> None:
    asked = [("/", LARGE), ("/", b"small"), ("/", LARGE)]
    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    found = ask_blocking(server, asked) if kind == "blocking" else ask_awaited(server, asked, factory)
    assert found == [body for _, body in asked]
    assert server.connections == 1


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_connection_that_the_server_has_closed_carries_no_request(server: Server, kind: str) -> None:
    asked = [("/last", b"1"), ("/", b"2"), ("/", b"3")]
    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    assert ask_awaited(server, asked, factory) == [b"1", b"2", b"3"]
    assert server.connections == 2


def test_a_pool_that_is_closed_makes_no_connection(server: Server) -> None:
    pool = Pool(Names(), ssl_context=server.tls, **SETTINGS)
    pool.close()
    with pytest.raises(httpcore.ConnectError, match="closed"), pool.stream(server.request("/", b""), TIMEOUT_S):
        pass
    assert pool.lanes.taken == 0
