"""A small HTTP server on loopback that speaks Noise, answers with a handler, and injects the faults of a script."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from tests.background import Background
from tkdb import api, errors
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret, SignerSecret
from tkdb.channel.server import Opened, Responder
from tkdb.failure import Failure

NAME = "tkdb.test"
JOURNAL = b"j" * 16

Handler = Callable[[Any], msgspec.Struct]


def report(_call: object = None) -> api.StatusReport:
    return api.StatusReport(
        name=NAME, version="1", role="primary", region="iad", machine="m1", uptime_ms=1, position=1, age_ms=0
    )


@dataclass
class Request:
    """One POST as received. ``opened`` is None if message 1 couldn't be opened."""

    path: str
    headers: dict[str, str]
    message: bytes
    connection: int
    opened: Opened | None = None
    call: Any = None


@dataclass
class Brain:
    """The authority without a socket: it opens requests and seals answers."""

    secrets: list[AuthoritySecret] = field(default_factory=lambda: [AuthoritySecret.generate(os.urandom)])
    signer: SignerSecret = field(default_factory=lambda: SignerSecret.generate(os.urandom))
    handler: Handler = report
    position: int = 1
    journal: bytes = JOURNAL
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trust(*self.secrets)

    def trust(self, *secrets: AuthoritySecret) -> None:
        self._responder = Responder(NAME, secrets, [self.signer.public], random=os.urandom)

    @property
    def identity(self) -> AuthorityIdentity:
        return AuthorityIdentity(NAME, tuple(secret.public for secret in self.secrets))

    def note(self, request: Request) -> None:
        self.requests.append(request)
        try:
            request.opened = self._responder.open(request.path, request.headers, request.message)
        except errors.ChannelError:
            return
        request.call = api.decode_request(request.path, request.opened.envelope.body)

    def answer(self, request: Request, error: errors.TkdbError | None = None) -> bytes | None:
        """Return message 2. None if message 1 couldn't be opened."""
        if request.opened is None:
            return None
        given: dict[str, Any] = {}
        try:
            if error is not None:
                raise error
            given["result"] = msgspec.Raw(api.encode(self.handler(request.call)))
        except errors.TkdbError as raised:
            given["failure"] = Failure.from_error(raised)
        answer = api.Answer(self.journal, self.position, 0, **given)
        return request.opened.seal(api.encode(answer))


Fault = Callable[["FakeAuthority", Request, asyncio.StreamWriter], Awaitable[None]]


class FakeAuthority(Brain):
    """The authority with a socket, in a thread. Each request gets the next fault of ``script``, if there is one."""

    def __init__(self, *, host: str = "127.0.0.1", **given: Any) -> None:
        super().__init__(**given)
        self.host = host
        self.delay_s = 0.0
        self.script: deque[Fault] = deque()
        self._connections = 0
        self._background = Background("authority")

    def __enter__(self) -> Self:
        self._background.start()
        self._server = self._background.do(asyncio.start_server(self._connected, self.host, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._background.do(self._close())
        self._background.stop()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def _close(self) -> None:
        for listening in self._server.sockets:  # asyncio loses a connection that it accepts while the server closes.
            asyncio.get_running_loop().remove_reader(listening.fileno())
        for _ in range(10):  # Each accepted connection gets its task first.
            await asyncio.sleep(0)
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        try:
            if self.script and self.script[0] is reset_unread:
                self.script.popleft()
                abort(writer)
                return
            while (request := await self._read(reader, number)) is not None:
                self.note(request)
                behave = self.script.popleft() if self.script else honest
                await behave(self, request, writer)
                if writer.is_closing():
                    return
        except asyncio.CancelledError:
            writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader, connection: int) -> Request | None:
        head = await reader.readuntil(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        message = await reader.readexactly(int(headers["content-length"]))
        return Request(start.split(" ")[1], headers, message, connection)


async def respond(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: Sequence[str] = (), *, length: int | None = None
) -> None:
    """Write one HTTP answer. ``length`` is a false content length."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body) if length is None else length}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()


def abort(writer: asyncio.StreamWriter) -> None:
    """Close the connection with a reset."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# --- faults ------------------------------------------------------------------------------------------------------


async def honest(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(authority.delay_s)
    message = authority.answer(request)
    if message is None:
        await respond(writer, 400, b'{"code":"channel"}')
    else:
        await respond(writer, 200, message, ["content-type: application/octet-stream"])


async def reset_unread(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    """Reset the connection before the request is read. The server checks for this function and does it."""
    raise AssertionError("the server handles this fault")


async def reset_after_reading(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    abort(writer)


async def answer_lost(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    """Handle the request, and lose the answer."""
    authority.answer(request)
    abort(writer)


async def hang(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def drip(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    """Send an endless header byte by byte, so that every read succeeds."""
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def garbage(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    await respond(writer, 200, os.urandom(400))


async def not_http(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff SSH-2.0 hello\r\n\r\n")
    await writer.drain()
    writer.close()


async def truncated(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    message = authority.answer(request)
    assert message is not None
    await respond(writer, 200, message[:-20], length=len(message))
    writer.close()


async def cut_short(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    """Send a complete HTTP answer with an incomplete message."""
    message = authority.answer(request)
    assert message is not None
    await respond(writer, 200, message[:-20])


async def huge(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    await respond(writer, 200, bytes(1_000_000), length=1_000_000_000)


async def replayed(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
    """Send the authentic answer to another request, byte for byte."""
    await respond(writer, 200, authority.recorded)  # type: ignore[attr-defined]


def plain(status: int, body: bytes = b"", *headers: str) -> Fault:
    """Return a fault: a plain HTTP answer, as from a proxy."""

    async def fault(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
        await respond(writer, status, body, headers)

    return fault


def sealed(error: errors.TkdbError) -> Fault:
    """Return a fault: a sealed error of the authority."""

    async def fault(authority: FakeAuthority, request: Request, writer: asyncio.StreamWriter) -> None:
        message = authority.answer(request, error)
        assert message is not None
        await respond(writer, 200, message)

    return fault
