"""Several gates on one request, and errors between a gate and its routes: the right gate sends the right answer."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from typing import Annotated, Any

import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import clear_url_caches
from django.urls import path as django_path
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

import tkdb_client.django as on_django
from tests.client.web import fake_server
from tests.client.web.django_settings import URLS
from tests.client.web.fake_server import PROXY, CatchAll, ask, ask_wsgi, attested, bearer, environ, scope
from tkdb.attestation import Verifier
from tkdb.errors import ConfigurationError
from tkdb.macaroon.caveats import Act, Req, Src
from tkdb_client import ANY_ORGANIZATION, Access, Client
from tkdb_client.asgi import Rejection, TokenMiddleware, Verified, cleared, require
from tkdb_client.flask import Tokens
from tkdb_client.testing import Authority, Down
from tkdb_client.web import facts, gate

READ = Access(action="r")
FLY = ("172.16.1.1", 4000)
Ask = Callable[..., fake_server.Response]


async def show(request: Request) -> Response:
    return PlainTextResponse((await cleared(request, READ)).organization)


# --- several gates --------------------------------------------------------------------------------------------------


@pytest.fixture
def others(authority: Authority) -> Client:
    """A client of an app that holds the data of another organization."""
    authority.create_organization("other")
    return authority.client()


def test_a_mounted_app_with_its_own_gate_clears_its_own_organization(
    client: Any, others: Client, authority: Authority
) -> None:
    inner = Starlette(
        routes=[Route("/", show)], middleware=[Middleware(TokenMiddleware, client=others, organization="other")]
    )

    async def outside_again(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        return response if "again" not in request.headers else await show(request)

    app = Starlette(
        routes=[Mount("/inner", inner)],
        middleware=[Middleware(TokenMiddleware, client=client), Middleware(BaseHTTPMiddleware, dispatch=outside_again)],
    )
    mine, theirs = (bearer(authority.mint(name)) for name in ("acme", "other"))
    assert ask(app, scope("/inner/", theirs)).body == b"other"
    assert ask(app, scope("/inner/", mine)).status == 403
    assert ask(app, scope("/inner/", theirs, (b"again", b"1"))).status == 403, "the outer app clears at its own gate"


def test_an_app_with_two_gates_clears_each_route_at_its_own(authority: Authority) -> None:
    authority.create_organization("other")
    app = Flask("shop")
    for name in ("acme", "other"):
        tokens = Tokens(authority.client(), organization=name)
        tokens.init_app(app)
        app.add_url_rule(f"/{name}", name, tokens.require(lambda: READ)(lambda token: token.organization))
    for name, foreign in (("acme", "other"), ("other", "acme")):
        assert ask_wsgi(app, environ(f"/{name}", bearer(authority.mint(name)))).body == name.encode()
        assert ask_wsgi(app, environ(f"/{name}", bearer(authority.mint(foreign)))).status == 403


def test_a_gate_that_is_not_on_the_app_guards_none_of_its_routes(authority: Authority) -> None:
    app, tokens = Flask("shop"), Tokens(authority.client(), organization="acme")
    Tokens(authority.client(), organization=ANY_ORGANIZATION).init_app(app)
    app.testing = True
    app.add_url_rule("/", view_func=tokens.require(lambda: READ)(lambda token: "in"))
    with pytest.raises(ConfigurationError, match="no middleware"):
        ask_wsgi(app, environ("/", bearer(authority.mint("acme"))))


def test_a_root_path_that_is_set_inside_the_gate_is_no_change_of_the_request(client: Any, authority: Authority) -> None:
    """As FastAPI(root_path=...) does: the proxy has taken the prefix off."""
    app = Starlette(routes=[Route("/apps/shop", show)])

    async def rooted(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/v1"}, receive, send)

    token = bearer(authority.mint("acme", Req(("GET",), ("/apps/*",))))
    assert ask(TokenMiddleware(rooted, client), scope("/apps/shop", token)).body == b"acme"


def test_a_changed_authorization_header_never_clears(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Swaps:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "headers": [bearer(authority.mint("acme"))]}, receive, send)

    app = Starlette(
        routes=[Route("/", show)], middleware=[Middleware(TokenMiddleware, client=client), Middleware(Swaps)]
    )
    got = ask(app, scope("/", bearer(authority.mint("acme"))))
    assert got.status == 403
    assert "Authorization header isn't the one" in got.problem["detail"]
    assert ask(app, scope("/")).status == 401
    monkeypatch.setattr(facts.Arrived, "has_same_token", lambda *_: True)
    assert ask(app, scope("/", bearer(authority.mint("acme")))).status == 200


# --- attestation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim", [b"172.16.1.1", b"10.0.0.9, 172.16.1.1:80", b'"172.16\\.1.1"', b"for=172.16.1.1", b""]
)
def test_a_peer_that_a_server_may_have_copied_attests_nothing(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch, claim: bytes
) -> None:
    """An app that got the attestation of another app's request sends it on, past the proxy."""
    app = TokenMiddleware(_ok, client, access=lambda _: READ, attestation=Verifier(PROXY.public_key()))
    token = bearer(authority.mint("acme", Src("acme", "web", None)))
    through = (b"x-forwarded-for", b"203.0.113.9, [fdaa::3]:80")  # as the proxy itself sends it
    assert ask(app, scope("/", token, *attested("1"), through, client=FLY)).status == 200
    assert ask(app, scope("/", token, *attested("2"), (b"x-forwarded-for", claim), client=FLY)).status == 403
    monkeypatch.setattr(facts, "_may_be_copied", lambda *_: False)
    assert ask(app, scope("/", token, *attested("3"), (b"x-forwarded-for", claim), client=FLY)).status == 200


async def _ok(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


# --- errors in between ----------------------------------------------------------------------------------------------


async def catches_all(request: Request, call_next: Any) -> Response:
    try:
        response: Response = await call_next(request)
    except Exception:  # noqa: BLE001 -- this is what such middleware does
        return JSONResponse({"error": "oops"}, status_code=500)
    return response


async def own_error(request: Request) -> Response:
    """Try a token, and fail for another reason."""
    with suppress(Rejection):
        await cleared(request, READ)
    raise ZeroDivisionError


def test_a_catch_all_of_fastapi_hides_no_rejection(client: Any, authority: Authority) -> None:
    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=catches_all)
    app.add_middleware(TokenMiddleware, client=client)

    @app.get("/")
    async def route(token: Annotated[Verified, require(lambda r: READ)]) -> str:
        return token.organization

    assert ask(app, scope("/")).status == 401
    assert ask(app, scope("/", bearer(authority.mint("acme", Act("w"))))).status == 403
    assert ask(app, scope("/", bearer(authority.mint("acme")))).status == 200


def test_without_the_correction_a_catch_all_hides_a_rejection(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate.Visit, "hidden", lambda *_: None)
    app = Starlette(
        routes=[Route("/", show)],
        middleware=[Middleware(TokenMiddleware, client=client), Middleware(BaseHTTPMiddleware, dispatch=catches_all)],
    )
    assert ask(app, scope("/")).status == 500


def test_an_error_of_the_app_after_a_caught_rejection_stays_its_error(client: Any) -> None:
    app = Starlette(
        routes=[Route("/", own_error)],
        middleware=[Middleware(TokenMiddleware, client=client), Middleware(BaseHTTPMiddleware, dispatch=catches_all)],
    )
    got = ask(app, scope("/"))
    assert (got.status, got.body) == (500, b'{"error":"oops"}')


def test_a_handler_of_the_app_may_answer_503(authority: Authority) -> None:
    async def render(request: Request, rejection: Exception) -> Response:
        assert isinstance(rejection, Rejection)
        return JSONResponse({"no": rejection.kind}, status_code=rejection.status)

    app = Starlette(
        routes=[Route("/", show)],
        middleware=[Middleware(TokenMiddleware, client=authority.client(), organization="acme")],
        exception_handlers={Rejection: render},
    )
    flask, tokens = Flask("shop"), Tokens(authority.client(), organization="acme")
    tokens.init_app(flask)
    flask.register_error_handler(Rejection, lambda rejection: ({"no": rejection.kind}, rejection.status))
    flask.add_url_rule("/", view_func=tokens.require(lambda: READ)(lambda token: "in"))
    token = bearer(authority.mint("acme"))
    with authority.faulty(Down()):
        for got in (ask(app, scope("/", token)), ask_wsgi(flask, environ("/", token))):
            assert (got.status, got.body.replace(b" ", b"").strip()) == (503, b'{"no":"unavailable"}')


def test_a_websocket_that_a_catch_all_closes_is_rejected(client: Any) -> None:
    async def live(socket: WebSocket) -> None:
        await cleared(socket, READ)

    closes = Middleware(CatchAll, messages=[{"type": "websocket.close", "code": 1011}])
    routes = [WebSocketRoute("/", live)]
    app = Starlette(routes=routes, middleware=[Middleware(TokenMiddleware, client=client), closes])
    connect = [{"type": "websocket.connect"}]
    assert [m.get("code") for m in ask(app, scope("/", kind="websocket"), connect).messages] == [1008]
    answering = scope("/", kind="websocket", extensions={"websocket.http.response": {}})
    assert ask(app, answering, connect).status == 401


def test_a_decorator_of_flask_hides_no_rejection(authority: Authority) -> None:
    def quiet(view: Any) -> Any:
        @wraps(view)
        def caught(*args: Any) -> Any:
            try:
                return view(*args)
            except Exception:  # noqa: BLE001 -- this is what such a decorator does
                return "oops", 500

        return caught

    app, tokens = Flask("shop"), Tokens(authority.client(), organization="acme")
    tokens.init_app(app)

    @app.get("/own")
    def own() -> Any:
        try:
            tokens.cleared(READ)
        except Rejection:
            return "own", 500

    app.add_url_rule("/", view_func=quiet(tokens.require(lambda: READ)(lambda token: "in")))
    assert ask_wsgi(app, environ("/")).status == 401
    assert ask_wsgi(app, environ("/own")).body == b"own"


# --- Django -----------------------------------------------------------------------------------------------------------


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(on_django.cleared(request, READ).organization)


def crashes(request: HttpRequest) -> HttpResponse:
    with suppress(Rejection):
        on_django.cleared(request, READ)
    raise ZeroDivisionError


def again(get_response: Any) -> Any:
    """Middleware that clears once more, after the inner gate."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response: HttpResponse = get_response(request)
        return HttpResponse(on_django.cleared(request, READ).organization) if "again" in request.headers else response

    return middleware


@pytest.fixture(params=["wsgi", "asgi"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Ask]]:
    """Serve the views behind middlewares."""
    with override_settings():

        def make(**middlewares: Any) -> Ask:
            module: Any = types.ModuleType(URLS)
            module.urlpatterns = [django_path("read", read), django_path("crashes", crashes)]
            vars(module).update(middlewares)
            sys.modules[URLS] = module
            clear_url_caches()
            settings.MIDDLEWARE = [f"{URLS}.{name}" for name in middlewares]
            if request.param == "wsgi":
                handler = WSGIHandler()
                return lambda *given: ask_wsgi(handler, environ(*given))
            asgi = ASGIHandler()
            return lambda *given, **options: ask(asgi, scope(*given, **options))

        yield make
    sys.modules.pop(URLS, None)


def test_djangos_outer_gate_clears_what_runs_outside_the_inner_one(
    serve: Callable[..., Ask], authority: Authority
) -> None:
    authority.create_organization("other")
    outer, inner = (on_django.token_middleware(authority.client(), organization=name) for name in ("acme", "other"))
    asked = serve(outer=outer, again=again, inner=inner)
    theirs = bearer(authority.mint("other"))
    assert asked("/read", theirs).body == b"other"
    assert asked("/read", theirs, (b"again", b"1")).status == 403


def test_a_crash_of_a_view_after_a_caught_rejection_stays_a_500(
    serve: Callable[..., Ask], authority: Authority
) -> None:
    assert serve(outer=on_django.token_middleware(authority.client(), organization="acme"))("/crashes").status == 500


def test_django_inside_a_guarded_app_gets_its_attestation(authority: Authority) -> None:
    verifier = Verifier(PROXY.public_key())
    with override_settings():
        module: Any = types.ModuleType(URLS)
        module.urlpatterns = [django_path("read", read)]
        module.middleware = on_django.token_middleware(authority.client(), organization="acme", attestation=verifier)
        sys.modules[URLS] = module
        clear_url_caches()
        settings.MIDDLEWARE = [f"{URLS}.middleware"]
        app = TokenMiddleware(ASGIHandler(), authority.client(), organization="acme", attestation=verifier)
        token = bearer(authority.mint("acme", Src("acme", "web", None)))
        assert ask(app, scope("/read", token, *attested("1"), client=FLY)).body == b"acme"
        assert ask(app, scope("/read", token, *attested("1"), client=FLY)).status == 403
    sys.modules.pop(URLS, None)
