"""The few ASGI gestures that every endpoint makes: answer whole, read a body within limits."""

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
    """The body has, or claims, more bytes than the limit."""


class Disconnected(Exception):
    """The caller has gone before its body was complete: there is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of a lower-case ``name``, or None."""
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

    It is read to its end before anything is answered: a proxy can replay only a request that it has seen whole.

    Raises:
        BodyTooLarge: by its Content-Length, at once, or by its bytes.
        TimeoutError: it wasn't complete within ``read_ms``.
        Disconnected: the caller has gone.
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

    What is still coming is taken and dropped first, up to ``linger_bytes`` and ``linger_ms``: closing a socket with
    bytes unread resets it, and the caller would lose the answer that says why.
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
