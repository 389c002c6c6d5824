"""The service as one ASGI app: the routes, and the middleware around every request.

::

    POST /v1/verify  /v1/revoke  /v1/sign  /v1/write     Noise message 1 in, message 2 out
    GET  /livez  /readyz  /livez/replication             for proxies and alarms
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from tkdb import api, logs
from tkdb.attestation import Verifier
from tkdb.server import problems
from tkdb.server.asgi import Disconnected, Header, Message, Receive, Scope, Send, respond_and_close
from tkdb.server.attested import Attested
from tkdb.server.exchange import Exchange
from tkdb.server.health import Live, Ready, Replicating
from tkdb.server.lifecycle import Lifecycle
from tkdb.server.limits import Limits
from tkdb.server.problems import ProblemError, send_problem
from tkdb.server.work import Work
from tkdb.signers import Signers

_CLOSE: Final[Header] = (b"connection", b"close")
_PROBLEM_BY_STATUS: Final = {404: problems.NOT_FOUND, 405: problems.METHOD_NOT_ALLOWED}


def build(
    lifecycle: Lifecycle,
    work: Work,
    signers: Signers,
    *,
    now_ms: Callable[[], int],
    extra_routes: Sequence[BaseRoute] = (),
    verifier: Verifier | None = None,
) -> Starlette:
    """Return the app. ``extra_routes`` are served in addition. With a ``verifier``, callers must be attested."""
    exchange = Exchange(lifecycle, work, signers, now_ms)
    routes: list[BaseRoute] = [Route(path, exchange, methods=["POST"]) for path in api.CALLS_BY_PATH]
    routes += [
        Route("/livez", Live(), methods=["GET"]),
        Route("/readyz", Ready(lifecycle), methods=["GET"]),
        Route("/livez/replication", Replicating(lifecycle), methods=["GET"]),
    ]
    middleware = [Middleware(Around, lifecycle=lifecycle, work=work)]
    if verifier is not None:
        middleware.append(Middleware(Attested, verifier=verifier, now_ms=now_ms))
    app = Starlette(
        routes=[*routes, *extra_routes],
        middleware=middleware,
        exception_handlers={HTTPException: _http_problem},
    )
    app.router.redirect_slashes = False  # a redirect fails a proxy's health check
    return app


class Around:
    """The middleware around every request: it turns problems and unforeseen failures into responses.

    While the machine drains, it also closes connections.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, work: Work) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._limits = work.limits
        self._arrivals = work.arrivals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(send, self._lifecycle)
        try:
            _check_head(scope, self._limits)
            await self._app(scope, receive, answer)
        except Disconnected:
            logs.event(logging.DEBUG, "disconnected")
        except ProblemError as error:
            await self._send(error, receive, answer)
        except Exception as error:  # noqa: BLE001  for any error, the caller gets a response, and the log its class
            logs.failure("unforeseen", error)
            if not answer.started:
                await send_problem(answer, problems.INTERNAL, "the machine's log has more details")

    async def _send(self, error: ProblemError, receive: Receive, answer: Answer) -> None:
        if not error.close:
            await send_problem(answer, error.problem, error.detail, headers=error.headers)
            return
        body = error.problem.body(error.detail)
        status, headers = error.problem.status, list(error.headers)
        await respond_and_close(
            answer, receive, self._limits, self._arrivals, status, problems.CONTENT_TYPE, body, headers
        )


class Answer:
    """A ``send`` that records whether the response has begun, and closes the connection while the machine drains."""

    __slots__ = ("_lifecycle", "_send", "started")

    def __init__(self, send: Send, lifecycle: Lifecycle) -> None:
        self._send = send
        self._lifecycle = lifecycle
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self._lifecycle.draining and _CLOSE not in message["headers"]:
                message["headers"].append(_CLOSE)
        await self._send(message)


def _check_head(scope: Scope, limits: Limits) -> None:
    """Check the size and the HTTP version of a request's head.

    h11 limits only heads that are incomplete, so a head that arrives in one piece passes its check.

    Raises:
        ProblemError: the head is too large, or isn't of HTTP/1.1.
    """
    if not scope["http_version"].startswith("1"):
        raise ProblemError(problems.HTTP_VERSION, f"the request uses HTTP/{scope['http_version']}", close=True)
    size = len(scope["raw_path"]) + len(scope["query_string"])
    for name, value in scope["headers"]:
        size += len(name) + len(value)
    if size > limits.header_bytes:
        raise ProblemError(
            problems.HEADERS_TOO_LARGE, f"the headers may have at most {limits.header_bytes} bytes", close=True
        )


async def _http_problem(request: Request, error: Exception) -> Response:
    """Turn an error of Starlette's routing into a problem. If the body stays unread, the connection is closed.

    Raises:
        ProblemError: always.
    """
    assert isinstance(error, HTTPException)  # noqa: S101  the handler is registered for this class
    problem = _PROBLEM_BY_STATUS.get(error.status_code, problems.BAD_REQUEST)
    detail = f"the path doesn't support {request.method}" if problem.status == 405 else ""
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    unread = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    raise ProblemError(problem, detail, headers=headers, close=unread) from None
