"""The ASGI middleware, attacked: what gets in, what is said to the rest, and what an app's own errors stay."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.client.web.presenting import PROXY, Got, ask, asking, attested, bearer, scope
from tkdb import errors
from tkdb.attestation import Verifier
from tkdb.macaroon.caveats import Act, Aud, Ip, Req, Src
from tkdb_client import Access, Client
from tkdb_client.asgi import Rejection, TokenMiddleware, cleared
from tkdb_client.testing import Authority, Down, Failing, Stale
from tkdb_client.web.rejection import Answer

READ = Access(action="r")


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The app behind: says who it was told presented the token."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def asks(scope: Any, receive: Any, send: Any) -> None:
    """An app that asks for a reader's token itself."""
    verified = await cleared(scope, READ)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": verified.organization.encode()})


def closed(client: Any, **options: Any) -> TokenMiddleware:
    return TokenMiddleware(hello, client, **{"access": lambda scope: READ, **options})


# --- who gets in ------------------------------------------------------------------------------------------------


def test_a_good_token_gets_in_and_the_route_learns_whose_it_is(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", act="r")
    assert ask(closed(client), scope("/", bearer(token))).body == b"hello"
    assert ask(TokenMiddleware(asks, client), scope("/", bearer(token))).body == b"acme"


@pytest.mark.parametrize("app", [hello, asks])
def test_without_a_token_nobody_gets_in(client: Any, authority: Authority, app: Any) -> None:
    guarded = closed(client) if app is hello else TokenMiddleware(asks, client)
    for headers in ([], [(b"authorization", b"Basic a2ltOmtpbQ==")], [(b"cookie", b"token=x")]):
        got = ask(guarded, scope("/", *headers))
        assert (got.status, got.challenge) == (401, 'Bearer realm="tkdb"')
        assert got.problem["type"] == "urn:tkdb:problem:token-missing"
    assert authority.calls == []


def test_a_route_that_asks_for_nothing_stays_open(client: Any) -> None:
    assert ask(TokenMiddleware(hello, client), scope()).status == 200


def test_a_revoked_token_is_told_so_and_an_unmet_caveat_is_another_status(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", act="w")
    got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.problem["reason"], got.problem["caveat"]) == (403, "caveat unmet", 2)
    assert 'error="insufficient_scope"' in got.challenge
    authority.revoke(token)
    got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.problem["reason"]) == (401, "revoked")
    assert 'error="invalid_token", error_description="revoked: ' in got.challenge


def test_a_token_that_expires_between_two_requests_is_refused(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", expires_in_s=60)
    assert ask(closed(client), scope("/", bearer(token))).status == 200
    authority.clock.advance(61)
    got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.problem["reason"]) == (401, "expired")


def test_a_token_for_another_service_is_refused_by_the_policys_audience(client: Any, authority: Authority) -> None:
    assert ask(closed(client), scope("/", bearer(authority.mint("acme", aud="shop")))).status == 200
    assert ask(closed(client), scope("/", bearer(authority.mint("acme", Aud("billing"))))).status == 403


def test_no_answer_shows_a_tokens_bytes(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", act="w")
    for text in (
        token.text,
        token.text[:-4],
        token.text[:-1] + "!",
        "Bearer " + token.text,
        token.text + "," + token.text,
    ):
        got = ask(closed(client), scope("/", bearer(text)))
        assert got.status in {400, 401, 403}
        said = repr(got.messages)
        assert token.text[5:25] not in said
        assert token.text[-12:] not in said


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
def test_smuggled_headers_are_malformed_even_with_a_good_token_among_them(
    client: Any, authority: Authority, headers: list[tuple[bytes, bytes]]
) -> None:
    text = authority.mint("acme", act="r").text.encode()
    got = ask(closed(client), scope("/", *((name, value.replace(b"{}", text)) for name, value in headers)))
    assert got.status == 400
    assert 'error="invalid_request"' in got.challenge
    assert authority.calls == []


def test_a_megabyte_of_header_is_refused_without_asking_anyone(client: Any, authority: Authority) -> None:
    got = ask(closed(client), scope("/", bearer("a" * 1_000_000)))
    assert (got.status, got.problem["reason"]) == (401, "over limit")
    assert authority.calls == []


def test_a_token_in_the_query_is_not_looked_for(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", act="r")
    query = f"access_token={token.text}".encode()
    assert ask(closed(client), scope("/", query_string=query)).status == 401


# --- when the authority can't say -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Down(), Stale(), Failing(errors.Overloaded("busy", retry_after_ms=7_000))])
def test_an_authority_that_can_not_say_is_503_and_lets_nobody_in(client: Any, authority: Authority, fault: Any) -> None:
    token = authority.mint("acme", act="r")
    with authority.faulty(fault):
        got = ask(closed(client), scope("/", bearer(token)))
    assert (got.status, got.headers["retry-after"]) == (503, "7" if isinstance(fault, Failing) else "1")
    assert got.problem["type"] == "urn:tkdb:problem:unavailable"


def test_what_is_wrong_with_the_app_itself_is_no_answer_to_the_caller(authority: Authority) -> None:
    token = authority.mint("acme", act="r")
    client = authority.client()
    client.close()
    with pytest.raises(errors.ConfigurationError, match="closed"):
        ask(closed(client), scope("/", bearer(token)))


def test_a_token_that_a_blocking_client_knows_takes_no_thread(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with authority.client() as client:
        app, token = closed(client), authority.mint("acme", act="r")
        assert ask(app, scope("/", bearer(token))).status == 200
        with monkeypatch.context() as threadless:
            threadless.delattr(asyncio, "to_thread")
            assert ask(app, scope("/", bearer(token))).status == 200
            authority.revoke(token)
            with pytest.raises(AttributeError, match="to_thread"):  # what isn't known any more is asked for
                ask(app, scope("/", bearer(token)))
        assert ask(app, scope("/", bearer(token))).status == 401


def test_a_blocking_client_does_not_block_the_loop(authority: Authority) -> None:
    token = authority.mint("acme", act="r")

    class Held(Client):
        """Answers only once the loop has gone on."""

        def verify(self, token: Any) -> Any:
            went_on.result(30)
            return super().verify(token)

    client = authority.client()
    client.__class__ = type("HeldInProcess", (Held, type(client)), {})

    async def both() -> Got:
        verifying = asyncio.create_task(asking(closed(client), scope("/", bearer(token))))
        await asyncio.sleep(0)
        went_on.set_result(None)
        return await verifying

    went_on: Future[None] = Future()
    assert asyncio.run(both()).status == 200


# --- what clears from the request itself ------------------------------------------------------------------------


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
def test_a_path_that_was_rewritten_on_the_way_is_not_known(client: Any, authority: Authority, rewritten: Any) -> None:
    token = authority.mint("acme", Act("r"), Req(("*",), ("/v1/apps/*",)))
    assert ask(closed(client), scope("/v1/apps/shop", bearer(token))).status == 200
    got = ask(closed(client), scope("/v1/apps/shop", bearer(token), **rewritten))
    assert (got.status, got.problem["reason"]) == (403, "caveat unmet")


@pytest.mark.parametrize("path", ["/v1/apps/shop", "/apps/shop"])
def test_a_mounted_app_sees_the_whole_path_whichever_way_its_server_tells_it(
    client: Any, authority: Authority, path: str
) -> None:
    token = authority.mint("acme", Act("r"), Req(("GET",), ("/v1/apps/*",)))
    request = scope("/v1/apps/shop", bearer(token), root_path="/v1", path=path)
    assert ask(closed(client), request).status == 200


def test_head_and_options_are_methods_of_their_own(client: Any, authority: Authority) -> None:
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
def test_no_header_makes_up_an_address(client: Any, authority: Authority, forged: list[tuple[bytes, bytes]]) -> None:
    inside = authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",)))
    assert ask(closed(client), scope("/", bearer(inside), client=("10.0.0.1", 4000))).status == 200
    assert ask(closed(client), scope("/", bearer(inside), *forged)).status == 403
    # A server that believes such a header has put its word in the peer's place.
    assert ask(closed(client), scope("/", bearer(inside), *forged, client=("10.0.0.1", 4000))).status == 403
    assert ask(closed(client), scope("/", bearer(inside), client=None)).status == 403


@pytest.mark.parametrize("caveat", [Src("acme", "web", None), Ip(("10.0.0.0/8",))])
def test_an_attested_caller_clears_once_by_address_and_source(client: Any, authority: Authority, caveat: Any) -> None:
    token = bearer(authority.mint("acme", Act("r"), caveat))
    app = closed(client, attestation=Verifier(PROXY.public_key()))
    proxy = ("172.16.1.1", 4000)
    headers = attested("1")
    assert ask(app, scope("/", token, *headers, client=proxy)).status == 200
    assert ask(app, scope("/", token, *headers, client=proxy)).status == 403, "the same attestation, replayed"
    other = attested("2")
    assert ask(app, scope("/", token, *other, client=("203.0.113.7", 4000))).status == 403, "past the proxy"
    forged = attested("3", key=Ed25519PrivateKey.from_private_bytes(b"f" * 32))
    assert ask(app, scope("/", token, *forged, client=proxy)).status == 403, "not the proxy's signature"
    assert ask(app, scope("/", token, headers[3], client=proxy)).status == 403, "an address that nobody attests"
    assert ask(closed(client), scope("/", token, *attested("4"), client=proxy)).status == 403, "no verifier"


@pytest.mark.parametrize("ip", [b"10.0.0.1, 10.0.0.2", b"", b"localhost"])
def test_an_address_that_is_not_one_is_not_known(client: Any, authority: Authority, ip: bytes) -> None:
    token = bearer(authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",))))
    app = closed(client, attestation=Verifier(PROXY.public_key()))
    headers = attested("1")
    bad = [*headers[:3], (b"fly-client-ip", ip)]
    assert ask(app, scope("/", token, *bad, client=("172.16.1.1", 4000))).status == 403
    twice = [*attested("2"), headers[3]]
    assert ask(app, scope("/", token, *twice, client=("172.16.1.1", 4000))).status == 403


def test_a_request_that_passes_two_gates_is_attested_at_both(client: Any, authority: Authority) -> None:
    verifier = Verifier(PROXY.public_key())
    token = bearer(authority.mint("acme", Act("r"), Src("acme", "web", None)))
    app = closed(client, attestation=verifier)
    nested = TokenMiddleware(app, client, access=lambda scope: READ, attestation=verifier)
    assert ask(nested, scope("/", token, *attested("1"), client=("172.16.1.1", 4000))).status == 200
    # A gate that verifies nothing passes on nothing: the inner one asks for itself.
    nested = TokenMiddleware(app, client)
    assert ask(nested, scope("/", token, *attested("2"), client=("172.16.1.1", 4000))).status == 200


def test_what_the_app_says_of_a_request_counts_before_what_is_known_of_it(client: Any, authority: Authority) -> None:
    token = bearer(authority.mint("acme", Act("r"), Req(("GET",), ("/inner",))))
    app = closed(client, access=lambda scope: Access(action="r", path="/inner"))
    assert ask(app, scope("/outer", token)).status == 200


# --- the app's own errors ---------------------------------------------------------------------------------------


def test_required_without_the_middleware_is_the_apps_error_and_never_open() -> None:
    with pytest.raises(errors.ConfigurationError, match="middleware"):
        ask(asks, scope())


def test_an_access_function_that_raises_lets_nobody_in(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", act="r")
    with pytest.raises(ZeroDivisionError):
        ask(closed(client, access=lambda scope: 1 // 0), scope("/", bearer(token)))
    assert ask(closed(client, access=lambda scope: 1 // 0), scope()).status == 401, "and strangers never get to it"


@pytest.mark.parametrize(
    "error", [errors.RevokedToken("another's"), errors.Unavailable("another's"), PermissionError("the app's")]
)
def test_an_error_of_the_app_stays_its_own(client: Any, authority: Authority, error: Exception) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    with pytest.raises(type(error)):
        ask(
            TokenMiddleware(app, client, access=lambda scope: READ), scope("/", bearer(authority.mint("acme", act="r")))
        )


def test_an_answer_that_has_begun_is_not_begun_again(client: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await cleared(scope, READ)

    with pytest.raises(Rejection):
        ask(TokenMiddleware(app, client), scope())


def test_a_mounted_app_that_takes_a_rejection_for_a_crash_is_corrected(client: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        """As Starlette's ServerErrorMiddleware: answers 500, then raises again."""
        try:
            await cleared(scope, READ)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"oops"})
            raise

    got = ask(TokenMiddleware(app, client), scope())
    assert (got.status, len(got.messages)) == (401, 2)


def test_a_crash_of_the_app_is_passed_on_as_it_is(client: Any) -> None:
    async def crashes(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"oops"})
        if scope["path"] == "/raises":
            raise ZeroDivisionError

    assert ask(TokenMiddleware(crashes, client), scope("/")).body == b"oops"
    with pytest.raises(ZeroDivisionError):
        ask(TokenMiddleware(crashes, client), scope("/raises"))


def test_an_app_that_makes_a_token_optional_keeps_its_own_crash(client: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await cleared(scope, READ)
        except Rejection:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"own"})

    got = ask(TokenMiddleware(app, client), scope())
    assert (got.status, got.body) == (500, b"own")


def test_an_app_renders_rejections_itself(client: Any) -> None:
    def page(rejection: Rejection) -> Answer:
        return Answer(rejection.status, (("content-type", "text/html"),), b"<h1>no</h1>")

    got = ask(closed(client, render=page), scope())
    assert (got.status, got.headers["content-type"], got.body) == (401, "text/html", b"<h1>no</h1>")


# --- what isn't a plain request ---------------------------------------------------------------------------------


def test_a_preflight_is_exempt_where_the_app_says_so(client: Any) -> None:
    app = closed(client, exempt=lambda scope: scope.get("method") == "OPTIONS")
    assert ask(app, scope("/", method="OPTIONS")).status == 200
    assert ask(app, scope("/", method="GET")).status == 401
    assert ask(closed(client), scope("/", method="OPTIONS")).status == 401


def test_what_is_exempt_from_the_middleware_is_not_exempt_from_the_route(client: Any) -> None:
    app = TokenMiddleware(asks, client, access=lambda scope: READ, exempt=lambda scope: True)
    assert ask(app, scope()).status == 401


def test_the_lifespan_passes_through(client: Any) -> None:
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
    assert ask(closed(client), scope("/", bearer(authority.mint("acme", act="r")), kind="websocket")).body == b"hello"


def test_a_websocket_that_asks_again_is_closed_once_its_token_is_revoked(client: Any, authority: Authority) -> None:
    token = authority.mint("acme", act="r")

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


def test_who_stands_further_out_sees_what_routing_has_found(client: Any) -> None:
    async def routes(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = "/apps/{app_id}"
        await hello(scope, receive, send)

    request = scope("/")
    before = set(request)
    ask(TokenMiddleware(routes, client), request)
    assert set(request) - before == {"route", "tkdb.visit"}
