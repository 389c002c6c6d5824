"""Litestream's control socket: is it alive, and is what was committed in the object store.

    control = Control(Path("/tmp/tkdb-1/control"), pid=process.pid)
    synced = await control.sync(database, timeout_ms=2_000)

The socket speaks HTTP and asks for nothing, so its other end is checked to be the very process that was started.
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
from tkdb_replication.bucket.settings import Credentials

MAX_ANSWER_BYTES: Final = 65_536
_MAX_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything committed before the call is in the object store.

    Attributes:
        txid: Litestream's number of the last transaction.
        replicated_txid: the last one in the object store; not less than ``txid``.
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
        pid: the process that must be listening on it.
        credentials: what must not be shown of its answers.
    """

    def __init__(self, path: Path, *, pid: int, credentials: Credentials) -> None:
        self.pid = pid
        self._path = path
        self._credentials = credentials

    async def answers(self, timeout_ms: int) -> bool:
        """Return whether the process answers at all."""
        try:
            status, _ = await self._ask("GET", "/info", None, timeout_ms)
        except errors.Unavailable:
            return False
        return status == 200

    async def sync(self, database: Path, *, timeout_ms: int) -> Synced:
        """Have everything committed so far in the object store, and return once it is.

        Raises:
            Unavailable: that isn't known to be so. It may be all the same, or become so later.
        """
        # Its own timeout is in whole seconds, and doesn't hold while it waits for its own locks.
        request = {"path": str(database), "wait": True, "timeout": math.ceil(timeout_ms / 1000)}
        status, body = await self._ask("POST", "/sync", msgspec.json.encode(request), timeout_ms)
        try:
            if status != 200:
                said = self._credentials.redact(msgspec.json.decode(body, type=_Problem).error)[:_MAX_TEXT]
                raise _unsynced(f"it says: {said}")
            answer = msgspec.json.decode(body, type=_Sync)
        except msgspec.MsgspecError:
            raise _unsynced(f"its answer ({status}) can't be read") from None
        if answer.path != str(database):
            raise _unsynced("it answered for another database")
        # "synced" and "no_change" alike are said of what it has read, not of what it has sent.
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
    """Connects to one process only (unix(7), SO_PEERCRED), where the system can tell."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 -- httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's; a stranger is a ``ConnectError``."""
        stream = await super().connect_unix_socket(path, timeout, socket_options)
        if hasattr(socket, "SO_PEERCRED"):
            peer = stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", peer)[0] != self._pid:
                await stream.aclose()
                raise httpcore.ConnectError("another process listens on it")
        return stream


def _unsynced(what: str) -> errors.Unavailable:
    return errors.Unavailable(f"Litestream hasn't synced: {what}", hint="try again; its own lines in the log say more")
