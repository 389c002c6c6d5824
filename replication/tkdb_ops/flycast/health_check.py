"""A health check, like a proxy's: one HTTP request to an address inside the stand-in, and its status if one comes."""

from __future__ import annotations

import asyncio
from typing import Final

from tkdb_ops.flycast.addresses import Endpoint
from tkdb_ops.flycast.environment import Environment, connect

_PATIENCE_S: Final = 2.0


async def status(ground: Environment, place: str, where: Endpoint, path: str) -> int | None:
    """Return the HTTP status of a GET that is sent to ``where`` from ``place``; None if no status comes within 2 s."""
    request = f"GET {path} HTTP/1.1\r\nhost: {where}\r\nconnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await connect(ground, place, where.host, where.port)
            try:
                writer.write(request.encode("ascii"))
                first = (await reader.readline()).split()
            finally:
                writer.close()
        return int(first[1])
    except (OSError, ValueError, IndexError):  # TimeoutError is an OSError
        return None
