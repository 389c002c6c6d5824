"""Middleware for ASGI: Starlette, FastAPI, and any other ASGI app.

::

    app.add_middleware(TokenMiddleware, client=tkdb, organization="acme")

    @app.get("/apps/{app_id}")                                     # FastAPI
    async def show(
        app_id: str,
        token: Annotated[Verified, require(lambda r: Access(action="r", resource={"app": r.path_params["app_id"]}))],
    ): ...

    async def show(request: Request) -> Response:                  # Starlette
        token = await cleared(request, Access(action="r", resource={"app": request.path_params["app_id"]}))

The middleware passes all requests to the app, and sends the response if ``require`` or ``cleared`` rejects one. With
``closed=True`` only requests with a verified token of the app's organization reach the app, and its routes clear. You
needn't give method, path, address and source: they come from the request (`tkdb_client.web.facts`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from tkdb.attestation import Verifier
from tkdb.errors import ConfigurationError
from tkdb.macaroon.access import Access, AnyOrganization
from tkdb_client.client import AsyncClient, Client
from tkdb_client.verified import Verified
from tkdb_client.web.facts import Arrived
from tkdb_client.web.gate import KEY, Guard, Visit, not_guarded
from tkdb_client.web.rejection import Answer, Rejection, Render

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

__all__ = ["Access", "Answer", "Rejection", "TokenMiddleware", "Verified", "cleared", "cleared_if_presented", "require"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUESTS = frozenset({"http", "websocket"})
POLICY_VIOLATION = 1008
"""The code for closing a WebSocket (RFC 6455, 7.4.1)."""


class TokenMiddleware:
    """The middleware: it sends the response if the token is missing, denied, or doesn't allow the access.

    Args:
        app: the app.
        client: verifies tokens. A blocking client runs in a thread; an ``AsyncClient`` needs none.
        organization: the organization whose data the app holds; tokens of others never clear. An app that holds data of
            several leaves it out, and names the organization in each access. Default: the client's policy's.
        closed: whether only requests with a verified token reach the app: one of the app's organization that isn't
            expired. Routes clear its other caveats.
        access: returns an access from a request's scope, which every request must clear, too. It closes the app.
        exempt: returns True for a scope whose request needs no token, such as a health check or a CORS preflight.
        attestation: verifies Fly's attestation of the app's own callers. Without it, no ``src`` caveat clears.
        realm: the app's name in challenges.
        render: makes the responses to rejections, in place of tkdb's. (An exception handler for ``Rejection`` also
            can.)
    """

    def __init__(
        self,
        app: App,
        client: AsyncClient | Client,
        *,
        organization: str | AnyOrganization | None = None,
        closed: bool = False,
        access: Callable[[Scope], Access] | None = None,
        exempt: Callable[[Scope], bool] | None = None,
        attestation: Verifier | None = None,
        realm: str = "tkdb",
        render: Render | None = None,
    ) -> None:
        self._app = app
        self._gate = Guard(client, organization=organization, attestation=attestation, realm=realm, render=render)
        self._closed = closed or access is not None
        self._access = access
        self._exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _REQUESTS:
            if self._closed and scope["type"] != "lifespan":
                raise ConfigurationError(f"a closed app can't take {scope['type']!a}", hint="use HTTP or WebSockets")
            await self._app(scope, receive, send)
            return
        outer = scope.get(KEY)
        visit = self._gate.visit(Arrived.of_scope(scope), outer=outer)
        scope[KEY] = visit  # not in a copy, because outer middleware may read values that routing adds to the scope
        reply = _Reply(scope, send)
        try:
            await self._admit(visit, scope)
            await self._app(scope, receive, reply.send)
        except Rejection as rejection:
            if reply.is_over:
                raise  # too late for a response
            await reply.reject(self._gate.answer(rejection))
        except Exception:
            await reply.release()
            raise
        else:
            if visit.rejection is not None and reply.is_held:
                # Middleware in between has turned the rejection into an error of its own.
                await reply.reject(self._gate.answer(visit.rejection))
            await reply.release()
        finally:
            scope[KEY] = outer

    async def _admit(self, visit: Visit, scope: Scope) -> None:
        if not self._closed or (self._exempt is not None and self._exempt(scope)):
            return
        token = await visit.verified()
        if self._access is None:
            visit.admit(token, Arrived.of_scope(scope))
        else:
            visit.clear(token, self._access(scope), Arrived.of_scope(scope))


async def cleared(connection: Mapping[str, Any], access: Access) -> Verified:
    """Return the verified token of the request, if it allows ``access``. For a route that works without a token, too:
    ``cleared_if_presented``.

    A WebSocket that stays open may call this again: a token that was revoked or has expired in the meantime is
    rejected.

    Args:
        connection: Starlette's ``Request`` or ``WebSocket``, or an ASGI scope.
        access: the access. Method, path, address and source are the request's, unless given.

    Raises:
        Rejection: for the middleware to answer.
        ConfigurationError: there is no middleware.
    """
    visit = _visit(connection)
    return visit.clear(await visit.verified(), access, Arrived.of_scope(connection))


async def cleared_if_presented(connection: Mapping[str, Any], access: Access) -> Verified | None:
    """As ``cleared``, but return None if the request presents no token. A token that is presented must clear."""
    return await cleared(connection, access) if _visit(connection).has_token else None


def require(access: Callable[[HTTPConnection], Access], *, optional: bool = False) -> Any:
    """Return a FastAPI dependency that requires a token and yields the ``Verified`` one.

    The OpenAPI document shows the route as one that takes a bearer token.

    Args:
        access: returns the access from the request (or the WebSocket). It is called once the token is verified.
        optional: whether a request without a token is let in: the dependency then yields None. A token that is
            presented must clear.

    Raises:
        ConfigurationError: FastAPI isn't installed.
    """
    try:
        from tkdb_client.fastapi import depends
    except ImportError:
        raise ConfigurationError(
            "require() is for FastAPI, which isn't installed", hint="install it, or await cleared(request, access)"
        ) from None

    async def token(connection: HTTPConnection) -> Verified | None:
        visit = _visit(connection)
        if optional and not visit.has_token:
            return None
        return visit.clear(await visit.verified(), access(connection), Arrived.of_scope(connection))

    return depends(token)


def _visit(connection: Mapping[str, Any]) -> Visit:
    visit: Visit | None = connection.get(KEY)
    if visit is None:
        raise not_guarded()
    return visit


class _Reply:
    """The sent part of one request's response, and the rejection in place of the rest.

    An app that is mounted within the app turns an unknown error into its own 500 before it raises the error again, and
    middleware in between may catch every error. So a 5xx is held back until it is known whether a rejection caused it.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._kept: list[Message] = []
        self._accepted = False
        self.is_over = False

    @property
    def is_held(self) -> bool:
        """True if the app has sent an error of its own, which is held back."""
        return bool(self._kept)

    async def send(self, message: Message) -> None:
        """Pass on a message of the app."""
        if self._kept or (message["type"] == "http.response.start" and message["status"] >= 500):
            self._kept.append(message)
            return
        if message["type"] == "websocket.accept":
            self._accepted = True
        else:
            self.is_over = self.is_over or message["type"] in _ENDS
        await self._send(message)

    async def release(self) -> None:
        """Pass on the messages that were held back."""
        for message in self._kept:
            await self._send(message)
        self._kept.clear()

    async def reject(self, answer: Answer) -> None:
        """Send the response in the app's place."""
        self._kept.clear()
        kind = "http.response"
        if self._scope["type"] == "websocket":
            if self._accepted or "websocket.http.response" not in (self._scope.get("extensions") or {}):
                await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": f"{answer.status}"})
                return
            kind = "websocket.http.response"
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        await self._send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
        await self._send({"type": f"{kind}.body", "body": answer.body})


_ENDS = {"http.response.start", "websocket.close", "websocket.http.response.start"}
