"""A small HTTP server on loopback: the base of fake services and of proxies that tamper with requests.

class Hello(HttpStub):
    def answer(self, request: Request) -> Answer | None:
        return Answer(200, {}, b"hello")

with Hello() as hello:
    ...     # hello.url
"""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

CONNECTION_HEADERS = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})


@dataclass(frozen=True)
class Request:
    """A received request. The names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class HttpStub(ABC):
    """A server that answers at ``url`` inside its ``with`` block."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stub = self
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), name=type(self).__name__)

    @abstractmethod
    def answer(self, request: Request) -> Answer | None:
        """Return the answer. None or an OSError cuts the connection. Several threads call this at the same time."""

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a machine's probe of its store opens many connections at once
    stub: HttpStub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closes its connection."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self._body(headers))
        try:
            answer = self.server.stub.answer(request)
        except OSError:
            answer = None
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name not in CONNECTION_HEADERS:
                self.send_header(name, value)
        if answer.status != 304:
            length = answer.headers.get("content-length") if self.command == "HEAD" else None
            self.send_header("content-length", length or str(len(answer.body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815  the standard library's names

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
