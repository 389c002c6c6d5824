"""A proxy in front of an object store. It counts the requests that pass, by the classes that the store charges for.

    with Counts(port) as counts:
        ...
        counts.so_far()    # {"PUT": 12, "GET": 40, "GET, unchanged": 220}

>>> kind("GET", "/bucket?list-type=2&prefix=epochs%2F", 200), kind("GET", "/bucket/head", 304)
('LIST', 'GET, unchanged')
"""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_REQUEST: Final = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")
_ANSWER: Final = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) ")
_CARRY_BYTES: Final = 4_096
"""The maximum length of the first line of a request or an answer. A line may be split between two chunks."""
_CHUNK_BYTES: Final = 65_536


def kind(method: str, target: str, status: int) -> str:
    """Return the kind that a request is counted as: its method, unless the store's price depends on something else."""
    if status == 304:
        return f"{method}, unchanged"
    if status in (409, 412):
        return f"{method}, refused"
    _, _, query = target.partition("?")
    if method == "GET" and ("list-type=" in query or "prefix=" in query):
        return "LIST"
    return "DELETE" if method == "POST" and query.startswith("delete") else method


class Counts(socketserver.ThreadingTCPServer):
    """The proxy. It listens at ``url``, and forwards everything to the store at 127.0.0.1:``port``."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.store = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._counted: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, name="counts")

    def count(self, what: str) -> None:
        """Count one request of the kind ``what``."""
        with self._lock:
            self._counted[what] += 1

    def so_far(self) -> Counter[str]:
        """Return the number of requests so far, by kind."""
        with self._lock:
            return self._counted.copy()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Connection(socketserver.BaseRequestHandler):
    """One client connection, with its connection to the store. Answers arrive in the order of the requests."""

    server: Counts
    request: socket.socket

    def handle(self) -> None:
        asked: deque[tuple[str, str]] = deque()

        def on_request(line: re.Match[bytes]) -> None:
            asked.append((line[1].decode(), line[2].decode()))

        def on_answer(line: re.Match[bytes]) -> None:
            self.server.count(kind(*asked.popleft(), int(line[1])))

        with socket.create_connection(self.server.store) as store:
            answers = threading.Thread(target=_pass_on, args=(store, self.request, _ANSWER, on_answer), daemon=True)
            answers.start()
            _pass_on(self.request, store, _REQUEST, on_request)
            answers.join()


def _pass_on(
    source: socket.socket, target: socket.socket, pattern: re.Pattern[bytes], seen: Callable[[re.Match[bytes]], None]
) -> None:
    """Forward all data from ``source`` to ``target``. Call ``seen`` for each match of ``pattern`` first."""
    carried = b""
    with suppress(OSError):
        for chunk in _chunks(source):
            carried += chunk
            end = 0
            for found in pattern.finditer(carried):
                seen(found)
                end = found.end()
            carried = carried[end:][-_CARRY_BYTES:]
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while chunk := source.recv(_CHUNK_BYTES):
        yield chunk
