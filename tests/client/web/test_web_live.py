"""What is cleared is what runs: method and path are the live request's, and nothing clears once they were changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from tests.client.web.fake_server import ask, ask_wsgi, bearer, environ, scope
from tkdb.errors import ConfigurationError
from tkdb.macaroon.caveats import Act, Exp, Ip, Req, Res
from tkdb_client import Access, Client, Policy
from tkdb_client.asgi import TokenMiddleware, cleared, cleared_if_presented
from tkdb_client.flask import Tokens, Verified
from tkdb_client.testing import Authority
from tkdb_client.web import facts, gate

POSTS = Req(("POST",), ("/apps/*",))
ASGI = Callable[..., Any]


class Rewriting:
    """Middleware that changes a copy of the scope, as method-override and rewriting middleware does."""

    def __init__(self, app: ASGI) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for name, value in scope.get("headers", ()):
            if name == b"x-method":
                scope = {**scope, "method": value.decode()}
            elif name == b"x-rewrite":
                scope = {**scope, "path": value.decode(), "raw_path": value}
            elif name == b"x-route":
                scope = {**scope, "path": value.decode()}
        await self.app(scope, receive, send)


async def show(request: Request) -> Response:
    await cleared(request, Access(action="r"))
    return PlainTextResponse(f"{request.method} {request.url.path}")


def app_of(client: Any, *inner: Any, **options: Any) -> ASGI:
    methods = ["GET", "POST", "DELETE"]
    routes = [Route("/apps/shop", show, methods=methods), Route("/admin", show, methods=methods)]
    routes.append(Mount("/sub", routes=[Route("/apps/shop", show, methods=methods)]))
    return Starlette(routes=routes, middleware=[Middleware(TokenMiddleware, client=client, **options), *inner])


@pytest.mark.parametrize(
    "change",
    [(b"x-method", b"DELETE"), (b"x-rewrite", b"/admin"), (b"x-route", b"/admin"), (b"x-rewrite", b"/sub/apps/shop")],
)
@pytest.mark.parametrize("caveats", [(POSTS,), (Act("rwcdC"),), ()])
def test_a_request_that_is_changed_inside_the_gate_never_clears(
    client: Any, authority: Authority, change: tuple[bytes, bytes], caveats: tuple[Any, ...]
) -> None:
    app, token = app_of(client, Middleware(Rewriting)), bearer(authority.mint("acme", *caveats))
    assert ask(app, scope("/apps/shop", token, method="POST")).body == b"POST /apps/shop"
    got = ask(app, scope("/apps/shop", token, change, method="POST"))
    assert got.status == 403
    assert "the request arrived as 'POST' '/apps/shop', and was changed to" in got.problem["detail"]


def test_without_the_comparison_a_changed_request_runs_something_else(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts.Arrived, "is_same", lambda *_: True)
    app, token = app_of(client, Middleware(Rewriting)), bearer(authority.mint("acme"))
    assert ask(app, scope("/apps/shop", token, (b"x-method", b"DELETE"), method="POST")).body == b"DELETE /apps/shop"


def test_a_request_that_is_changed_outside_the_gate_clears_as_it_is_now(client: Any, authority: Authority) -> None:
    app, token = Rewriting(app_of(client)), bearer(authority.mint("acme", POSTS))
    assert ask(app, scope("/apps/shop", token, (b"x-method", b"DELETE"), method="POST")).status == 403
    assert ask(app, scope("/apps/shop", token, (b"x-method", b"POST"))).body == b"POST /apps/shop"
    assert ask(app, scope("/apps/shop", token, (b"x-rewrite", b"/admin"), method="POST")).status == 403


def test_a_request_that_is_changed_between_two_gates_never_clears(client: Any, authority: Authority) -> None:
    inner = TokenMiddleware(app_of(client), client, access=lambda _: Access(action="r"))
    app, token = TokenMiddleware(Rewriting(inner), client), bearer(authority.mint("acme"))
    assert ask(app, scope("/apps/shop", token, method="POST")).status == 200
    assert ask(app, scope("/apps/shop", token, (b"x-rewrite", b"/admin"), method="POST")).status == 403


def test_a_mounted_app_clears_the_whole_path(client: Any, authority: Authority) -> None:
    token = bearer(authority.mint("acme", Req(("GET",), ("/sub/apps/*",))))
    assert ask(app_of(client), scope("/sub/apps/shop", token)).status == 200
    assert ask(app_of(client), scope("/apps/shop", token)).status == 403


def test_an_inner_gate_leaves_the_outer_ones_visit(client: Any, authority: Authority) -> None:
    other = authority.client(policy=Policy(organization="acme"))

    async def calls_inner(scope: Any, receive: Any, send: Any) -> None:
        async def quiet(_: Any) -> None:
            """Drop the inner response."""

        before = scope[gate.KEY]
        await TokenMiddleware(show_ok, other)(scope, receive, quiet)
        assert scope[gate.KEY] is before
        await show_ok(scope, receive, send)

    assert ask(TokenMiddleware(calls_inner, client), scope("/")).status == 200


async def show_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


# --- closed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"closed": True}, {"access": lambda _: Access(action="r")}])
@pytest.mark.parametrize("kind", ["webtransport", "http2.push", ""])
def test_a_closed_app_takes_no_unknown_kind_of_scope(client: Any, options: dict[str, Any], kind: str) -> None:
    with pytest.raises(ConfigurationError, match="a closed app can't take"):
        ask(TokenMiddleware(show_ok, client, **options), {"type": kind, "headers": [], "path": "/"})
    assert ask(TokenMiddleware(show_ok, client, **options), {"type": "lifespan"}).status == 200


def test_a_closed_app_admits_a_token_with_resources_and_its_routes_clear(client: Any, authority: Authority) -> None:
    async def shop(request: Request) -> Response:
        await cleared(request, Access(action="r", resource={"app": "shop"}))
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/shop", shop)], middleware=[Middleware(TokenMiddleware, client=client, closed=True)])
    assert ask(app, scope("/shop")).status == 401
    assert ask(app, scope("/nowhere")).status == 401
    assert ask(app, scope("/shop", bearer(authority.mint("acme", Res("app", {"shop": "r"}))))).body == b"in"
    assert ask(app, scope("/shop", bearer(authority.mint("acme", Res("app", {"blog": "r"}))))).status == 403
    assert ask(app, scope("/nowhere", bearer(authority.mint("acme", Res("app", {"blog": "r"}))))).status == 404


def test_a_closed_app_rejects_a_foreign_and_an_expired_token(authority: Authority) -> None:
    authority.create_organization("evil")
    client = authority.client()
    app = TokenMiddleware(show_ok, client, organization="acme", closed=True)
    assert ask(app, scope("/", bearer(authority.mint("acme")))).status == 200
    got = ask(app, scope("/", bearer(authority.mint("evil"))))
    assert (got.status, got.problem["reason"]) == (403, "foreign organization")
    got = ask(app, scope("/", bearer(authority.mint("acme").narrow(Exp(1)))))
    assert (got.status, got.problem["reason"]) == (401, "expired")


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(facts.CLAIMS))
def test_an_address_is_unknown_if_any_header_claims_one(client: Any, authority: Authority, name: bytes) -> None:
    app, token = app_of(client), bearer(authority.mint("acme", Ip(("203.0.113.0/24",))))
    assert ask(app, scope("/apps/shop", token)).status == 200
    for spelling in (name, name.replace(b"-", b"_"), name.title()):
        assert ask(app, scope("/apps/shop", token, (spelling, b"anything"))).status == 403


@pytest.mark.parametrize("value", [b"10.0.0.1", b'"10.0\\.0.1"', b'"1\\0.0.0.1"', b"for=10.0.0.1", b""])
def test_a_proxy_fix_makes_no_header_an_address(authority: Authority, value: bytes) -> None:
    app = Flask("shop")
    Tokens(authority.client(), organization="acme", access=Access).init_app(app)
    app.add_url_rule("/", view_func=lambda: f"in as {request.remote_addr}")
    token = bearer(authority.mint("acme", Ip(("10.0.0.0/8",))))
    assert ask_wsgi(ProxyFix(app.wsgi_app), environ("/", token, (b"x-forwarded-for", value))).status == 403  # type: ignore[arg-type]


# --- Flask --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(authority: Authority) -> Tokens:
    return Tokens(authority.client(), organization="acme")


def test_a_test_client_inside_a_view_lends_its_token_to_nobody(tokens: Tokens, authority: Authority) -> None:
    app, service = Flask("shop"), authority.mint("acme")
    tokens.init_app(app)
    app.add_url_rule("/inner", view_func=tokens.require(Access)(lambda token: "inner"))

    @app.get("/outer")
    def outer() -> str:
        inner = app.test_client().get("/inner", headers={"authorization": f"Bearer {service.text}"})
        assert inner.status_code == 200
        return str(tokens.cleared(Access()))

    assert ask_wsgi(app, environ("/outer")).status == 401


def test_an_app_that_a_view_calls_lends_its_visit_to_nobody(tokens: Tokens, authority: Authority) -> None:
    inner, outer = Flask("inner"), Flask("outer")
    Tokens(authority.client(), organization="other").init_app(inner)
    tokens.init_app(outer)
    inner.add_url_rule("/", view_func=lambda: "inner")

    @outer.get("/")
    def view() -> str:
        from flask import Response as FlaskResponse

        FlaskResponse.from_app(inner, request.environ)
        return tokens.cleared(Access()).organization

    assert ask_wsgi(outer, environ("/", bearer(authority.mint("acme")))).body == b"acme"


def test_a_method_that_flask_overrides_never_clears(tokens: Tokens, authority: Authority) -> None:
    app = Flask("shop")
    tokens.init_app(app)

    @app.before_request
    def override() -> None:
        request.method = request.headers.get("x-method", request.method)

    class Shop(MethodView):
        def post(self) -> str:
            return tokens.cleared(Access()).organization

        def delete(self) -> str:
            tokens.cleared(Access())
            return "deleted"

    app.add_url_rule("/apps/shop", view_func=Shop.as_view("shop"))
    token = bearer(authority.mint("acme"))
    assert ask_wsgi(app, environ("/apps/shop", token, method="POST")).body == b"acme"
    assert ask_wsgi(app, environ("/apps/shop", token, (b"x-method", b"DELETE"), method="POST")).status == 403


@pytest.mark.parametrize(("path", "status"), [("/v1/a", 200), ("/v1//a", 403), ("/v1/%61", 403), ("//v1/a", 404)])
def test_a_dispatched_app_clears_the_whole_path(tokens: Tokens, authority: Authority, path: str, status: int) -> None:
    app = Flask("shop")
    tokens.init_app(app)
    app.add_url_rule("/a", view_func=tokens.require(Access)(lambda token: "a"))
    dispatched = DispatcherMiddleware(Flask("root"), {"/v1": app})
    token = bearer(authority.mint("acme", Req(("*",), ("/v1/a",))))
    assert ask_wsgi(dispatched, environ(path, token)).status == status  # type: ignore[arg-type]


# --- catch-all error handlers -------------------------------------------------------------------------------------


class CatchAll:
    """Middleware that answers every error itself."""

    def __init__(self, app: ASGI) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:  # noqa: BLE001  this is what such middleware does
            await PlainTextResponse("something went wrong", 500)(scope, receive, send)


def test_a_catch_all_middleware_hides_no_rejection(client: Any, authority: Authority) -> None:
    app = app_of(client, Middleware(CatchAll))
    assert ask(app, scope("/apps/shop")).problem["status"] == 401
    assert ask(app, scope("/apps/shop", bearer(authority.mint("acme", Act("w"))))).problem["status"] == 403
    assert ask(app, scope("/apps/shop", bearer(authority.mint("acme")))).status == 200


@pytest.mark.parametrize("where", ["app", "blueprint"])
def test_a_catch_all_handler_of_flask_hides_no_rejection(tokens: Tokens, authority: Authority, where: str) -> None:
    from flask import Blueprint

    app, part = Flask("shop"), Blueprint("part", "part")
    tokens.init_app(app)
    (app if where == "app" else part).register_error_handler(Exception, lambda error: ("something went wrong", 500))
    part.add_url_rule("/", view_func=tokens.require(lambda: Access(action="w"))(lambda token: "in"))
    app.register_blueprint(part)
    assert ask_wsgi(app, environ("/")).status == 401
    assert ask_wsgi(app, environ("/", bearer(authority.mint("acme", Act("r"))))).status == 403
    assert ask_wsgi(app, environ("/", bearer(authority.mint("acme")))).status == 200


# --- optional tokens ----------------------------------------------------------------------------------------------


def test_an_optional_token_may_be_missing_and_never_wrong(client: Any, authority: Authority) -> None:
    async def greet(request: Request) -> Response:
        token = await cleared_if_presented(request, Access(action="r"))
        return PlainTextResponse("anyone" if token is None else token.organization)

    app = Starlette(routes=[Route("/", greet)], middleware=[Middleware(TokenMiddleware, client=client)])
    assert ask(app, scope("/")).body == b"anyone"
    assert ask(app, scope("/", bearer(authority.mint("acme")))).body == b"acme"
    assert ask(app, scope("/", bearer(authority.mint("acme", Act("w"))))).status == 403
    assert ask(app, scope("/", (b"authorization", b"Bearer junk"))).status == 401


def test_an_optional_token_of_flask_may_be_missing_and_never_wrong(tokens: Tokens, authority: Authority) -> None:
    app = Flask("shop")
    tokens.init_app(app)

    @app.get("/")
    def greet() -> str:
        token: Verified | None = tokens.cleared_if_presented(Access(action="r"))
        return "anyone" if token is None else token.organization

    assert ask_wsgi(app, environ("/")).body == b"anyone"
    assert ask_wsgi(app, environ("/", bearer(authority.mint("acme")))).body == b"acme"
    assert ask_wsgi(app, environ("/", bearer(authority.mint("acme", Act("w"))))).status == 403
    assert isinstance(authority.client(), Client)
