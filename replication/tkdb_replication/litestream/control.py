"""Litestream's control socket: whether it answers, and whether every commit is in the object store.

    control = Control(Path("/tmp/tkdb-1/control"), pid=process.pid)
    synced = await control.sync(database, timeout_ms=2_000)

The socket is HTTP without authentication, so the client checks that the process at its other end is the started one.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpcore
import msgspec

from tkdb import errors
from tkdb_replication.bucket.credentials import Credentials

MAX_ANSWER_BYTES: Final = 65_536
_MAX_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Synced:
    """Every commit before the call is in the object store.

    Attributes:
        txid: Litestream's number of the last transaction.
        replicated_txid: the last transaction in the object store; at least ``txid``.
    """

    txid: int
    replicated_txid: int


class _Sync(msgspec.Struct):
    path: str
    txid: int
    replicated_txid: int


class _Problem(msgspec.Struct):
    error: str


class Control:
    """The control socket of one process.

    Args:
        path: the socket.
        pid: the process that must listen on it.
        credentials: removed from its answers before they are shown.
    """

    def __init__(self, path: Path, *, pid: int, credentials: Credentials) -> None:
        self.pid = pid
        self._path = path
        self._credentials = credentials

    async def answers(self, timeout_ms: int) -> bool:
        """Return True if the process answers at all."""
        try:
            status, _ = await self._ask("GET", "/info", None, timeout_ms)
        except errors.Unavailable:
            return False
        return status == 200

    async def sync(self, database: Path, *, timeout_ms: int) -> Synced:
        """Upload every commit so far to the object store, and return once that is done.

        Raises:
            Unavailable: it isn't known to be done. It may be done all the same, now or later.
        """
        # Litestream's own timeout is in whole seconds, and doesn't apply while it waits for its own locks.
        request = {"path": str(database), "wait": True, "timeout": math.ceil(timeout_ms / 1000)}
        status, body = await self._ask("POST", "/sync", msgspec.json.encode(request), timeout_ms)
        try:
            if status != 200:
                said = self._credentials.redact(msgspec.json.decode(body, type=_Problem).error)[:_MAX_TEXT]
                raise _unsynced(f"it reports: {said}")
            answer = msgspec.json.decode(body, type=_Sync)
        except msgspec.MsgspecError:
            raise _unsynced(f"its answer ({status}) can't be read") from None
        if answer.path != str(database):
            raise _unsynced("it answered for another database")
        # Both "synced" and "no_change" describe the data that it has read, not the data that it has sent.
        if not 1 <= answer.txid <= answer.replicated_txid:
            raise _unsynced(f"it has sent {answer.replicated_txid} of {answer.txid} transactions")
        return Synced(answer.txid, answer.replicated_txid)

    async def _ask(self, method: str, path: str, body: bytes | None, timeout_ms: int) -> tuple[int, bytes]:
        pool = httpcore.AsyncConnectionPool(uds=str(self._path), network_backend=_OnlyFrom(self.pid), retries=0)
        headers = {"host": "litestream", "content-type": "application/json", "content-length": str(len(body or b""))}
        try:
            async with (
                asyncio.timeout(timeout_ms / 1000),
                pool,
                pool.stream(method, f"http://litestream{path}", headers=[*headers.items()], content=body) as response,
            ):
                answer = bytearray()
                async for chunk in response.aiter_stream():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise _unsynced("its answer is too large")
                return response.status, bytes(answer)
        except (TimeoutError, httpcore.TimeoutException):
            raise _unsynced(f"it didn't answer within {timeout_ms} ms") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise _unsynced(f"its control socket can't be used: {error or type(error).__name__}") from None


class _OnlyFrom(httpcore.AnyIOBackend):
    """Connects to one process only (unix(7), SO_PEERCRED), on systems that support it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 -- httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's. Another process is a ``ConnectError``."""
        stream = await super().connect_unix_socket(path, timeout, socket_options)
        if hasattr(socket, "SO_PEERCRED"):
            peer = stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", peer)[0] != self._pid:
                await stream.aclose()
                raise httpcore.ConnectError("another process listens on it")
        return stream


def _unsynced(what: str) -> errors.Unavailable:
    return errors.Unavailable(f"Litestream hasn't synced: {what}", hint="try again; its lines in the log have details")
