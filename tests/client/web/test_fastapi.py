"""FastAPI and Starlette with the middleware: dependencies, mounts, exception handlers, CORS and WebSockets."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi import WebSocket as FastSocket
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.client.web.fake_server import ask, bearer, scope
from tkdb import errors
from tkdb.macaroon.caveats import Act, Req
from tkdb_client import Access
from tkdb_client.asgi import Rejection, TokenMiddleware, Verified, cleared, require
from tkdb_client.testing import Authority


def app_access(connection: HTTPConnection) -> Access:
    return Access(action="r", resource={"app": connection.path_params["app_id"]})


ReadsApp = Annotated[Verified, require(app_access)]


def user(token: Annotated[Verified, require(lambda r: Access())]) -> str | None:
    return token.subject


def fast(client: Any | None) -> FastAPI:
    app = FastAPI()
    if client is not None:
        app.add_middleware(TokenMiddleware, client=client)

    @app.get("/apps/{app_id}")
    async def show(app_id: str, token: ReadsApp) -> dict[str, str]:
        return {"app": app_id, "organization": token.organization}

    @app.get("/default/{app_id}")
    def default(app_id: str, token: Verified = require(app_access)) -> str:  # noqa: B008 -- FastAPI reads it from the default
        return token.organization

    @app.get("/open")
    def opened() -> str:
        return "open"

    @app.get("/elsewhere/{app_id}")
    def elsewhere(app_id: str, token: ReadsApp) -> str:
        raise errors.ExpiredToken("another's")

    @app.get("/both/{app_id}")
    def both(app_id: str, reads: ReadsApp, writes: Annotated[Verified, require(lambda r: Access(action="w"))]) -> str:
        return "both"

    @app.websocket("/live/{app_id}")
    async def live(socket: FastSocket, app_id: str, token: ReadsApp) -> None:
        await socket.accept()
        await socket.close()

    return app


@pytest.fixture
def shop(authority: Authority) -> tuple[bytes, bytes]:
    return bearer(authority.mint("acme", resource={"app": {"shop": "r"}}))


@pytest.mark.parametrize("path", ["/apps", "/default"])
def test_a_dependency_gives_the_verified_token_or_rejects_the_request(
    client: Any, shop: tuple[bytes, bytes], path: str
) -> None:
    app = fast(client)
    assert b"acme" in ask(app, scope(f"{path}/shop", shop)).body
    got = ask(app, scope(f"{path}/blog", shop))
    assert (got.status, got.problem["reason"]) == (403, "caveat unmet")
    assert ask(app, scope(f"{path}/shop")).challenge == 'Bearer realm="tkdb"'
    assert ask(app, scope("/open")).status == 200


def test_two_requirements_of_one_route_must_both_clear(client: Any, authority: Authority) -> None:
    app = fast(client)
    reader, writer = (bearer(authority.mint("acme", action=act)) for act in ("r", "rw"))
    assert ask(app, scope("/both/shop", reader)).status == 403
    assert ask(app, scope("/both/shop", writer)).status == 200


def test_a_requirement_without_the_middleware_raises_and_is_never_open(shop: tuple[bytes, bytes]) -> None:
    with pytest.raises(errors.ConfigurationError, match="middleware"):
        ask(fast(None), scope("/apps/shop", shop))


def test_an_error_of_a_route_passes_through_unchanged(client: Any, shop: tuple[bytes, bytes]) -> None:
    with pytest.raises(errors.ExpiredToken, match="another's"):
        ask(fast(client), scope("/elsewhere/shop", shop))


def test_the_openapi_document_shows_which_routes_take_a_token(client: Any) -> None:
    document = fast(client).openapi()
    assert document["components"]["securitySchemes"]["tkdb"]["scheme"] == "bearer"
    assert document["paths"]["/apps/{app_id}"]["get"]["security"] == [{"tkdb": []}]
    assert "security" not in document["paths"]["/open"]["get"]


def test_a_dependency_protects_a_whole_router(client: Any, authority: Authority) -> None:
    app = FastAPI()
    app.add_middleware(TokenMiddleware, client=client)
    router = APIRouter(dependencies=[require(lambda r: Access(action="r"))])

    @router.get("/inside")
    def inside() -> str:
        return "in"

    app.include_router(router)
    assert ask(app, scope("/inside")).status == 401
    assert ask(app, scope("/inside", bearer(authority.mint("acme")))).status == 200


def test_a_mounted_fastapi_app_answers_like_the_outer_app(client: Any, authority: Authority) -> None:
    outer = FastAPI()
    outer.add_middleware(TokenMiddleware, client=client)
    outer.mount("/inner", fast(None))
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/inner/apps/*",)))
    assert ask(outer, scope("/inner/apps/shop", bearer(token))).status == 200
    got = ask(outer, scope("/inner/apps/shop"))
    assert (got.status, got.problem["status"]) == (401, 401)
    assert ask(outer, scope("/inner/default/shop", bearer(token))).status == 403


def test_an_exception_handler_renders_rejections(client: Any) -> None:
    app = fast(client)

    @app.exception_handler(Rejection)
    async def render(request: Request, rejection: Rejection) -> Response:
        return JSONResponse({"no": rejection.kind}, status_code=rejection.status)

    got = ask(app, scope("/apps/shop"))
    assert (got.status, got.body) == (401, b'{"no":"token-missing"}')


def test_a_middleware_in_between_changes_nothing(client: Any, shop: tuple[bytes, bytes]) -> None:
    app = FastAPI()

    @app.get("/apps/{app_id}")
    async def show(app_id: str, token: ReadsApp) -> str:
        return token.organization

    async def passes(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-passed"] = "yes"
        return response

    app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    app.add_middleware(TokenMiddleware, client=client)
    assert ask(app, scope("/apps/shop")).status == 401
    assert ask(app, scope("/apps/shop", shop)).headers["x-passed"] == "yes"


def test_cors_outside_answers_preflights_and_marks_rejections(client: Any) -> None:
    app = fast(client)
    app.add_middleware(CORSMiddleware, allow_origins=["https://ui.test"], allow_headers=["authorization"])
    origin = (b"origin", b"https://ui.test")
    preflight = (b"access-control-request-method", b"GET"), (b"access-control-request-headers", b"authorization")
    assert ask(app, scope("/apps/shop", origin, *preflight, method="OPTIONS")).status == 200
    got = ask(app, scope("/apps/shop", origin))
    assert (got.status, got.headers["access-control-allow-origin"]) == (401, "https://ui.test")


def test_a_websocket_route_requires_a_token_before_it_is_accepted(client: Any, shop: tuple[bytes, bytes]) -> None:
    app = fast(client)
    connect = [{"type": "websocket.connect"}]
    denied = ask(app, scope("/live/shop", kind="websocket"), connect)
    assert [(each["type"], each.get("code")) for each in denied.messages] == [("websocket.close", 1008)]
    rejected = ask(
        app, scope("/live/blog", shop, kind="websocket", extensions={"websocket.http.response": {}}), connect
    )
    assert (rejected.status, rejected.problem["reason"]) == (403, "caveat unmet")
    accepted = ask(app, scope("/live/shop", shop, kind="websocket"), connect)
    assert [each["type"] for each in accepted.messages] == ["websocket.accept", "websocket.close"]


def test_starlette_routes_call_cleared_directly(client: Any, authority: Authority) -> None:
    async def show(request: Request) -> Response:
        token = await cleared(request, Access(action="r", resource={"app": request.path_params["app_id"]}))
        return PlainTextResponse(token.organization)

    async def live(socket: WebSocket) -> None:
        await cleared(socket, Access(action="r"))
        await socket.accept()

    routes = [Route("/apps/{app_id}", show), WebSocketRoute("/live", live)]
    app = Starlette(routes=[Mount("/v1", Starlette(routes=routes))])
    app.add_middleware(TokenMiddleware, client=client)
    token = authority.mint("acme", Req(("GET",), ("/v1/apps/*",)), resource={"app": {"shop": "r"}})
    assert ask(app, scope("/v1/apps/shop", bearer(token))).body == b"acme"
    assert ask(app, scope("/v1/apps/blog", bearer(token))).status == 403
    assert ask(app, scope("/v1/apps/shop")).status == 401
    assert ask(app, scope("/v1/live", kind="websocket"), [{"type": "websocket.connect"}]).messages[0]["code"] == 1008


def test_a_dependency_can_use_the_token(client: Any, authority: Authority) -> None:
    app = FastAPI()
    app.add_middleware(TokenMiddleware, client=client)

    @app.get("/me")
    def me(subject: Annotated[str | None, Depends(user)]) -> str | None:
        return subject

    assert ask(app, scope("/me", bearer(authority.mint("acme", subject="kim")))).body == b'"kim"'


@pytest.mark.parametrize("module", ["tkdb_client", "tkdb_client.asgi"])
def test_no_framework_is_loaded_until_it_is_used(module: str) -> None:
    frameworks = ("starlette", "fastapi", "django", "flask", "pydantic", "werkzeug")
    code = f"import sys, {module}; print([name for name in {frameworks} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_the_error_names_a_missing_framework() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from tkdb_client.asgi import require; require(lambda r: None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "require() is for FastAPI, which isn't installed: install it" in done.stderr
