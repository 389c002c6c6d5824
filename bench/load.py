"""A closed loop of load: kept-alive connections, each of which sends its next request after the answer to the last one.

All requests are complete before the load starts, so that the sender is faster than the server.

>>> post("/v1/verify", b"body", {"tkdb-key": "00"}).splitlines()[0]
b'POST /v1/verify HTTP/1.1'
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import uvloop


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a POST request as bytes for the wire."""
    fields = {"host": "127.0.0.1", "content-length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def ask(port: int, requests: Sequence[bytes], *, connections: int) -> tuple[float, list[bytes]]:
    """Send the requests to 127.0.0.1. Return the seconds from the first byte to the last,
    and the bodies of the answers.

    Raises:
        RuntimeError: an answer wasn't 200.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ask(port, requests, connections))


async def _ask(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[bytes]]:
    loop = asyncio.get_running_loop()
    bodies, queue = [b""] * len(requests), iter(enumerate(requests))
    callers = [_Caller(queue, bodies, loop.create_future()) for _ in range(connections)]
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", port)  # type: ignore[misc]
    began = time.perf_counter()
    for caller in callers:
        caller.next()
    await asyncio.gather(*(caller.done for caller in callers))
    return time.perf_counter() - began, bodies


class _Caller(asyncio.Protocol):
    """One connection. It takes requests from the shared queue, and puts each answer in its place in ``bodies``."""

    def __init__(self, queue: Iterator[tuple[int, bytes]], bodies: list[bytes], done: asyncio.Future[None]) -> None:
        self._queue = queue
        self._bodies = bodies
        self._received = bytearray()
        self._place = 0
        self.done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError("a connection was closed before its answer"))

    def next(self) -> None:
        """Send the next request, or end."""
        upcoming = next(self._queue, None)
        if upcoming is None:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._place, request = upcoming
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = bytes(self._received).partition(b"\r\n\r\n")
        if not found:
            return
        status, *fields = head.lower().split(b"\r\n")
        size = next(int(field[15:]) for field in fields if field.startswith(b"content-length:"))
        if len(body) < size:
            return
        if not status.startswith(b"http/1.1 200"):
            self.done.set_exception(RuntimeError(f"200 was expected, and the answer is {status!r} {body[:500]!r}"))
            return
        self._bodies[self._place] = body
        self._received.clear()
        self.next()
