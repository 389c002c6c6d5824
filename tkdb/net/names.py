"""Name lookups that end in time, in threads of their own.

The system's resolver blocks its thread: for more than 10 s if a name server is dead. So a lookup runs in a daemon
thread, and its callers wait for at most their own timeout. Concurrent lookups of one name share one thread. The number
of threads is limited. Further names wait for a free thread, within their callers' timeouts.

Neither an event loop's executor nor the interpreter's exit waits for these threads.

>>> names = Names()
>>> names.addresses("127.0.0.1", 80, timeout_s=1)[0][4]
('127.0.0.1', 80)
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

Address: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""One result of ``socket.getaddrinfo``."""

THREADS_MAX: Final = 16


class Names:
    """Looks up the addresses of hosts. Any number of threads and event loops may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_up: dict[tuple[str, int], Future[list[Address]]] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._threads = 0

    def addresses(self, host: str, port: int, *, timeout_s: float | None) -> list[Address]:
        """Return the addresses of a host, each once, in the system's order.

        Raises:
            TimeoutError: there was no answer in time.
            OSError: the host has no address, or the system can't tell.
        """
        if _is_address(host):
            return _ask_system(host, port)
        return self._begin(host, port).result(timeout_s)

    async def addresses_awaited(self, host: str, port: int) -> list[Address]:
        """As ``addresses``. The caller limits the time."""
        if _is_address(host):
            return _ask_system(host, port)
        lookup = self._begin(host, port)
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def note(_: Future[list[Address]]) -> None:
            with suppress(RuntimeError):  # the loop was closed while the system was asked
                loop.call_soon_threadsafe(end)

        lookup.add_done_callback(note)
        await ended
        return lookup.result()

    def _begin(self, host: str, port: int) -> Future[list[Address]]:
        key = host, port
        with self._lock:
            lookup = self._looked_up.get(key)
            if lookup is not None:
                return lookup
            lookup = self._looked_up[key] = Future()
            self._waiting.append(key)
            if self._threads >= THREADS_MAX:
                return lookup
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="tkdb-names", daemon=True).start()
        except RuntimeError:  # there are too many threads, or the interpreter is ending
            with self._lock:
                self._threads -= 1
                alone = not self._threads
            if alone:
                self._end(key, OSError("no thread could be started"))
        return lookup

    def _work(self) -> None:
        """Look up names until none waits."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                key = self._waiting.popleft()
            try:
                outcome: list[Address] | Exception = _ask_system(*key)
            except (OSError, UnicodeError) as error:
                outcome = error if isinstance(error, OSError) else OSError(f"the name can't be looked up: {error}")
            self._end(key, outcome)

    def _end(self, key: tuple[str, int], outcome: list[Address] | Exception) -> None:
        with self._lock:
            lookup = self._looked_up.pop(key)
            with suppress(ValueError):
                self._waiting.remove(key)
        if isinstance(outcome, Exception):
            lookup.set_exception(outcome)
        else:
            lookup.set_result(outcome)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _ask_system(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list({address[4][0]: address for address in found}.values())
