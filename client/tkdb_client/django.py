"""Middleware for Django, under WSGI and ASGI, for blocking and async views.

::

    # shop/tokens.py, and MIDDLEWARE = ["shop.tokens.middleware", ...]
    middleware = token_middleware(Client(), organization="acme")

    # shop/views.py
    @require(lambda request, app_id: Access(action="r", resource={"app": app_id}))
    def show(request: HttpRequest, token: Verified, app_id: str) -> HttpResponse: ...

The middleware passes all requests to the views, and sends the response if ``require`` or ``cleared`` rejects one. With
``access=`` the app is closed: only requests that clear reach a view.
"""

from __future__ import annotations

from asyncio import iscoroutinefunction
from collections.abc import Awaitable, Callable
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

__all__ = ["Access", "Answer", "Rejection", "Verified", "acleared", "cleared", "require", "token_middleware"]

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
        access: Callable[[HttpRequest], Access] | None,
        exempt: Callable[[HttpRequest], bool] | None,
    ) -> None:
        self._get_response = get_response
        self._gate = gate
        self._access = access
        self._exempt = exempt
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        visit = self._gate.visit(_arrived(request), outer=getattr(request, _VISIT, None))
        setattr(request, _VISIT, visit)
        if self._is_async:
            return self._awaited(request, visit)
        access = self._asked(request)
        if access is not None:
            try:
                visit.clear(visit.verified_blocking(), access())
            except Rejection as rejection:
                return _response(self._gate.answer(rejection))
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return the response for a view in which ``cleared`` rejects. Django handles other errors."""
        return _response(self._gate.answer(exception)) if isinstance(exception, Rejection) else None

    async def _awaited(self, request: HttpRequest, visit: Visit) -> Any:
        access = self._asked(request)
        if access is not None:
            try:
                visit.clear(await visit.verified(), access())
            except Rejection as rejection:
                return _response(self._gate.answer(rejection))
        return await self._get_response(request)

    def _asked(self, request: HttpRequest) -> Callable[[], Access] | None:
        """Return the function that gives a request's access, if it must be known before any view."""
        access = self._access
        if access is None or (self._exempt is not None and self._exempt(request)):
            return None
        return lambda: access(request)


def token_middleware(
    client: Client | AsyncClient,
    *,
    organization: str | AnyOrganization | None = None,
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
        access: returns a request's access. Every request must then clear it. Without it, each view demands its own.
        exempt: returns True for a request that needn't clear ``access``.
        attestation: verifies Fly's attestation of the app's own callers. Without it, no ``src`` caveat clears.
        realm: the app's name in challenges.
        render: makes the responses to rejections, in place of tkdb's.
    """
    gate = Guard(client, organization=organization, attestation=attestation, realm=realm, render=render)

    def middleware(get_response: GetResponse) -> TokenMiddleware:
        return TokenMiddleware(get_response, gate, access, exempt)

    middleware.sync_capable = middleware.async_capable = True  # type: ignore[attr-defined]  # what Django looks for
    return middleware


def cleared(request: HttpRequest, access: Access) -> Verified:
    """Return the verified token of the request, if it allows ``access``.

    Raises:
        Rejection: for the middleware to answer.
        ConfigurationError: there is no middleware, or its client is an AsyncClient.
    """
    visit = _visit(request)
    return visit.clear(visit.verified_blocking(), access)


async def acleared(request: HttpRequest, access: Access) -> Verified:
    """As ``cleared``, for async views."""
    visit = _visit(request)
    return visit.clear(await visit.verified(), access)


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
                token = visit.clear(visit.verified_blocking(), access(request, *args, **kwargs))
            except Rejection as rejection:
                return _response(visit.gate.answer(rejection))
            return view(request, token, *args, **kwargs)

        @wraps(view)
        async def awaited(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            visit = _visit(request)
            try:
                token = visit.clear(await visit.verified(), access(request, *args, **kwargs))
            except Rejection as rejection:
                return _response(visit.gate.answer(rejection))
            return await view(request, token, *args, **kwargs)

        return awaited if iscoroutinefunction(view) else blocking


def _arrived(request: HttpRequest) -> Arrived:
    scope = getattr(request, "scope", None)
    return Arrived.of_environ(request.META) if scope is None else Arrived.of_scope(scope)


def _visit(request: HttpRequest) -> Visit:
    visit: Visit | None = getattr(request, _VISIT, None)
    if visit is None:
        raise not_guarded()
    return visit


def _response(answer: Answer) -> HttpResponse:
    response: HttpResponse = HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))
    return response
