"""Middleware for Django, under WSGI and ASGI, for blocking and async views.

::

    # shop/tokens.py, and MIDDLEWARE = ["shop.tokens.middleware", ...]
    middleware = token_middleware(Client(), organization="acme")

    # shop/views.py
    @require(lambda request, app_id: Access(action="r", resource={"app": app_id}))
    def show(request: HttpRequest, token: Verified, app_id: str) -> HttpResponse: ...

The middleware passes all requests to the views, and sends the response if ``require`` or ``cleared`` rejects one. With
``closed=True`` only requests with a verified token of the app's organization reach a view, and views clear.
"""

from __future__ import annotations

from asyncio import iscoroutinefunction
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest, HttpResponse

from tkdb.attestation import Verifier
from tkdb.macaroon.access import Access, AnyOrganization
from tkdb_client.client import AsyncClient, Client
from tkdb_client.verified import Verified
from tkdb_client.web.facts import Arrived
from tkdb_client.web.gate import Guard, Visit, not_guarded
from tkdb_client.web.rejection import Answer, Rejection, Render

__all__ = [
    "Access",
    "Answer",
    "Rejection",
    "Verified",
    "acleared",
    "acleared_if_presented",
    "cleared",
    "cleared_if_presented",
    "require",
    "token_middleware",
]

P = ParamSpec("P")
R = TypeVar("R")

GetResponse = Callable[[HttpRequest], Any]

_VISIT = "tkdb_visit"


class TokenMiddleware:
    """The middleware around the views. Django creates it with the arguments of ``token_middleware``."""

    def __init__(
        self,
        get_response: GetResponse,
        gate: Guard,
        *,
        closed: bool,
        access: Callable[[HttpRequest], Access] | None,
        exempt: Callable[[HttpRequest], bool] | None,
    ) -> None:
        self._get_response = get_response
        self._gate = gate
        self._closed = closed or access is not None
        self._access = access
        self._exempt = exempt
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        visit = self._gate.visit(_live(request), outer=getattr(request, _VISIT, None))
        setattr(request, _VISIT, visit)
        if self._is_async:
            return self._awaited(request, visit)
        if self._demands(request):
            try:
                self._admit(request, visit, visit.verified_blocking())
            except Rejection as rejection:
                return _response(self._gate.answer(rejection))
        return self._checked(visit, self._get_response(request))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return the response for a view in which ``cleared`` rejects. Django handles other errors."""
        return _response(self._gate.answer(exception)) if isinstance(exception, Rejection) else None

    async def _awaited(self, request: HttpRequest, visit: Visit) -> Any:
        if self._demands(request):
            try:
                self._admit(request, visit, await visit.verified())
            except Rejection as rejection:
                return _response(self._gate.answer(rejection))
        return self._checked(visit, await self._get_response(request))

    def _demands(self, request: HttpRequest) -> bool:
        """Return True if a token must be verified before any view."""
        return self._closed and not (self._exempt is not None and self._exempt(request))

    def _admit(self, request: HttpRequest, visit: Visit, token: Verified) -> None:
        if self._access is None:
            visit.admit(token, _live(request))
        else:
            visit.clear(token, self._access(request), _live(request))

    def _checked(self, visit: Visit, response: HttpResponse) -> HttpResponse:
        """Return the response, or the rejection that middleware in between has turned into an error of its own."""
        if visit.rejection is None or response.status_code < 500:
            return response
        return _response(self._gate.answer(visit.rejection))


def token_middleware(
    client: Client | AsyncClient,
    *,
    organization: str | AnyOrganization | None = None,
    closed: bool = False,
    access: Callable[[HttpRequest], Access] | None = None,
    exempt: Callable[[HttpRequest], bool] | None = None,
    attestation: Verifier | None = None,
    realm: str = "tkdb",
    render: Render | None = None,
) -> Callable[[GetResponse], TokenMiddleware]:
    """Return a middleware, to be listed in ``MIDDLEWARE`` by its dotted name.

    Args:
        client: verifies tokens. Blocking views need a ``Client``; an async project may use an ``AsyncClient``.
        organization: the organization whose data the app holds; tokens of others never clear. An app that holds data of
            several leaves it out, and names the organization in each access. Default: the client's policy's.
        closed: whether only requests with a verified token reach a view: one of the app's organization that isn't
            expired. Views clear its other caveats.
        access: returns an access from a request, which every request must clear, too. It closes the app.
        exempt: returns True for a request that needs no token.
        attestation: verifies Fly's attestation of the app's own callers. Without it, no ``src`` caveat clears.
        realm: the app's name in challenges.
        render: makes the responses to rejections, in place of tkdb's.
    """
    gate = Guard(client, organization=organization, attestation=attestation, realm=realm, render=render)

    def middleware(get_response: GetResponse) -> TokenMiddleware:
        return TokenMiddleware(get_response, gate, closed=closed, access=access, exempt=exempt)

    middleware.sync_capable = middleware.async_capable = True  # type: ignore[attr-defined]  # what Django looks for
    return middleware


def cleared(request: HttpRequest, access: Access) -> Verified:
    """Return the verified token of the request, if it allows ``access``.

    Raises:
        Rejection: for the middleware to answer.
        ConfigurationError: there is no middleware, or its client is an AsyncClient.
    """
    visit = _visit(request)
    return visit.clear(visit.verified_blocking(), access, _live(request))


def cleared_if_presented(request: HttpRequest, access: Access) -> Verified | None:
    """As ``cleared``, but return None if the request presents no token. A token that is presented must clear."""
    return cleared(request, access) if _visit(request).has_token else None


async def acleared_if_presented(request: HttpRequest, access: Access) -> Verified | None:
    """As ``cleared_if_presented``, for async views."""
    return await acleared(request, access) if _visit(request).has_token else None


async def acleared(request: HttpRequest, access: Access) -> Verified:
    """As ``cleared``, for async views."""
    visit = _visit(request)
    return visit.clear(await visit.verified(), access, _live(request))


class require:  # noqa: N801 -- a decorator, read as one: @require(...)
    """Decorate a view that requires a token. It is called with the request, the ``Verified`` token, and the URL's
    arguments.

    Args:
        access: returns the access, from the request and the URL's arguments. It is called once the token is verified.
    """

    def __init__(self, access: Callable[..., Access]) -> None:
        self._access = access

    @overload
    def __call__(
        self, view: Callable[Concatenate[HttpRequest, Verified, P], Awaitable[R]]
    ) -> Callable[Concatenate[HttpRequest, P], Awaitable[R | HttpResponse]]: ...

    @overload
    def __call__(
        self, view: Callable[Concatenate[HttpRequest, Verified, P], R]
    ) -> Callable[Concatenate[HttpRequest, P], R | HttpResponse]: ...

    def __call__(self, view: Callable[..., Any]) -> Callable[..., Any]:
        access = self._access

        @wraps(view)
        def blocking(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            visit = _visit(request)
            try:
                token = visit.clear(visit.verified_blocking(), access(request, *args, **kwargs), _live(request))
            except Rejection as rejection:
                return _response(visit.gate.answer(rejection))
            return view(request, token, *args, **kwargs)

        @wraps(view)
        async def awaited(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            visit = _visit(request)
            try:
                token = visit.clear(await visit.verified(), access(request, *args, **kwargs), _live(request))
            except Rejection as rejection:
                return _response(visit.gate.answer(rejection))
            return await view(request, token, *args, **kwargs)

        return awaited if iscoroutinefunction(view) else blocking


def _live(request: HttpRequest) -> Arrived:
    """Return the request as it is now. Django routes by ``path_info``, and views read ``method`` and ``path``: other
    middleware may have set each of them."""
    method, routed = request.method or "", request.META.get("SCRIPT_NAME", "").rstrip("/") + request.path_info
    scope = getattr(request, "scope", None)
    if scope is None:
        found = Arrived.of_environ(request.META, method=method, routed=routed)
    else:
        found = replace(Arrived.of_scope(scope), method=method)
    is_known = routed == request.path and routed == found.routed
    return replace(found, path=found.path if is_known else None, routed=routed)


def _visit(request: HttpRequest) -> Visit:
    visit: Visit | None = getattr(request, _VISIT, None)
    if visit is None:
        raise not_guarded()
    return visit


def _response(answer: Answer) -> HttpResponse:
    response: HttpResponse = HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))
    return response
