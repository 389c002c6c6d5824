"""Negative controls for the middleware: without a protection, the attack that it prevents succeeds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client.web.fake_server import PROXY, ask, attested, bearer, scope
from tkdb.attestation import Presented, Verifier
from tkdb.macaroon.access import Source
from tkdb.macaroon.caveats import Act, Ip, Req, Src
from tkdb_client import Access
from tkdb_client.asgi import TokenMiddleware, cleared
from tkdb_client.testing import Authority
from tkdb_client.web import facts, gate
from tkdb_client.web.header import bundle_text
from tkdb_client.web.rejection import Rejection

PROXIED = ("172.16.1.1", 4000)


async def answers_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def closed(client: Any, **options: Any) -> TokenMiddleware:
    return TokenMiddleware(answers_ok, client, access=lambda scope: Access(action="r"), **options)


def test_an_escaped_separator_passes_a_check_of_the_decoded_path(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bearer(authority.mint("acme", Act("r"), Req(("GET",), ("/v1/*/keys",))))
    attack = scope("/v1%2fapps/keys", token)  # It is /v1/apps/keys only for a reader that decodes it.
    assert ask(closed(client), dict(attack)).status == 403
    monkeypatch.setattr(facts, "_scope_path", lambda scope: scope["path"])
    assert ask(closed(client), dict(attack)).status == 200


def test_a_rewritten_path_passes_a_check_of_only_the_received_path(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bearer(authority.mint("acme", Act("r"), Req(("GET",), ("/v1/apps/*",))))
    attack = scope("/v1/apps/shop", token)
    attack["path"] = "/v1/admin"  # A proxy rewrote the path, and the app routes by it.
    assert ask(closed(client), dict(attack)).status == 403
    monkeypatch.setattr(facts, "_scope_path", lambda scope: scope["raw_path"].decode())
    assert ask(closed(client), dict(attack)).status == 200


def test_a_caller_can_forge_an_address_that_is_read_from_a_header(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bearer(authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",))))
    app = closed(client, attestation=Verifier(PROXY.public_key()))
    attack = scope("/", token, (b"fly-client-ip", b"10.0.0.1"))
    assert ask(app, dict(attack)).status == 403
    monkeypatch.setattr(facts.Attestation, "source", lambda self, arrived: Source())
    assert ask(app, dict(attack)).status == 200


def test_a_caller_can_forge_an_address_that_the_server_takes_from_a_header(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bearer(authority.mint("acme", Act("r"), Ip(("10.0.0.0/8",))))
    attack = scope("/", token, (b"x-forwarded-for", b"10.0.0.1:4000"), client=("10.0.0.1", 4000))
    assert ask(closed(client), dict(attack)).status == 403
    monkeypatch.setattr(facts, "CLAIMS", frozenset())
    assert ask(closed(client), dict(attack)).status == 200


def test_without_the_replay_check_an_attestation_can_be_used_twice(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bearer(authority.mint("acme", Act("r"), Src("acme", "web", None)))
    app = closed(client, attestation=Verifier(PROXY.public_key()))
    headers = attested("1")
    statuses = [ask(app, scope("/", token, *headers, client=PROXIED)).status for _ in range(2)]
    assert statuses == [200, 403]

    def forgetful(self: Verifier, presented: Presented, source: Any, now_s: float) -> None:
        """Remember no request."""

    monkeypatch.setattr(Verifier, "_check_first", forgetful)
    assert ask(app, scope("/", token, *headers, client=PROXIED)).status == 200


def test_a_second_header_wins_if_only_the_last_one_is_read(
    client: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = bearer(authority.mint("acme", action="r")), bearer("tkdb_nothing")
    attack = scope("/", bad, good)  # A proxy has checked the first header.
    assert ask(closed(client), dict(attack)).status == 400
    monkeypatch.setattr(gate, "bundle_text", lambda values: bundle_text(values[-1:]))
    assert ask(closed(client), dict(attack)).status == 200


def test_without_the_correction_a_mounted_app_turns_a_rejection_into_a_crash(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await cleared(scope, Access())
        except Rejection:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            raise

    assert ask(TokenMiddleware(app, client), scope()).status == 401

    async def passes(self: Any, message: Any) -> None:
        self.is_over = True
        await self._send(message)

    monkeypatch.setattr("tkdb_client.asgi._Reply.send", passes)
    with pytest.raises(Rejection):
        ask(TokenMiddleware(app, client), scope())
