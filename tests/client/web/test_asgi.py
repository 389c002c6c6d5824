"""The ASGI middleware under attack: admitted requests, rejections, and errors of the app."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.client.web.fake_server import PROXY, Response, ask, ask_async, attested, bearer, scope
from tkdb import errors
from tkdb.attestation import Verifier
from tkdb.macaroon.caveats import Act, Aud, Ip, Req, Src
from tkdb_client import Access, Client
from tkdb_client.asgi import Rejection, TokenMiddleware, cleared, cleared_if_presented
from tkdb_client.testing import Authority, Down, Failing, Stale
from tkdb_client.web.rejection import Answer

READ = Access(organization="acme", action="r")


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The app behind the middleware."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def asks(scope: Any, receive: Any, send: Any) -> None:
    """An app that requires a token for reading."""
    verified = await cleared(scope, READ)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": verified.organization.encode()})


def closed(client: Any, **options: Any) -> TokenMiddleware:
    return TokenMiddleware(hello, client, **{"access": lambda scope: READ, **options})


# --- admission --------------------------------------------------------------------------------------------------


def test_a_valid_token_is_admitted_and_the_route_gets_its_organization(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", action="r")
    assert ask(closed(client), scope("/", bearer(token))).body == b"hello"
    assert ask(TokenMiddleware(asks, client), scope("/", bearer(token))).body == b"acme"


@pytest.mark.parametrize("app", [hello, asks])
def test_a_request_without_a_token_is_rejected(client: Any, authority: Authority, app: Any) -> None:
    guarded = closed(client) if app is hello else TokenMiddleware(asks, client)
    for headers in ([], [(b"authorization", b"Basic a2ltOmtpbQ==")], [(b"cookie", b"token=x")]):
        got = ask(guarded, scope("/", *headers))
        assert (got.status, got.challenge) == (401, 'Bearer realm="tkdb"')
        assert got.problem["type"] == "urn:tkdb:problem:token-missing"
    assert authority.calls == []


def test_a_route_without_a_requirement_stays_open(client: Any) -> None:
    assert ask(TokenMiddleware(hello, client), scope()).status == 200


def test_a_revoked_token_is_a_401_and_an_unmet_caveat_is_a_403(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", action="w")
    got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.problem["reason"], got.problem["caveat"]) == (403, "caveat unmet", 2)
    assert 'error="insufficient_scope"' in got.challenge
    authority.revoke(token)
    got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.problem["reason"]) == (401, "revoked")
    assert 'error="invalid_token", error_description="revoked: ' in got.challenge


def test_a_token_that_expires_between_two_requests_is_denied(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", expires_in_s=60)
    assert ask(closed(client), scope("/", bearer(token))).status == 200
    authority.clock.advance(61)
    got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.problem["reason"]) == (401, "expired")


def test_a_token_for_another_service_is_denied_by_the_policys_audience(client: Any, authority: Authority) -> None:
    assert ask(closed(client), scope("/", bearer(authority.mint("acme", audience="shop")))).status == 200
    assert ask(closed(client), scope("/", bearer(authority.mint("acme", Aud("billing"))))).status == 403


def test_no_answer_shows_a_tokens_bytes(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", action="w")
    for text in (
        token.text,
        token.text[:-4],
        token.text[:-1] + "!",
        "Bearer " + token.text,
        token.text + "," + token.text,
    ):
        got = ask(closed(client), scope("/", bearer(text)))
        assert got.status in {400, 401, 403}
        shown = repr(got.messages)
        assert token.text[5:25] not in shown
        assert token.text[-12:] not in shown


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer {}"), (b"authorization", b"Bearer {}")],
        [(b"authorization", b"Bearer {}"), (b"Authorization", b"Bearer x")],
        [(b"authorization", b"Bearer x, Bearer {}")],
        [(b"authorization", b"Bearer {}\x00")],
        [(b"authorization", b"Bearer \xc3\xa9{}")],
    ],
)
def test_smuggled_headers_are_malformed_even_if_one_has_a_valid_token(
    client: Any, authority: Authority, headers: list[tuple[bytes, bytes]]
) -> None:
    text = authority.mint("acme", action="r").text.encode()
    got = ask(closed(client), scope("/", *((name, value.replace(b"{}", text)) for name, value in headers)))
    assert got.status == 400
    assert 'error="invalid_request"' in got.challenge
    assert authority.calls == []


def test_a_header_of_a_megabyte_is_denied_without_a_request(client: Any, authority: Authority) -> None:
    got = ask(closed(client), scope("/", bearer("a" * 1_000_000)))
    assert (got.status, got.problem["reason"]) == (401, "over limit")
    assert authority.calls == []


def test_a_token_in_the_query_is_ignored(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", action="r")
    query = f"access_token={token.text}".encode()
    assert ask(closed(client), scope("/", query_string=query)).status == 401


# --- an unavailable authority -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Down(), Stale(), Failing(errors.Overloaded("busy", retry_after_ms=7_000))])
def test_an_unavailable_authority_is_a_503_and_admits_no_request(client: Any, authority: Authority, fault: Any) -> None:
    token = authority.mint("acme", action="r")
    with authority.faulty(fault):
        got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.headers["retry-after"]) == (503, "7" if isinstance(fault, Failing) else "1")
    assert got.problem["type"] == "urn:tkdb:problem:unavailable"


def test_a_configuration_error_of_the_app_is_raised_and_not_sent_to_the_caller(authority: Authority) -> None:
    token = authority.mint("acme", action="r")
    client = authority.client()
    client.close()
    with pytest.raises(errors.ConfigurationError, match="closed"):
        ask(closed(client), scope("/", bearer(token)))


def test_a_cached_token_of_a_blocking_client_needs_no_thread(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with authority.client() as client:
        app, token = closed(client), authority.mint("acme", action="r")
        assert ask(app, scope("/", bearer(token))).status == 200
        with monkeypatch.context() as threadless:
            threadless.delattr(asyncio, "to_thread")
            assert ask(app, scope("/", bearer(token))).status == 200
            authority.revoke(token)
            with pytest.raises(
                AttributeError, match="to_thread"
            ):  # The token isn't cached any more, so a request is needed.
                ask(app, scope("/", bearer(token)))
        assert ask(app, scope("/", bearer(token))).status == 401


def test_a_blocking_client_does_not_block_the_loop(authority: Authority) -> None:
    token = authority.mint("acme", action="r")

    class Held(Client):
        """Answers only after the loop has continued."""

        def verify(self, token: Any) -> Any:
            went_on.result(30)
            return super().verify(token)

    client = authority.client()
    client.__class__ = type("HeldInProcess", (Held, type(client)), {})

    async def both() -> Response:
        verifying = asyncio.create_task(ask_async(closed(client), scope("/", bearer(token))))
        await asyncio.sleep(0)
        went_on.set_result(None)
        return await verifying

    went_on: Future[None] = Future()
    assert asyncio.run(both()).status == 200


# --- facts from the request -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/apps/shop", 200),
        ("/v1/apps/", 403),
        ("/v1/apps", 403),
        ("/v1/apps/shop/keys", 403),
        ("/v1/apps//shop", 403),
        ("//v1/apps/shop", 403),
        ("/v1/apps/.", 403),
        ("/v1/apps/..", 403),
        ("/v1/admin/../apps/shop", 403),
        ("/v1/apps/%2e%2e", 403),
        ("/v1/apps/a%2fb", 403),
        ("/v1/apps/a%5Cb", 403),
        ("/v1/apps/a%00", 403),
        ("/v1/apps/shop%3Fx", 403),
        ("/v1/apps/shop;x", 200),
        ("/v1/apps/sh%6fp", 200),
        ("http://evil.test/v1/apps/shop", 403),
        ("*", 403),
    ],
)
def test_a_path_glob_is_matched_against_the_path_as_received(
    client: Any, authority: Authority, path: str, status: int
) -> None:
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/v1/apps/*",)))
    assert ask(closed(client), scope(path, bearer(token))).status == status


@pytest.mark.parametrize(
    "rewritten",
    [
        {"raw_path": None},
        {"raw_path": b""},
        {"path": "/v1/admin"},
        {"path": "/v1/apps/a/b", "raw_path": b"/v1/apps/c"},
        {"raw_path": b"/v1/apps/\xe9"},
        {"path": "/apps/shop", "root_path": "/v2"},
    ],
)
def test_a_rewritten_path_is_unknown_and_denies(client: Any, authority: Authority, rewritten: Any) -> None:
    token = authority.mint("acme", Act("r"), Req(("*",), ("/v1/apps/*",)))
    assert ask(closed(client), scope("/v1/apps/shop", bearer(token))).status == 200
    got = ask(closed(client), scope("/v1/apps/shop", bearer(token), **rewritten))
    assert (got.status, got.problem["reason"]) == (403, "caveat unmet")


@pytest.mark.parametrize("path", ["/v1/apps/shop", "/apps/shop"])
def test_a_mounted_app_gets_the_full_path_with_either_server_convention(
    client: Any, authority: Authority, path: str
) -> None:
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/v1/apps/*",)))
    request = scope("/v1/apps/shop", bearer(token), root_path="/v1", path=path)
    assert ask(closed(client), request).status == 200


def test_head_and_options_are_separate_methods(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/**",)))
    statuses = {
        m: ask(closed(client), scope("/x", bearer(token), method=m)).status for m in ("GET", "HEAD", "OPTIONS", "get")
    }
    assert statuses == {"GET": 200, "HEAD": 403, "OPTIONS": 403, "get": 403}


@pytest.mark.parametrize(
    "forged",
    [
        [(b"x-forwarded-for", b"10.0.0.1")],
        [(b"X-Forwarded-For", b"203.0.113.9"), (b"X-Forwarded-For", b"10.0.0.1:4000, 10.0.0.2")],
        [(b"fly-client-ip", b"10.0.0.1")],
        [(b"x-real-ip", b"10.0.0.1"), (b"forwarded", b"for=10.0.0.1")],
    ],
)
def test_no_header_forges_an_address(client: Any, authority: Authority, forged: list[tuple[bytes, bytes]]) -> None:
    inside = authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",)))
    assert ask(closed(client), scope("/", bearer(inside), client=("10.0.0.1", 4000))).status == 200
    assert ask(closed(client), scope("/", bearer(inside), *forged)).status == 403
    # A server that trusts such a header replaces the address of the peer.
    assert ask(closed(client), scope("/", bearer(inside), *forged, client=("10.0.0.1", 4000))).status == 403
    assert ask(closed(client), scope("/", bearer(inside), client=None)).status == 403


@pytest.mark.parametrize("caveat", [Src("acme", "web", None), Ip(("10.0.0.0/8",))])
def test_an_attested_caller_clears_once_by_address_and_source(client: Any, authority: Authority, caveat: Any) -> None:
    token = bearer(authority.mint("acme", Act("r"), caveat))
    app = closed(client, attestation=Verifier(PROXY.public_key()))
    proxy = ("172.16.1.1", 4000)
    headers = attested("1")
    assert ask(app, scope("/", token, *headers, client=proxy)).status == 200
    assert ask(app, scope("/", token, *headers, client=proxy)).status == 403, "a replayed attestation must not clear"
    other = attested("2")
    assert ask(app, scope("/", token, *other, client=("203.0.113.7", 4000))).status == 403, (
        "an attestation must not clear without the proxy's address"
    )
    forged = attested("3", key=Ed25519PrivateKey.from_private_bytes(b"f" * 32))
    assert ask(app, scope("/", token, *forged, client=proxy)).status == 403, (
        "another signature than the proxy's must not clear"
    )
    assert ask(app, scope("/", token, headers[3], client=proxy)).status == 403, (
        "an address without an attestation must not clear"
    )
    assert ask(closed(client), scope("/", token, *attested("4"), client=proxy)).status == 403, (
        "an attestation must not clear without a verifier"
    )


@pytest.mark.parametrize("ip", [b"10.0.0.1, 10.0.0.2", b"", b"localhost"])
def test_an_invalid_attested_address_is_unknown_and_denies(client: Any, authority: Authority, ip: bytes) -> None:
    token = bearer(authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",))))
    app = closed(client, attestation=Verifier(PROXY.public_key()))
    headers = attested("1")
    bad = [*headers[:3], (b"fly-client-ip", ip)]
    assert ask(app, scope("/", token, *bad, client=("172.16.1.1", 4000))).status == 403
    twice = [*attested("2"), headers[3]]
    assert ask(app, scope("/", token, *twice, client=("172.16.1.1", 4000))).status == 403


def test_a_request_through_two_middlewares_is_attested_in_both(client: Any, authority: Authority) -> None:
    verifier = Verifier(PROXY.public_key())
    token = bearer(authority.mint("acme", Act("r"), Src("acme", "web", None)))
    app = closed(client, attestation=verifier)
    nested = TokenMiddleware(app, client, access=lambda scope: READ, attestation=verifier)
    assert ask(nested, scope("/", token, *attested("1"), client=("172.16.1.1", 4000))).status == 200
    # The outer middleware has no verifier and passes on no attestation, so the inner one must verify it.
    nested = TokenMiddleware(app, client)
    assert ask(nested, scope("/", token, *attested("2"), client=("172.16.1.1", 4000))).status == 200


def test_facts_from_the_app_override_facts_from_the_request(client: Any, authority: Authority) -> None:
    token = bearer(authority.mint("acme", Act("r"), Req(("GET",), ("/inner",))))
    app = closed(client, access=lambda scope: Access(action="r", path="/inner"))
    assert ask(app, scope("/outer", token)).status == 200


# --- errors of the app ------------------------------------------------------------------------------------------


def test_a_requirement_without_the_middleware_raises_and_is_never_open() -> None:
    with pytest.raises(errors.ConfigurationError, match="middleware"):
        ask(asks, scope())


def test_an_access_function_that_raises_admits_no_request(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", action="r")
    with pytest.raises(ZeroDivisionError):
        ask(closed(client, access=lambda scope: 1 // 0), scope("/", bearer(token)))
    assert ask(closed(client, access=lambda scope: 1 // 0), scope()).status == 401, (
        "a caller without a token must be rejected first"
    )


@pytest.mark.parametrize(
    "error", [errors.RevokedToken("another's"), errors.Unavailable("another's"), PermissionError("the app's")]
)
def test_an_error_of_the_app_passes_through_unchanged(client: Any, authority: Authority, error: Exception) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    with pytest.raises(type(error)):
        ask(
            TokenMiddleware(app, client, access=lambda scope: READ),
            scope("/", bearer(authority.mint("acme", action="r"))),
        )


def test_a_response_that_has_started_is_not_started_again(client: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await cleared(scope, READ)

    with pytest.raises(Rejection):
        ask(TokenMiddleware(app, client), scope())


def test_a_rejection_replaces_the_500_of_a_mounted_app(client: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Answers 500, then raises again, like Starlette's ServerErrorMiddleware."""
        try:
            await cleared(scope, READ)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"oops"})
            raise

    got = ask(TokenMiddleware(app, client), scope())
    assert (got.status, len(got.messages)) == (401, 2)


def test_a_crash_of_the_app_passes_through_unchanged(client: Any) -> None:
    async def crashes(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"oops"})
        if scope["path"] == "/raises":
            raise ZeroDivisionError

    assert ask(TokenMiddleware(crashes, client), scope("/")).body == b"oops"
    with pytest.raises(ZeroDivisionError):
        ask(TokenMiddleware(crashes, client), scope("/raises"))


def test_an_app_with_an_optional_token_keeps_its_500(client: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await cleared_if_presented(scope, READ) is None
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"own"})

    got = ask(TokenMiddleware(app, client), scope())
    assert (got.status, got.body) == (500, b"own")


def test_an_app_can_render_rejections(client: Any) -> None:
    def page(rejection: Rejection) -> Answer:
        return Answer(rejection.status, (("content-type", "text/html"),), b"<h1>no</h1>")

    got = ask(closed(client, render=page), scope())
    assert (got.status, got.headers["content-type"], got.body) == (401, "text/html", b"<h1>no</h1>")


# --- preflights, exemptions, lifespan and WebSockets ------------------------------------------------------------


def test_a_preflight_is_exempt_only_if_the_app_exempts_it(client: Any) -> None:
    app = closed(client, exempt=lambda scope: scope.get("method") == "OPTIONS")
    assert ask(app, scope("/", method="OPTIONS")).status == 200
    assert ask(app, scope("/", method="GET")).status == 401
    assert ask(closed(client), scope("/", method="OPTIONS")).status == 401


def test_an_exemption_from_the_middleware_does_not_exempt_the_route(client: Any) -> None:
    app = TokenMiddleware(asks, client, access=lambda scope: READ, exempt=lambda scope: True)
    assert ask(app, scope()).status == 401


def test_lifespan_events_pass_through(client: Any) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    ask(TokenMiddleware(app, client, access=lambda scope: READ), {"type": "lifespan"})
    assert seen == ["lifespan"]


def test_a_websocket_is_denied_before_it_is_accepted(client: Any, authority: Authority) -> None:
    handshake = scope("/", kind="websocket")
    (message,) = ask(closed(client), handshake).messages
    assert (message["type"], message["code"]) == ("websocket.close", 1008)
    got = ask(closed(client), {**handshake, "extensions": {"websocket.http.response": {}}})
    assert [message["type"] for message in got.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (got.status, got.problem["status"]) == (401, 401)
    assert (
        ask(closed(client), scope("/", bearer(authority.mint("acme", action="r")), kind="websocket")).body == b"hello"
    )


def test_a_websocket_that_clears_again_is_closed_after_a_revocation(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", action="r")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await cleared(scope, READ)
        await send({"type": "websocket.accept"})
        authority.revoke(token)
        await cleared(scope, READ)

    request = scope("/", bearer(token), kind="websocket", extensions={"websocket.http.response": {}})
    got = ask(TokenMiddleware(app, client), request)
    assert [message["type"] for message in got.messages] == ["websocket.accept", "websocket.close"]
    assert got.messages[1]["code"] == 1008


def test_a_websockets_handshake_clears_as_a_get(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/live",)))
    assert ask(closed(client), scope("/live", bearer(token), kind="websocket")).body == b"hello"


def test_an_outer_middleware_sees_the_matched_route(client: Any) -> None:
    async def routes(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = "/apps/{app_id}"
        await hello(scope, receive, send)

    request = scope("/")
    before = set(request)
    ask(TokenMiddleware(routes, client), request)
    assert set(request) - before == {"route", "tkdb.visit"}
