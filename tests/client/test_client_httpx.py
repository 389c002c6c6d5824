"""httpx sends each request with a token narrowed to it, to one origin only, and renews the token in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import flask
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from werkzeug.serving import make_server

from tkdb import errors
from tkdb.macaroon.caveats import Aud, Exp, Req
from tkdb.macaroon.token import Macaroon
from tkdb_client import Access, AsyncClient, Client, Policy
from tkdb_client.asgi import TokenMiddleware, cleared
from tkdb_client.flask import Tokens
from tkdb_client.httpx import TokenAuth
from tkdb_client.testing import Authority, Down

ORIGIN = "https://billing.internal"
POLICY = Policy(organization="acme", audience="billing")


@pytest.fixture
def authority() -> Iterator[Authority]:
    with Authority() as authority:
        yield authority


@pytest.fixture
def tkdb(authority: Authority) -> Client:
    return authority.client(signer=authority.signer)


@pytest.fixture
def billing(authority: Authority) -> Iterator[str]:
    """A service on a loopback port, whose every route demands a cleared token."""
    app = flask.Flask("billing")
    Tokens(authority.client(policy=POLICY), access=lambda: Access(action="r")).init_app(app)
    app.route("/<path:rest>", methods=["GET", "PUT"])(lambda rest: rest)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


class Sent:
    """A transport that keeps the requests that were sent, and answers as it is told."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response] = lambda _: httpx.Response(200)) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer
        self.transport = httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)

    @property
    def tokens(self) -> list[Macaroon]:
        return [Macaroon.parse(each.headers["authorization"].removeprefix("Bearer ")) for each in self.requests]


def get(auth: TokenAuth, url: str, sent: Sent, **settings: Any) -> httpx.Response:
    with httpx.Client(auth=auth, transport=sent.transport, **settings) as client:
        return client.get(url)


def test_a_request_is_accepted_and_its_token_allows_nothing_else(
    tkdb: Client, authority: Authority, billing: str
) -> None:
    token, taken = authority.mint("acme"), []
    with httpx.Client(auth=TokenAuth(tkdb, token, audience="billing", origin=billing)) as client:
        answer = client.get(f"{billing}/invoices/5?page=2")
        assert (answer.status_code, answer.text) == (200, "invoices/5")
        taken.append(answer.request.headers["authorization"])
        assert client.put(f"{billing}/invoices/5").status_code == 200
    stolen = {"authorization": taken[0]}
    assert httpx.get(f"{billing}/invoices/5", headers=stolen).status_code == 200
    assert httpx.get(f"{billing}/invoices/6", headers=stolen).status_code == 403
    assert httpx.put(f"{billing}/invoices/5", headers=stolen).status_code == 403
    authority.clock.advance(76)
    assert httpx.get(f"{billing}/invoices/5", headers=stolen).status_code == 401
    # The negative control: the token that wasn't narrowed allows all of it.
    whole = {"authorization": f"Bearer {token.text}"}
    assert httpx.put(f"{billing}/invoices/6", headers=whole).status_code == 200


def test_the_asynchronous_client_sends_narrowed_tokens_too(authority: Authority) -> None:
    async def show(request: Request) -> PlainTextResponse:
        await cleared(request, Access(action="r"))
        return PlainTextResponse("shown")

    app = Starlette(
        routes=[Route("/invoices/{number}", show)],
        middleware=[Middleware(TokenMiddleware, client=authority.async_client(policy=POLICY))],
    )

    async def run() -> None:
        tkdb = authority.async_client(signer=authority.signer)
        auth = TokenAuth(tkdb, lambda: tkdb.mint("acme"), audience="billing", origin=ORIGIN)
        async with httpx.AsyncClient(auth=auth, transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
            answers = await asyncio.gather(*(client.get(f"/invoices/{number % 3}") for number in range(6)))
            assert [each.status_code for each in answers] == [200] * 6
            token = answers[0].request.headers["authorization"]
            stolen = await client.get("/invoices/9", headers={"authorization": token}, auth=None)
            assert stolen.status_code == 403

    asyncio.run(run())


def test_a_token_names_the_audience_the_method_the_path_and_a_minute(tkdb: Client, authority: Authority) -> None:
    sent, token = Sent(), authority.mint("acme")
    auth = TokenAuth(tkdb, token, audience="billing", origin=ORIGIN, expires_in_s=timedelta(minutes=1))
    get(auth, f"{ORIGIN}/a%2Fb/c?q=1", sent)
    *_, audience, request, expiry = sent.tokens[0].caveats
    assert (audience, request) == (Aud("billing"), Req(("GET",), ("/a%2Fb/c",)))
    assert isinstance(expiry, Exp)
    assert 60 <= expiry.at_s - authority.clock.now_s() <= 75


def test_equal_requests_within_a_short_time_send_the_same_token(tkdb: Client, authority: Authority) -> None:
    sent = Sent()
    auth = TokenAuth(
        tkdb, authority.mint("acme").text, audience="billing", origin=ORIGIN, path=lambda path: path[:2] + "/*"
    )
    for number in range(3):
        get(auth, f"{ORIGIN}/a/{number}", sent)
    assert len({each.raw for each in sent.tokens}) == 1
    assert Req(("GET",), ("/a/*",)) in sent.tokens[0].caveats


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/invoices",
        "http://billing.internal/invoices",
        "https://billing.internal:8443/invoices",
        "https://billing.internal.evil.example/invoices",
        "https://billing.internal@evil.example/invoices",
    ],
)
def test_a_request_to_another_origin_is_never_sent(url: str, tkdb: Client, authority: Authority) -> None:
    sent = Sent()
    auth = TokenAuth(tkdb, authority.mint("acme"), audience="billing", origin=ORIGIN)
    with pytest.raises(errors.ConfigurationError, match=r"^the token is for https://billing\.internal, and"):
        get(auth, url, sent)
    assert sent.requests == []


def test_another_spelling_of_the_origin_is_the_same_origin(tkdb: Client, authority: Authority) -> None:
    sent = Sent()
    auth = TokenAuth(tkdb, authority.mint("acme"), audience="billing", origin="HTTPS://Billing.internal:443/")
    get(auth, f"{ORIGIN}/x", sent)
    assert len(sent.requests) == 1


def test_a_redirect_to_another_origin_gets_no_token(tkdb: Client, authority: Authority) -> None:
    sent = Sent(
        lambda request: (
            httpx.Response(302, headers={"location": "https://evil.example/"})
            if request.url.host == "billing.internal"
            else httpx.Response(200)
        )
    )
    auth = TokenAuth(tkdb, authority.mint("acme"), audience="billing", origin=ORIGIN)
    get(auth, f"{ORIGIN}/x", sent, follow_redirects=True)
    assert [("authorization" in each.headers, each.url.host) for each in sent.requests] == [
        (True, "billing.internal"),
        (False, "evil.example"),
    ]


def test_a_path_that_no_exact_glob_names_is_refused(tkdb: Client, authority: Authority) -> None:
    sent = Sent()
    auth = TokenAuth(tkdb, authority.mint("acme"), audience="billing", origin=ORIGIN)
    for path in ("/a/*", "/**", "/a//b"):
        with pytest.raises((errors.ConfigurationError, errors.InvalidCaveat), match=r"^path="):
            get(auth, ORIGIN + path, sent)
    assert sent.requests == []


# --- renewal ----------------------------------------------------------------------------------------------------


class Source:
    """A function that mints, and counts."""

    def __init__(self, authority: Authority, expires_in_s: int = 3600) -> None:
        self.count = 0
        self._mint = lambda: authority.client(signer=authority.signer, timeout_ms=200).mint(
            "acme", expires_in_s=expires_in_s
        )

    def __call__(self) -> Macaroon:
        self.count += 1
        return self._mint()


def test_a_token_is_fetched_once_and_again_before_it_ends(tkdb: Client, authority: Authority) -> None:
    sent, source = Sent(), Source(authority)
    auth = TokenAuth(tkdb, source, audience="billing", origin=ORIGIN)
    for after_s, count in ((0, 1), (3_000, 1), (479, 1), (2, 2), (3_000, 2), (10_000, 3)):
        authority.clock.advance(after_s)
        get(auth, f"{ORIGIN}/x", sent)
        assert source.count == count
    for token, request in zip(sent.tokens, sent.requests, strict=True):
        assert len([each for each in token.caveats if isinstance(each, Exp)]) == 2, request


def test_a_short_lived_token_is_not_fetched_for_each_request(tkdb: Client, authority: Authority) -> None:
    sent, source = Sent(), Source(authority, expires_in_s=40)
    auth = TokenAuth(tkdb, source, audience="billing", origin=ORIGIN)
    for after_s, count in ((0, 1), (10, 1), (19, 1), (2, 2)):
        authority.clock.advance(after_s)
        get(auth, f"{ORIGIN}/x", sent)
        assert source.count == count


def test_while_the_authority_is_down_the_old_token_is_used_until_it_ends(tkdb: Client, authority: Authority) -> None:
    sent, source = Sent(), Source(authority)
    auth = TokenAuth(tkdb, source, audience="billing", origin=ORIGIN)
    get(auth, f"{ORIGIN}/x", sent)
    authority.clock.advance(3_500)
    with authority.faulty(Down()):
        for _ in range(5):
            get(auth, f"{ORIGIN}/x", sent)
        assert source.count == 2, "a failed renewal isn't repeated at once"
        authority.clock.advance(200)
        with pytest.raises(errors.Unavailable):
            get(auth, f"{ORIGIN}/x", sent)
    get(auth, f"{ORIGIN}/x", sent)
    assert len(sent.requests) == 7


def test_while_one_request_renews_the_others_use_the_old_token(tkdb: Client, authority: Authority) -> None:
    entered, release, minted = threading.Event(), threading.Event(), [authority.mint("acme", expires_in_s=3600)]

    def slow() -> Macaroon:
        if len(minted) > 1:
            entered.set()
            assert release.wait(30)
        minted.append(authority.mint("acme", expires_in_s=3600))
        return minted[-1]

    sent, auth = Sent(), TokenAuth(tkdb, slow, audience="billing", origin=ORIGIN)
    get(auth, f"{ORIGIN}/x", sent)
    authority.clock.advance(3_500)
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(get, auth, f"{ORIGIN}/x", sent)
        assert entered.wait(30)
        get(auth, f"{ORIGIN}/x", sent)  # it doesn't wait
        release.set()
        renewing.result(30)
    assert len(minted) == 3
    assert {each.nonce for each in sent.tokens[:2]} == {minted[1].nonce}
    assert sent.tokens[2].nonce == minted[2].nonce


def test_an_asynchronous_source_needs_an_asynchronous_client(authority: Authority) -> None:
    tkdb = authority.async_client(signer=authority.signer)
    auth = TokenAuth(tkdb, lambda: tkdb.mint("acme"), audience="billing", origin=ORIGIN)
    with pytest.raises(errors.ConfigurationError, match="token is an asynchronous function"):
        get(auth, f"{ORIGIN}/x", Sent())


WRONG: dict[str, tuple[Any, ...]] = {
    "client": (None, "tkdb", AsyncClient),
    "token": (None, 5, b"tkdb_x"),
    "audience": (None, "", 5),
    "origin": (None, "", 5, "billing", "ftp://x", "https://", "https://x/path", "https://user@x", "https://x?q=1"),
    "expires_in_s": (None, 0, "60", -1, 0.5),
    "path": (5, "/x"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_argument_is_named(name: str, value: Any, tkdb: Client, authority: Authority) -> None:
    right = {"client": tkdb, "token": authority.mint("acme"), "audience": "billing", "origin": ORIGIN}
    with pytest.raises(errors.ConfigurationError, match=rf"^{name}( is |=)"):
        TokenAuth(**(right | {name: value}))
