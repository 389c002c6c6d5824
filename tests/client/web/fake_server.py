"""A replacement for an ASGI or WSGI server: it builds requests, runs them through an app, and collects the response."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tkdb.attestation import Source, sign
from tkdb.macaroon.token import Macaroon

PROXY = Ed25519PrivateKey.from_private_bytes(b"p" * 32)
Message = MutableMapping[str, Any]


@dataclass
class Response:
    """The response of an app."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def problem(self) -> Any:
        assert self.headers["content-type"] == "application/problem+json"
        return msgspec.json.decode(self.body)

    @property
    def challenge(self) -> str:
        return self.headers["www-authenticate"]


def bearer(token: Macaroon | str) -> tuple[bytes, bytes]:
    text = token if isinstance(token, str) else token.text
    return b"authorization", f"Bearer {text}".encode()


def attested(request_id: str, *, ip: str = "10.0.0.1", key: Ed25519PrivateKey = PROXY) -> list[tuple[bytes, bytes]]:
    """Return the headers that Fly's proxy adds to a request."""
    source, signature = sign(key, Source("m1", "web", "acme", int(time.time())))
    return [
        (b"fly-src", source.encode()),
        (b"fly-src-signature", signature.encode()),
        (b"fly-request-id", request_id.encode()),
        (b"fly-client-ip", ip.encode()),
    ]


def scope(
    path: str = "/", /, *headers: tuple[bytes, bytes], kind: str = "http", method: str = "GET", **given: Any
) -> dict[str, Any]:
    """Return the ASGI scope of a request. ``path`` is the path on the wire."""
    made: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("203.0.113.7", 40_000),
        "server": ("app.test", 80),
    }
    return made | ({"method": method} if kind == "http" else {"subprotocols": []}) | given


def ask(app: Callable[..., Awaitable[None]], request: dict[str, Any], received: Iterable[Message] = ()) -> Response:
    """Run one request through an ASGI app."""
    return asyncio.run(ask_async(app, request, received))


async def ask_async(
    app: Callable[..., Awaitable[None]], request: dict[str, Any], received: Iterable[Message] = ()
) -> Response:
    got, incoming = Response(), iter([*received, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        for message in incoming:
            return message
        return await asyncio.Future()  # The caller sends nothing more, and waits.

    async def send(message: Message) -> None:
        got.messages.append(message)

    async with asyncio.timeout(60):
        await app(request, receive, send)
    return got


def environ(path: str = "/", /, *headers: tuple[bytes, bytes], method: str = "GET", **given: Any) -> dict[str, Any]:
    """Return the WSGI environ of a request. ``path`` is the path on the wire. Headers with the same name are joined."""
    made: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "app.test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "203.0.113.7",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers:
        key, text = "HTTP_" + name.decode().upper().replace("-", "_"), value.decode("latin-1")
        made[key] = f"{made[key]},{text}" if key in made else text
    return made | given


def ask_wsgi(app: Callable[..., Iterable[bytes]], request: dict[str, Any]) -> Response:
    """Run one request through a WSGI app."""
    got = Response()

    def start(status: str, headers: list[tuple[str, str]], *_: object) -> None:
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        got.messages.append({"status": int(status[:3]), "headers": pairs})

    for chunk in app(request, start):
        got.messages.append({"body": chunk})
    return got


class CatchAll:
    """ASGI middleware that answers every error of the app inside it with its own messages."""

    def __init__(self, app: Callable[..., Awaitable[None]], *, messages: Iterable[Message]) -> None:
        self._app = app
        self._messages = messages

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:  # noqa: BLE001  this is what such middleware does
            for message in self._messages:
                await send(message)
