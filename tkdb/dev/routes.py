"""The methods as plain JSON, for ``tkdb dev``: for curl and for learning, on loopback and nowhere else.

``POST /dev/mint`` with ``{"organization": "acme"}`` returns ``{"position": 1, "result": {...}}``, or a problem. A
denial is the problem "denied", with its reason. ``GET /openapi.json`` describes all methods, and ``GET /`` shows them.

Every caller is treated as a signer that may do anything. So a loopback address isn't enough: the request's Host must be
this machine, because a name in an attacker's DNS may also lead here. If a browser sends an Origin, it must be this
page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

import msgspec
from starlette.routing import BaseRoute, Route

from tkdb import api, errors
from tkdb.bootstrap import system_clock
from tkdb.channel.dh import Random
from tkdb.channel.envelope import REQUEST_ID_BYTES, prologue, signed_bytes
from tkdb.channel.keys import SignerSecret
from tkdb.dev import openapi, page, plain
from tkdb.ports import Caller
from tkdb.server import problems
from tkdb.server.asgi import Receive, Scope, Send, header, respond
from tkdb.server.lifecycle import Lifecycle
from tkdb.server.methods import BY_NAME
from tkdb.server.problems import Problem, ProblemError, retry_after, send_problem
from tkdb.server.work import Work
from tkdb.settings import Settings
from tkdb.signers import ALL, Permission, Signer

JSON: Final = b"application/json"
HTML: Final = b"text/html; charset=utf-8"
_NO_STORE: Final = (b"cache-control", b"no-store")
_POLICY: Final = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
_LOCAL: Final = re.compile(rb"(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_STATUS: Final[Mapping[type[errors.TkdbError], int]] = {
    errors.Denied: 403,
    errors.InvalidRequest: 400,
    errors.OutOfTime: 400,
    errors.NotPermitted: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Refused: 400,
    errors.Unavailable: 503,
    errors.TkdbError: 500,
}


def routes(lifecycle: Lifecycle, work: Work, settings: Settings) -> list[BaseRoute]:
    """Return the routes. Each one first checks that the request comes from this machine.

    Raises:
        ConfigurationError: the server is to listen at another address than loopback.
    """
    if not settings.bind.loopback:
        raise errors.ConfigurationError(
            f"plain JSON is served on loopback only, and {settings.bind} is not loopback", hint="bind 127.0.0.1"
        )
    document = Document(msgspec.json.encode(openapi.document()))
    method = Method(lifecycle, work, settings.name, now_ms=system_clock().wall_ms, random=os.urandom)
    return [
        Route("/", Local(Page()), methods=["GET"]),
        Route("/openapi.json", Local(document), methods=["GET"]),
        Route("/dev/{method}", Local(method), methods=["POST"]),
    ]


class Local:
    """The check that refuses browser requests caused by a foreign page, or by a foreign name that leads here."""

    def __init__(self, app: Document | Method | Page) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host, origin = header(scope, b"host") or b"", header(scope, b"origin")
        if _LOCAL.fullmatch(host) is None:
            raise ProblemError(problems.FOREIGN_ORIGIN, "the Host header names another machine", close=True)
        if origin is not None and origin != b"http://" + host:
            raise ProblemError(problems.FOREIGN_ORIGIN, "the request comes from another page", close=True)
        if header(scope, b"sec-fetch-site") not in {None, b"none", b"same-origin"}:
            raise ProblemError(problems.FOREIGN_ORIGIN, "the request comes from another page", close=True)
        await self._app(scope, receive, send)


class Document:
    """The OpenAPI document, as JSON."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, JSON, self._body, headers=(_NO_STORE,))


class Page:
    """The page for people. Its curl lines name the host from the request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = (header(scope, b"host") or b"").decode("ascii")
        await respond(send, 200, HTML, page.render(host).encode(), headers=(_NO_STORE, _POLICY))


class Method:
    """``POST /dev/{method}``: one call, as the local signer, which may do anything."""

    def __init__(
        self, lifecycle: Lifecycle, work: Work, name: str, *, now_ms: Callable[[], int], random: Random
    ) -> None:
        self._lifecycle = lifecycle
        self._work = work
        self._name = name
        self._now_ms = now_ms
        self._random = random
        self._secret = SignerSecret.generate(random)
        self._signer = Signer("dev", self._secret.public, frozenset({ALL}), frozenset(get_args(Permission)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name: str = scope["path_params"]["method"]
        body = await self._work.read(scope, receive)
        with self._work.enter(scope) as place:
            service, _ = self._lifecycle.serving()
            if name not in BY_NAME:
                raise ProblemError(problems.NOT_FOUND, f"there is no method {name[:64]!r}; see /openapi.json")
            path, kind = BY_NAME[name]
            try:
                call = plain.read(kind, _fields(name, body))
                result = await self._work.answer(service, call, self._caller(path, call), place, receive)
            except errors.TkdbError as error:
                await _send_error(send, error)
                return
            answer = msgspec.json.encode({"position": service.position, "result": plain.write(result)})
        await respond(send, 200, JSON, answer + b"\n", headers=(_NO_STORE,))

    def _caller(self, path: str, call: api.Call[Any]) -> Caller:
        request_id, now_ms, body = self._random(REQUEST_ID_BYTES), self._now_ms(), api.encode(call)
        if path not in api.SIGNED_PATHS:
            return Caller(None, path, request_id, now_ms, b"", body)
        signed = signed_bytes(prologue(path, self._name), now_ms, request_id, body)
        return Caller(self._signer, path, request_id, now_ms, self._secret.sign(signed), body)


def _fields(method: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``, which may be empty, as the fields of ``method``."""
    try:
        fields = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.InvalidRequest("the body is not JSON", hint="see /openapi.json") from None
    if not isinstance(fields, dict):
        raise errors.InvalidRequest("the body is not a JSON object", hint="see /openapi.json")
    if "method" in fields:
        raise errors.InvalidRequest("the method belongs in the path, not in the body", hint="leave it out")
    return {**fields, "method": method}


async def _send_error(send: Send, error: errors.TkdbError) -> None:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    kind, extra = error.code.replace(" ", "-"), {}
    if isinstance(error, errors.Denied):
        kind, extra = "denied", {"reason": error.code, **({} if error.caveat is None else {"caveat": error.caveat})}
    delay_ms = getattr(error, "retry_after_ms", None)
    headers = [] if delay_ms is None else [retry_after(delay_ms)]
    await send_problem(send, Problem(kind, error.message, status), error.hint, headers=headers, extra=extra)
