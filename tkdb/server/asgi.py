"""The ASGI operations that all endpoints share: send a whole response, and read a body within limits."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from tkdb.server.arrivals import Arrivals, GivenUp
from tkdb.server.limits import Limits

Header = tuple[bytes, bytes]

APP: Final = "tkdb.app"
"""The key of a scope under which the attested app of the caller is found. Without attestation there is none."""

__all__ = [
    "APP",
    "BodyTooLarge",
    "Disconnected",
    "Header",
    "LengthRequired",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "header",
    "read_body",
    "respond",
]


class BodyTooLarge(Exception):
    """The body's Content-Length is larger than the limit."""


class LengthRequired(Exception):
    """The body is sent in chunks, without its length."""


class Disconnected(Exception):
    """The caller disconnected before the body was complete, so no one can receive a response."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header with the lower-case ``name``, or None."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def respond(send: Send, status: int, content_type: bytes, body: bytes, *, headers: Iterable[Header] = ()) -> None:
    """Send a whole response."""
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read_body(scope: Scope, receive: Receive, limits: Limits, arrivals: Arrivals) -> bytes:
    """Return the whole body.

    The body is read to its end before the response begins, because a proxy can replay only a request that it has read
    completely.

    Raises:
        LengthRequired, BodyTooLarge: it has no length, or its length is above the limit. Nothing was read.
        TimeoutError: it wasn't complete in time.
        GivenUp: too many bodies are arriving, and this is the oldest.
        Disconnected: the caller disconnected.
    """
    if header(scope, b"transfer-encoding") is not None:
        raise LengthRequired
    size = int(header(scope, b"content-length") or 0)
    if size > limits.body_bytes:
        raise BodyTooLarge
    body = bytearray()  # not a list of chunks, because a caller may send chunks of one byte
    async with arrivals.wait(size, limits.body_ms(size)):
        message = await receive()
        body += message.get("body", b"")
        while message.get("more_body", False):
            message = await receive()
            body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise Disconnected
    return bytes(body)


async def respond_and_close(
    send: Send,
    receive: Receive,
    limits: Limits,
    arrivals: Arrivals,
    status: int,
    content_type: bytes,
    body: bytes,
    headers: list[Header],
) -> None:
    """Send a whole response to a request whose body was not read to its end, and close the connection.

    Before it closes, it reads and drops the rest of the body, up to ``linger_bytes`` and ``linger_ms``. If a socket is
    closed with unread bytes, TCP resets the connection, and the caller would lose the response that gives the reason.
    For this time, the body counts as one that is still arriving. If there is no room for it, nothing is read.
    """
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": fields + headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    left = limits.linger_bytes if arrivals.has_room else 0
    with suppress(TimeoutError, GivenUp):
        async with arrivals.wait(0, limits.linger_ms):
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    break
                left -= len(message["body"])
    await send({"type": "http.response.body", "body": b""})
