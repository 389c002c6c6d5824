"""A foreign organization's token at every middleware: denied, unless the check of the organization is taken out."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
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
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import tkdb_client.django as on_django
from tests.client.web import fake_server
from tests.client.web.django_settings import URLS
from tests.client.web.fake_server import ask, ask_wsgi, bearer, environ, scope
from tkdb.macaroon import clearing
from tkdb.macaroon.caveats import Act, Res
from tkdb_client import Access
from tkdb_client.asgi import TokenMiddleware, Verified, cleared, require
from tkdb_client.flask import Tokens
from tkdb_client.testing import Authority

SHOP = Access(action="r", resource={"app": "shop"})
Ask = Callable[..., fake_server.Response]


def plain(authority: Authority, options: dict[str, Any]) -> Ask:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        token = await cleared(scope, SHOP)
        await PlainTextResponse(token.organization)(scope, receive, send)

    gate = TokenMiddleware(app, authority.async_client(), **options)
    return lambda *headers: ask(gate, scope("/", *headers))


def starlette(authority: Authority, options: dict[str, Any]) -> Ask:
    async def show(request: Request) -> Response:
        return PlainTextResponse((await cleared(request, SHOP)).organization)

    app = Starlette(routes=[Route("/", show)])
    app.add_middleware(TokenMiddleware, client=authority.client(), **options)
    return lambda *headers: ask(app, scope("/", *headers))


def fastapi(authority: Authority, options: dict[str, Any]) -> Ask:
    app = FastAPI()
    app.add_middleware(TokenMiddleware, client=authority.async_client(), **options)

    @app.get("/")
    async def show(token: Annotated[Verified, require(lambda r: SHOP)]) -> str:
        return token.organization

    return lambda *headers: ask(app, scope("/", *headers))


def flask(authority: Authority, options: dict[str, Any]) -> Ask:
    app, tokens = Flask("shop"), Tokens(authority.client(), **options)
    tokens.init_app(app)
    app.add_url_rule("/", view_func=tokens.require(lambda: SHOP)(lambda token: token.organization))
    return lambda *headers: ask_wsgi(app, environ("/", *headers))


@on_django.require(lambda request: SHOP)
def show_blocking(request: HttpRequest, token: Verified) -> HttpResponse:
    return HttpResponse(token.organization)


@on_django.require(lambda request: SHOP)
async def show_awaited(request: HttpRequest, token: Verified) -> HttpResponse:
    return HttpResponse(token.organization)


def django(view: Any, serves: Callable[[], Ask]) -> Callable[[Authority, dict[str, Any]], Ask]:
    def make(authority: Authority, options: dict[str, Any]) -> Ask:
        module: Any = types.ModuleType(URLS)
        module.urlpatterns = [django_path("", view)]
        module.middleware = on_django.token_middleware(authority.client(), **options)
        sys.modules[URLS] = module
        clear_url_caches()
        settings.MIDDLEWARE = [f"{URLS}.middleware"]
        return serves()

    return make


def wsgi() -> Ask:
    handler = WSGIHandler()
    return lambda *headers: ask_wsgi(handler, environ("/", *headers))


def asgi() -> Ask:
    handler = ASGIHandler()
    return lambda *headers: ask(handler, scope("/", *headers))


APPS = {
    "plain": plain,
    "starlette": starlette,
    "fastapi": fastapi,
    "flask": flask,
    "django-wsgi": django(show_blocking, wsgi),
    "django-asgi": django(show_awaited, asgi),
}
OPTIONS = {
    "routes": {"organization": "acme"},
    "closed": {"organization": "acme", "closed": True},
    "access": {"organization": "acme", "access": lambda *_: SHOP},
}


@pytest.fixture
def app(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Ask]:
    authority.create_organization("evil")
    name, mode = request.param
    with override_settings():
        yield APPS[name](authority, OPTIONS[mode])
    sys.modules.pop(URLS, None)


every = pytest.mark.parametrize("app", [(name, mode) for name in APPS for mode in OPTIONS], indirect=True, ids="-".join)


@every
def test_a_foreign_organizations_token_is_denied(app: Ask, authority: Authority) -> None:
    assert app(bearer(authority.mint("acme"))).body.strip(b'"') == b"acme"
    for caveats in ((), (Act("rwcdC"), Res("app", {"*": "rwcdC"}))):
        got = app(bearer(authority.mint("evil", *caveats)))
        assert (got.status, got.problem["reason"]) == (403, "foreign organization")
        assert "the organization evil; the request is for data of acme" in got.problem["detail"]


@every
def test_without_the_check_a_foreign_organizations_token_is_accepted(
    app: Ask, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearing, "require_organization", lambda *_: None)
    assert app(bearer(authority.mint("evil"))).body.strip(b'"') == b"evil"
