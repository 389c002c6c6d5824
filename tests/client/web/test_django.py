"""Django: the same responses through both handlers, for blocking and async views."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import clear_url_caches, path

from tests.client.web.django_settings import URLS
from tests.client.web.fake_server import Response, ask, ask_wsgi, bearer, environ, scope
from tkdb import errors
from tkdb.macaroon.caveats import Act, Ip, Req
from tkdb_client import Access, Policy
from tkdb_client.django import Verified, acleared, cleared, require, token_middleware
from tkdb_client.testing import Authority, Down

READ = Access(action="r")
Ask = Callable[..., Response]


@require(lambda request, app_id: Access(action="r", resource={"app": app_id}))
def show(request: HttpRequest, token: Verified, app_id: str) -> HttpResponse:
    return HttpResponse(f"{token.organization} {app_id}")


@require(lambda request, app_id: Access(action="r", resource={"app": app_id}))
async def ashow(request: HttpRequest, token: Verified, app_id: str) -> HttpResponse:
    return HttpResponse(f"{token.organization} {app_id}")


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(cleared(request, READ).organization)


async def aread(request: HttpRequest) -> HttpResponse:
    return HttpResponse((await acleared(request, READ)).organization)


def opened(request: HttpRequest) -> HttpResponse:
    return HttpResponse("open")


@require(lambda request: 1 // 0)  # type: ignore[arg-type, return-value]  # The error of the app is intended.
def broken(request: HttpRequest, token: Verified) -> HttpResponse:
    return HttpResponse("in")


def elsewhere(request: HttpRequest) -> HttpResponse:
    raise errors.RevokedToken("another's")


def crash(asked: Ask, *given: Any) -> type[BaseException] | None:
    """Return the exception that the view or middleware raised. Django has answered it with a 500."""
    raised: list[type[BaseException] | None] = []

    def record(**_: object) -> None:
        raised.append(sys.exc_info()[0])

    got_request_exception.connect(record)
    try:
        assert asked(*given).status == 500
    finally:
        got_request_exception.disconnect(record)
    return raised[0]


VIEWS = {"blocking": (show, read), "awaited": (ashow, aread)}


@pytest.fixture(params=["wsgi", "asgi"])
def kind(request: pytest.FixtureRequest) -> str:
    """The Django handler that serves."""
    return str(request.param)


@pytest.fixture
def serve(kind: str) -> Iterator[Callable[..., Ask]]:
    """Serve the views behind a middleware."""
    with override_settings():

        def make(middleware: Any, views: str = "blocking") -> Ask:
            show_view, read_view = VIEWS[views]
            module = types.ModuleType(URLS)
            module.urlpatterns = [  # type: ignore[attr-defined]  # Django expects it in a URLconf.
                path("apps/<path:app_id>", show_view),
                path("read", read_view),
                path("open", opened),
                path("broken", broken),
                path("elsewhere", elsewhere),
            ]
            module.middleware = middleware  # type: ignore[attr-defined]  # MIDDLEWARE names it.
            sys.modules[URLS] = module
            clear_url_caches()
            settings.MIDDLEWARE = [f"{URLS}.middleware"] if middleware else []
            if kind == "wsgi":
                handler = WSGIHandler()
                return lambda *given, **options: ask_wsgi(handler, environ(*given, **options))
            asgi = ASGIHandler()
            return lambda *given, **options: ask(asgi, scope(*given, **options))

        yield make
    sys.modules.pop(URLS, None)


@pytest.fixture
def middleware(authority: Authority) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        return token_middleware(
            authority.client(policy=Policy(organization="acme", clock=lambda: 0.0, audience="shop")), **options
        )

    return make


@pytest.mark.parametrize("views", ["blocking", "awaited"])
def test_a_valid_token_is_admitted_and_the_view_gets_its_organization(
    serve: Callable[..., Ask], middleware: Callable[..., Any], authority: Authority, views: str
) -> None:
    asked = serve(middleware(), views)
    token = bearer(authority.mint("acme", resource={"app": {"shop": "r"}}))
    assert asked("/apps/shop", token).body == b"acme shop"
    got = asked("/apps/blog", token)
    assert (got.status, got.problem["reason"]) == (403, "caveat unmet")
    got = asked("/apps/shop")
    assert (got.status, got.challenge) == (401, 'Bearer realm="tkdb"')
    got = asked("/read")
    assert (got.status, got.problem["type"]) == (401, "urn:tkdb:problem:token-missing")
    assert asked("/read", bearer(authority.mint("acme"))).body == b"acme"
    assert asked("/open").body == b"open"


def test_a_closed_project_rejects_every_request_that_is_not_exempt(
    serve: Callable[..., Ask], middleware: Callable[..., Any], authority: Authority
) -> None:
    asked = serve(middleware(access=lambda request: READ, exempt=lambda request: request.path == "/open"))
    assert [asked(where).status for where in ("/read", "/nowhere", "/open")] == [401, 401, 200]
    assert asked("/nowhere", bearer(authority.mint("acme", action="w"))).status == 403
    assert asked("/open", method="OPTIONS").status == 200
    assert asked("/read", method="OPTIONS").status == 401


def test_an_async_project_awaits_its_client(kind: str, serve: Callable[..., Ask], authority: Authority) -> None:
    asked = serve(
        token_middleware(authority.async_client(), organization="acme", access=lambda request: READ), "awaited"
    )
    token = bearer(authority.mint("acme", action="r"))
    if kind == "asgi":  # In ASGI, the middleware is awaited, too.
        assert asked("/read", token).body == b"acme"
        assert asked("/read").status == 401
    else:
        assert crash(asked, "/read", token) is errors.ConfigurationError


def test_several_headers_are_malformed(
    serve: Callable[..., Ask], middleware: Callable[..., Any], authority: Authority
) -> None:
    token = bearer(authority.mint("acme"))
    assert serve(middleware())("/read", token, token).status == 400


def test_an_unavailable_authority_is_a_503(
    serve: Callable[..., Ask], middleware: Callable[..., Any], authority: Authority
) -> None:
    asked, token = serve(middleware()), bearer(authority.mint("acme"))
    with authority.faulty(Down()):
        got = asked("/read", token)
    assert (got.status, got.headers["retry-after"]) == (503, "1")


def test_paths_and_addresses_clear_as_they_were_received(
    serve: Callable[..., Ask], middleware: Callable[..., Any], authority: Authority
) -> None:
    asked = serve(middleware())
    token = bearer(authority.mint("acme", Act("r"), Req(("GET",), ("/apps/*",))))
    assert asked("/apps/shop", token).status == 200
    assert asked("/apps/a%2fb", token).status == 403
    assert asked("/apps/%2e%2e", token).status == 403
    assert asked("/read", token).status == 403
    token = bearer(authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",))))
    assert asked("/read", token, (b"x-forwarded-for", b"10.0.0.1")).status == 403


def test_errors_of_the_app_pass_through_unchanged(
    serve: Callable[..., Ask], middleware: Callable[..., Any], authority: Authority
) -> None:
    asked, token = serve(middleware()), bearer(authority.mint("acme"))
    assert crash(asked, "/broken", token) is ZeroDivisionError
    assert asked("/broken").status == 401
    assert crash(asked, "/elsewhere", token) is errors.RevokedToken


def test_a_protected_view_without_the_middleware_raises(serve: Callable[..., Ask], authority: Authority) -> None:
    asked = serve(None)
    for where in ("/read", "/apps/shop"):
        assert crash(asked, where, bearer(authority.mint("acme"))) is errors.ConfigurationError


def test_a_decorated_view_keeps_its_name_and_kind() -> None:
    assert iscoroutinefunction(ashow)
    assert not iscoroutinefunction(show)
    assert show.__name__ == "show"


# --- the live request -------------------------------------------------------------------------------------------------


def changing(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware that changes a request, as method-override and rewriting middleware does, and answers every error."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.method = request.headers.get("x-method", request.method)
        rewritten = request.headers.get("x-path", request.path_info)
        if rewritten != request.path_info:
            request.path_info = rewritten
            if "x-both" in request.headers:
                request.path = rewritten
        return get_response(request)

    middleware.process_exception = lambda request, error: HttpResponse("went wrong", status=500)  # type: ignore[attr-defined]
    return middleware


@pytest.fixture
def changed(serve: Callable[..., Ask], middleware: Callable[..., Any]) -> Ask:
    """The views behind our middleware, with one inside it that changes requests."""
    asked = serve(middleware())
    module: Any = sys.modules[URLS]
    module.changing = changing
    settings.MIDDLEWARE = [f"{URLS}.middleware", f"{URLS}.changing"]
    handler = WSGIHandler() if isinstance(asked, types.FunctionType) and "ask_wsgi" in asked.__code__.co_names else None
    if handler is not None:
        return lambda *given, **options: ask_wsgi(handler, environ(*given, **options))
    asgi = ASGIHandler()
    return lambda *given, **options: ask(asgi, scope(*given, **options))


def test_a_request_that_is_changed_inside_the_middleware_never_clears(changed: Ask, authority: Authority) -> None:
    token = bearer(authority.mint("acme"))
    assert changed("/apps/shop", token).status == 200
    assert changed("/apps/shop", token, (b"x-method", b"DELETE")).status == 403
    for more in ((), ((b"x-both", b"1"),)):
        assert changed("/open", token, (b"x-path", b"/apps/shop"), *more).status == 403
        assert changed("/apps/apps/shop", token, (b"x-path", b"/apps/shop"), *more).status == 403


def test_a_catch_all_middleware_hides_no_rejection(changed: Ask, authority: Authority) -> None:
    assert changed("/read").status == 401
    assert changed("/read", bearer(authority.mint("acme", Act("w")))).status == 403
    assert changed("/read", bearer(authority.mint("acme"))).status == 200


@pytest.mark.parametrize("views", ["blocking", "awaited"])
def test_a_closed_app_admits_verified_tokens_of_its_organization_and_views_clear(
    serve: Callable[..., Ask], authority: Authority, views: str
) -> None:
    authority.create_organization("evil")
    asked = serve(token_middleware(authority.client(), organization="acme", closed=True), views)
    assert asked("/nowhere").status == 401
    assert asked("/nowhere", bearer(authority.mint("evil"))).problem["reason"] == "foreign organization"
    token = bearer(authority.mint("acme", resource={"app": {"shop": "r"}}))
    assert asked("/nowhere", token).status == 404
    assert asked("/apps/shop", token).status == 200
    assert asked("/apps/blog", token).status == 403
