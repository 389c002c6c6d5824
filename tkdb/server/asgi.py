"""The ASGI operations that all endpoints share: send a whole response, and read a body within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from tkdb.server.limits import Limits

Header = tuple[bytes, bytes]

__all__ = [
    "BodyTooLarge",
    "Disconnected",
    "Header",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "header",
    "read_body",
    "respond",
]


class BodyTooLarge(Exception):
    """The body is larger than the limit, or its Content-Length is."""


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


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Return the whole body.

    The body is read to its end before the response begins, because a proxy can replay only a request that it has read
    completely.

    Raises:
        BodyTooLarge: its Content-Length is above the limit (raised at once), or its size is.
        TimeoutError: it wasn't complete within ``read_ms``.
        Disconnected: the caller disconnected.
    """
    claimed = header(scope, b"content-length")
    if claimed is not None and int(claimed) > limits.body_bytes:
        raise BodyTooLarge
    async with asyncio.timeout(limits.read_ms / 1000):
        message = await receive()
        chunk: bytes = message.get("body", b"")
        chunks, total = [chunk], len(chunk)
        while message.get("more_body", False) and total <= limits.body_bytes:
            message = await receive()
            chunk = message.get("body", b"")
            chunks.append(chunk)
            total += len(chunk)
    if message["type"] == "http.disconnect":
        raise Disconnected
    if total > limits.body_bytes:
        raise BodyTooLarge
    return b"".join(chunks)


async def respond_and_close(
    send: Send, receive: Receive, limits: Limits, status: int, content_type: bytes, body: bytes, headers: list[Header]
) -> None:
    """Send a whole response to a request whose body was not read to its end, and close the connection.

    Before it closes, it reads and drops the rest of the body, up to ``linger_bytes`` and ``linger_ms``. If a socket is
    closed with unread bytes, TCP resets the connection, and the caller would lose the response that gives the reason.
    """
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": fields + headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    left = limits.linger_bytes
    with suppress(TimeoutError):
        async with asyncio.timeout(limits.linger_ms / 1000):
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    break
                left -= len(message["body"])
    await send({"type": "http.response.body", "body": b""})
