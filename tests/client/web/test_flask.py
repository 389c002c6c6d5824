"""Flask: the same responses through WSGI. The server joins headers and decodes paths before the app gets them."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Blueprint, Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from tests.client.web.fake_server import PROXY, ask_wsgi, attested, bearer, environ
from tkdb import errors
from tkdb.attestation import Verifier
from tkdb.macaroon.caveats import Act, Ip, Req, Src
from tkdb_client import Access, Client, Policy
from tkdb_client.flask import Rejection, Tokens, Verified
from tkdb_client.testing import Authority, Down


@pytest.fixture
def client(authority: Authority) -> Client:
    return authority.client(policy=Policy(organization="acme", clock=lambda: 0.0, audience="shop"))


def app_of(tokens: Tokens, *, guarded: bool = True) -> Flask:
    app = Flask("shop")
    if guarded:
        tokens.init_app(app)
    inner = Blueprint("inner", "inner", url_prefix="/inner")

    @app.get("/apps/<path:app_id>")
    @tokens.require(lambda app_id: Access(action="r", resource={"app": app_id}))
    def show(token: Verified, app_id: str) -> str:
        return f"{token.organization} {app_id}"

    @inner.get("/")
    def read() -> str:
        return tokens.cleared(Access(action="r")).organization

    @app.get("/open")
    def opened() -> str:
        return "open"

    @app.get("/broken")
    @tokens.require(lambda: 1 // 0)  # type: ignore[arg-type, return-value]  # The error of the app is intended.
    def broken(token: Verified) -> str:
        return "in"

    @app.get("/denied-elsewhere")
    def elsewhere() -> str:
        raise errors.RevokedToken("another's")

    app.register_blueprint(inner)
    return app


def test_a_valid_token_is_admitted_and_the_route_gets_its_organization(client: Client, authority: Authority) -> None:
    app = app_of(Tokens(client))
    token = authority.mint("acme", resource={"app": {"shop": "r"}})
    assert ask_wsgi(app, environ("/apps/shop", bearer(token))).body == b"acme shop"
    got = ask_wsgi(app, environ("/apps/blog", bearer(token)))
    assert (got.status, got.problem["reason"]) == (403, "caveat unmet")
    assert 'error="insufficient_scope"' in got.challenge
    got = ask_wsgi(app, environ("/apps/shop"))
    assert (got.status, got.challenge) == (401, 'Bearer realm="tkdb"')
    assert ask_wsgi(app, environ("/inner/")).status == 401
    assert ask_wsgi(app, environ("/inner/", bearer(authority.mint("acme")))).body == b"acme"
    assert ask_wsgi(app, environ("/open")).body == b"open"


def test_a_closed_app_rejects_every_request_even_for_unknown_paths(client: Client, authority: Authority) -> None:
    tokens = Tokens(
        client,
        access=lambda: Access(action="r"),
        exempt=lambda: request.method == "OPTIONS" or request.path == "/open",
    )
    app = app_of(tokens)
    assert [ask_wsgi(app, environ(path)).status for path in ("/inner/", "/nowhere", "/open")] == [401, 401, 200]
    assert ask_wsgi(app, environ("/inner/", method="OPTIONS")).status == 200
    assert ask_wsgi(app, environ("/nowhere", bearer(authority.mint("acme", action="r")))).status == 404
    assert ask_wsgi(app, environ("/nowhere", bearer(authority.mint("acme", action="w")))).status == 403


def test_two_authorization_headers_that_the_server_joined_are_malformed(client: Client, authority: Authority) -> None:
    token = authority.mint("acme")
    got = ask_wsgi(app_of(Tokens(client)), environ("/inner/", bearer(token), bearer(token)))
    assert (got.status, got.problem["type"]) == (400, "urn:tkdb:problem:bad-header")


def test_an_unavailable_authority_is_a_503(client: Client, authority: Authority) -> None:
    token = authority.mint("acme")
    with authority.faulty(Down()):
        got = ask_wsgi(app_of(Tokens(client)), environ("/inner/", bearer(token)))
    assert (got.status, got.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/apps/shop", {}, 200),
        ("/apps/shop?x=1", {"PATH_INFO": "/apps/shop"}, 200),
        ("/apps/shop", {"RAW_URI": "", "REQUEST_URI": "/apps/shop"}, 200),
        ("/v2/apps/shop", {"SCRIPT_NAME": "/v2", "PATH_INFO": "/apps/shop"}, 403),
        ("/apps/shop", {"RAW_URI": ""}, 403),
        ("/apps/a%2fb", {}, 403),
        ("/apps/shop", {"RAW_URI": "/apps/blog"}, 403),
        ("/apps/shop", {"RAW_URI": "http://app.test/apps/shop"}, 403),
        ("/apps/%2e%2e", {"PATH_INFO": "/apps/.."}, 403),
    ],
)
def test_a_path_clears_only_if_the_server_passes_it_on_and_routes_by_it(
    client: Client, authority: Authority, path: str, given: dict[str, Any], status: int
) -> None:
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/apps/*",)))
    app = app_of(Tokens(client, access=lambda: Access(action="r")))
    assert ask_wsgi(app, environ(path, bearer(token), **given)).status == status


def test_a_prefix_is_part_of_the_path(client: Client, authority: Authority) -> None:
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/v2/apps/*",)))
    app = app_of(Tokens(client))
    request_ = environ("/v2/apps/shop", bearer(token), SCRIPT_NAME="/v2", PATH_INFO="/apps/shop")
    assert ask_wsgi(app, request_).status == 200


def test_no_header_forges_an_address(client: Client, authority: Authority) -> None:
    app = app_of(Tokens(client))
    token = bearer(authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",))))
    for name in (b"x-forwarded-for", b"fly-client-ip", b"remote-addr"):
        assert ask_wsgi(app, environ("/inner/", token, (name, b"10.0.0.1"))).status == 403
    assert ask_wsgi(app, environ("/inner/", token, REMOTE_ADDR="10.0.0.1")).status == 200


def test_proxy_fix_does_not_turn_a_header_into_an_address(client: Client, authority: Authority) -> None:
    app = app_of(Tokens(client))
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]  # Its documentation assigns it, too.
    token = bearer(authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",))))
    assert ask_wsgi(app, environ("/inner/", token, (b"x-forwarded-for", b"10.0.0.1"))).status == 403
    assert ask_wsgi(app, environ("/inner/", token, REMOTE_ADDR="10.0.0.1")).status == 200


def test_an_attested_caller_clears_once(client: Client, authority: Authority) -> None:
    app = app_of(Tokens(client, attestation=Verifier(PROXY.public_key())))
    token = bearer(authority.mint("acme", Act("r"), Src("acme", "web", None), Ip(("10.0.0.0/8",))))
    headers = attested("1")
    assert ask_wsgi(app, environ("/inner/", token, *headers, REMOTE_ADDR="172.16.1.1")).status == 200
    assert ask_wsgi(app, environ("/inner/", token, *headers, REMOTE_ADDR="172.16.1.1")).status == 403
    assert ask_wsgi(app, environ("/inner/", token, *attested("2"))).status == 403


def test_errors_of_the_app_pass_through_unchanged(client: Client, authority: Authority) -> None:
    app = app_of(Tokens(client))
    app.testing = True  # Errors reach the test.
    token = bearer(authority.mint("acme"))
    with pytest.raises(ZeroDivisionError):
        ask_wsgi(app, environ("/broken", token))
    assert ask_wsgi(app, environ("/broken")).status == 401
    with pytest.raises(errors.RevokedToken):
        ask_wsgi(app, environ("/denied-elsewhere", token))


def test_a_protected_view_without_the_middleware_raises(client: Client, authority: Authority) -> None:
    app = app_of(Tokens(client), guarded=False)
    app.testing = True
    with pytest.raises(errors.ConfigurationError, match="middleware"):
        ask_wsgi(app, environ("/inner/", bearer(authority.mint("acme"))))


def test_an_error_handler_of_the_app_renders_rejections(client: Client) -> None:
    app = app_of(Tokens(client))
    app.register_error_handler(Rejection, lambda rejection: (f"no: {rejection.kind}", rejection.status))
    got = ask_wsgi(app, environ("/inner/"))
    assert (got.status, got.body) == (401, b"no: token-missing")


def test_an_async_client_is_refused_at_startup(authority: Authority) -> None:
    with pytest.raises(errors.ConfigurationError, match="blocks"):
        Tokens(authority.async_client())  # type: ignore[arg-type]  # This is the error under test.
