"""An HTTP proxy between a machine and the object store, and rules by which it answers.

    with RuleProxy(port) as store_proxy:
        store_proxy.rule = refuse_writes(507)

The proxy calls its rule with each request and with a function that passes the request on, in several threads at once.
The rule returns the answer, or None to cut the connection.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl, unquote, urlsplit

from tests import http_stub
from tests.http_stub import CONNECTION_HEADERS, Answer, HttpStub
from tests.replication.seaweed import CREDENTIALS, now_ms
from tkdb_replication.bucket.sigv4 import sign


class Request(http_stub.Request):
    """A request to the object store."""

    @property
    def writes(self) -> bool:
        """True if the request could change an object."""
        return self.method not in ("GET", "HEAD")

    def without(self, name: str) -> Request:
        """Return the same request without one header, with a new signature."""
        if name not in self.headers:
            return self
        kept = {key: value for key, value in self.headers.items() if key not in (name, "authorization")}
        url = urlsplit(self.target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        signed = sign(
            self.method, unquote(url.path), query, kept, self.body,
            credentials=CREDENTIALS, region="auto", now_ms=now_ms(),
        )  # fmt: skip
        return replace(self, headers=signed)


PassOn = Callable[[Request], Answer]
Rule = Callable[[Request, PassOn], Answer | None]


def honest(request: Request, pass_on: PassOn) -> Answer | None:
    """Pass everything on."""
    return pass_on(request)


def unreachable(request: Request, pass_on: PassOn) -> Answer | None:
    """Cut every connection."""
    return None


def slow(wait_s: float) -> Rule:
    """Delay every request."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        time.sleep(wait_s)
        return pass_on(request)

    return rule


def failing(every: int) -> Rule:
    """Answer every ``every``-th request with 500, and don't pass it on."""
    numbers = itertools.count(1)

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        return failure(500, "InternalError") if next(numbers) % every == 0 else pass_on(request)

    return rule


def refuse_writes(status: int) -> Rule:
    """Pass reads on, and refuse writes."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        return failure(status, "QuotaExceeded") if request.writes else pass_on(request)

    return rule


def lose_write_answers(request: Request, pass_on: PassOn) -> Answer | None:
    """Pass everything on, and cut the connection before the answer to a write."""
    answer = pass_on(request)
    return None if request.writes else answer


def ignore(header: str) -> Rule:
    """Act as a store that ignores a conditional header."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        return pass_on(request.without(header))

    return rule


def eventual_reads() -> Rule:
    """Act as a store with eventual reads: each read of an object returns what the read before found."""
    seen: dict[str, Answer] = {}
    lock = threading.Lock()

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        answer = pass_on(request.without("if-none-match") if request.method == "GET" else request)
        if request.method != "GET":
            return answer
        with lock:
            late, seen[request.target] = seen.get(request.target, answer), answer
        same = request.headers.get("if-none-match") == late.headers.get("etag", "")
        return Answer(304, late.headers) if same else late

    return rule


def clock_offset(offset_s: float) -> Rule:
    """Act as a store with a wrong clock."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        answer = pass_on(request)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + offset_s))
        return replace(answer, headers={**answer.headers, "date": date})

    return rule


def failure(status: int, code: str) -> Answer:
    """Return a store's answer to a request that fails."""
    return Answer(status, {"content-type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())


class RuleProxy(HttpStub):
    """The proxy in front of ``127.0.0.1:port``. It answers by ``rule``."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.rule: Rule = honest
        self._target_port = port

    def answer(self, request: http_stub.Request) -> Answer | None:
        """Answer by the rule."""
        return self.rule(Request(**vars(request)), self.pass_on)

    def pass_on(self, request: Request) -> Answer:
        """Send the request to the object store, and return the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._target_port, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in CONNECTION_HEADERS}
            connection.request(request.method, request.target, body=request.body or None, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()
