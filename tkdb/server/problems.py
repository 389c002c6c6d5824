"""Errors of plain HTTP, as RFC 9457 problem details.

They mean "the request failed on its way", never "denied": a decision about a token is only ever inside a Noise message,
which no proxy can write. (If a request isn't HTTP at all, Hypercorn answers with a 400 or 431 without a body.)

>>> TOO_LARGE.type
'urn:tkdb:problem:too-large'
>>> TOO_LARGE.body("too long")
b'{"type":"urn:tkdb:problem:too-large","title":"The body is too large","status":413,"detail":"too long"}'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from tkdb import errors
from tkdb.server.asgi import Header, Send, respond

CONTENT_TYPE: Final = b"application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem: its permanent ``kind``, its title and its HTTP status."""

    kind: str
    title: str
    status: int

    @property
    def type(self) -> str:
        """The permanent URI of the kind."""
        return f"urn:tkdb:problem:{self.kind}"

    def body(self, detail: str, extra: Mapping[str, Any] | None = None) -> bytes:
        """Return the problem as JSON. ``extra`` has further members (RFC 9457, section 3.2)."""
        members = {"type": self.type, "title": self.title, "status": self.status, "detail": detail, **(extra or {})}
        return msgspec.json.encode(members)


HANDSHAKE: Final = Problem("handshake", "The message can't be opened", 400)
BAD_REQUEST: Final = Problem("bad-request", "The request can't be read", 400)
FOREIGN_ORIGIN: Final = Problem("foreign-origin", "Only this machine may send this request", 403)
NOT_ATTESTED: Final = Problem("not-attested", "The caller is not attested", 403)
NOT_FOUND: Final = Problem("not-found", "There is nothing at this path", 404)
METHOD_NOT_ALLOWED: Final = Problem("method-not-allowed", "The path has no such method", 405)
SLOW_REQUEST: Final = Problem("slow-request", "The body arrived too slowly", 408)
LENGTH_REQUIRED: Final = Problem("length-required", "The body has no Content-Length", 411)
TOO_LARGE: Final = Problem("too-large", "The body is too large", 413)
HEADERS_TOO_LARGE: Final = Problem("headers-too-large", "The headers are too large", 431)
INTERNAL: Final = Problem("internal", "The authority failed on this request", 500)
OVERLOADED: Final = Problem("overloaded", "Too many requests are in progress", 503)
STARTING: Final = Problem("starting", "This machine is starting", 503)
DRAINING: Final = Problem("draining", "This machine is shutting down", 503)
NOT_READY: Final = Problem("not-ready", "This machine can't answer now", 503)
NOT_REPLICATING: Final = Problem("not-replicating", "Something is wrong among the machines", 503)
HTTP_VERSION: Final = Problem("http-version", "Only HTTP/1.1 is supported", 505)

ALL: Final = tuple(value for value in list(globals().values()) if isinstance(value, Problem))


class ProblemError(Exception):
    """The error for a request that ends in a problem.

    Args:
        problem: the kind.
        detail: the details of this occurrence, without secrets.
        headers: further headers of the response.
        close: True if the connection can't be used afterwards, because the body wasn't read to its end.
    """

    def __init__(self, problem: Problem, detail: str, *, headers: Iterable[Header] = (), close: bool = False) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.headers = tuple(headers)
        self.close = close

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy it with all its arguments. By default, only ``args`` would reach the new object."""
        return partial(type(self), self.problem, self.detail, headers=self.headers, close=self.close), ()


def from_unavailable(problem: Problem, error: errors.Unavailable) -> ProblemError:
    """Return the problem for ``error``, with its Retry-After (whole seconds, rounded up)."""
    headers = [] if error.retry_after_ms is None else [retry_after(error.retry_after_ms)]
    return ProblemError(problem, str(error), headers=headers)


def retry_after(delay_ms: int) -> Header:
    """Return the Retry-After header (RFC 9110, section 10.2.3), in whole seconds, at least one."""
    return b"retry-after", str(max(1, -(-delay_ms // 1000))).encode()


async def send_problem(
    send: Send,
    problem: Problem,
    detail: str,
    *,
    headers: Iterable[Header] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Send a problem as the response, marked so that no cache stores it."""
    body = problem.body(detail, extra)
    await respond(send, problem.status, CONTENT_TYPE, body, headers=((b"cache-control", b"no-store"), *headers))
