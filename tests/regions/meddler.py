"""An HTTP proxy that meddles: put it between a machine and the object store, and give it a rule.

    with Meddler(port) as meddler:
        meddler.rule = refuse_writes(507)

A rule is called with each request and with what passes it on, in several threads at once. It returns the answer, or
None: then the connection is cut.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl, unquote, urlsplit

from tests import answering
from tests.answering import OF_THE_CONNECTION, Answer, Answering
from tests.replication.seaweed import CREDENTIALS, now_ms
from tkdb_replication.bucket.sigv4 import sign


class Request(answering.Request):
    """What a machine asks of the object store."""

    @property
    def writes(self) -> bool:
        """Whether it would change something."""
        return self.method not in ("GET", "HEAD")

    def without(self, name: str) -> Request:
        """The same without one header, signed anew."""
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
    """Nothing is passed on."""
    return None


def slow(wait_s: float) -> Rule:
    """Every request takes longer."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        time.sleep(wait_s)
        return pass_on(request)

    return rule


def failing(every: int) -> Rule:
    """One request of so many is answered 500, and not done."""
    numbers = itertools.count(1)

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        return failure(500, "InternalError") if next(numbers) % every == 0 else pass_on(request)

    return rule


def refuse_writes(status: int) -> Rule:
    """What is there can be read; nothing more is taken."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        return failure(status, "QuotaExceeded") if request.writes else pass_on(request)

    return rule


def untold_writes(request: Request, pass_on: PassOn) -> Answer | None:
    """What is written is written, and nobody is told."""
    answer = pass_on(request)
    return None if request.writes else answer


def ignore(header: str) -> Rule:
    """As a store that doesn't know a condition."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        return pass_on(request.without(header))

    return rule


def late_reads() -> Rule:
    """As a store that reads eventually: every object is read as the last read found it."""
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


def dated(offset_s: float) -> Rule:
    """As a store whose clock is elsewhere."""

    def rule(request: Request, pass_on: PassOn) -> Answer | None:
        answer = pass_on(request)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + offset_s))
        return replace(answer, headers={**answer.headers, "date": date})

    return rule


def failure(status: int, code: str) -> Answer:
    """What a store answers that can't, or won't."""
    return Answer(status, {"content-type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())


class Meddler(Answering):
    """The proxy before ``127.0.0.1:port``. It follows ``rule``."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.rule: Rule = honest
        self._target_port = port

    def answer(self, request: answering.Request) -> Answer | None:
        """Do as the rule says."""
        return self.rule(Request(**vars(request)), self.pass_on)

    def pass_on(self, request: Request) -> Answer:
        """Ask the object store."""
        connection = http.client.HTTPConnection("127.0.0.1", self._target_port, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in OF_THE_CONNECTION}
            connection.request(request.method, request.target, body=request.body or None, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()
