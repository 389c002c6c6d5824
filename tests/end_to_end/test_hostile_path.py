"""A hostile proxy between client and authority can only make a call fail, whatever it alters, repeats or invents."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import pytest

from tests.end_to_end.node import Node
from tests.http_stub import Answer, HttpStub, Request
from tkdb import api, errors
from tkdb_client import Client, Macaroon

Reply = tuple[int, bytes] | None
Tampering = Callable[["Proxy", str, bytes, Callable[[str, bytes], Reply]], Reply]


class Proxy(HttpStub):
    """An HTTP proxy that passes each request to ``tampering``. None as a reply breaks the connection."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.tampering: Tampering = lambda proxy, path, body, forward: forward(path, body)
        self.recorded: list[Reply] = []
        self.passed = 0
        self._node = node
        self._upstream = httpcore.ConnectionPool()

    def answer(self, request: Request) -> Answer | None:
        kept = {name: value for name, value in request.headers.items() if name.startswith("tkdb-")}

        def forward(path: str, body: bytes) -> Reply:
            self.passed += 1
            response = self._upstream.request("POST", self._node.url + path, headers=kept, content=body)
            return response.status, response.content

        reply = self.tampering(self, request.target, request.body, forward)
        return reply and Answer(reply[0], {"location": "http://127.0.0.1:1/"}, reply[1])

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._upstream.close()


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    with Proxy(node) as proxy:
        yield proxy


def _no_jitter(size: int) -> bytes:
    """Return random bytes, but zeros for the jitter, so that retries don't wait."""
    return bytes(4) if size == 4 else os.urandom(size)


@pytest.fixture
def client(node: Node, proxy: Proxy) -> Iterator[Client]:
    """A client that can reach only the proxy, and gives up after 150 ms."""
    with node.client(url=proxy.url, timeout_ms=150, attempt_timeout_ms=100, random=_no_jitter) as client:
        yield client


@pytest.fixture
def patient(node: Node, proxy: Proxy) -> Iterator[Client]:
    """A client that can reach only the proxy, with a timeout that is long enough for a busy machine."""
    with node.client(url=proxy.url, timeout_ms=20_000, attempt_timeout_ms=10_000, random=_no_jitter) as client:
        yield client


def _flip_bit(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _replay(proxy: Proxy, path: str, body: bytes, forward: Any) -> Reply:
    """Forward the request, but send the answer to the first one."""
    proxy.recorded.append(forward(path, body))
    return proxy.recorded[0]


TAMPERED_REQUESTS: dict[str, Tampering] = {
    "an altered bit of the request": lambda p, path, body, forward: forward(path, _flip_bit(body, len(body) // 2)),
    "an altered first bit of the request": lambda p, path, body, forward: forward(path, _flip_bit(body, 0)),
    "a truncated request": lambda p, path, body, forward: forward(path, body[:-1]),
    "another request": lambda p, path, body, forward: forward(path, os.urandom(len(body))),
    "another path": lambda p, path, body, forward: forward(
        "/v1/revoke" if path == "/v1/verify" else "/v1/verify", body
    ),
    "no answer": lambda p, path, body, forward: None,
    "the request as the answer": lambda p, path, body, forward: (200, body),
    "an empty 200": lambda p, path, body, forward: (200, b""),
    "an invented 200": lambda p, path, body, forward: (200, b'{"result":"valid","organization":"acme"}'),
    "a huge 200": lambda p, path, body, forward: (200, bytes(70_000)),
    **{
        f"a plain {status}": lambda p, path, body, forward, status=status: (status, b'{"error":"denied"}')
        for status in (204, 302, 400, 401, 403, 404, 429, 503)
    },
}
TAMPERED_ANSWERS: dict[str, Tampering] = {
    "an altered bit of the answer": lambda p, path, body, forward: (200, _flip_bit(forward(path, body)[1], 40)),
    "a truncated answer": lambda p, path, body, forward: (200, forward(path, body)[1][:-1]),
    "a longer answer": lambda p, path, body, forward: (200, forward(path, body)[1] + b"\0"),
    "the answer as an error": lambda p, path, body, forward: (403, forward(path, body)[1]),
    "no answer after the request was carried out": lambda p, path, body, forward: forward(path, body) and None,
}
TAMPERINGS = TAMPERED_REQUESTS | TAMPERED_ANSWERS


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_hostile_proxy_causes_neither_a_denial_nor_an_accept(
    tampering: str, node: Node, proxy: Proxy, client: Client
) -> None:
    with node.client() as direct:
        live, dead = direct.mint("acme"), direct.mint("acme")
        direct.revoke(dead)
        proxy.tampering = TAMPERINGS[tampering]
        for call in (
            lambda: client.verify(live),
            lambda: client.verify(dead),
            lambda: client.mint("acme"),
            lambda: client.revoke(live),
        ):
            with pytest.raises(errors.Unavailable) as caught:
                call()
            assert caught.value.hint
        # A request that didn't arrive intact has no effect. Any other is carried out, even if its answer is lost, but
        # perhaps only after the client has given up.
        for _ in range(100 if tampering in TAMPERED_ANSWERS else 1):
            [after] = direct.verify_many([live])
            if isinstance(after, errors.RevokedToken):
                break
            time.sleep(0.05)
        assert isinstance(after, errors.RevokedToken) == (tampering in TAMPERED_ANSWERS)


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_proxy_that_stops_tampering_in_time_causes_only_retries(
    tampering: str, node: Node, proxy: Proxy, patient: Client
) -> None:
    with node.client() as direct:
        dead = direct.mint("acme")
        direct.revoke(dead)
    for call in (lambda: patient.verify(patient.mint("acme")), lambda: _assert_revoked(patient, dead)):
        attempts = 0

        def twice(proxy: Proxy, path: str, body: bytes, forward: Any) -> Reply:
            nonlocal attempts
            attempts += 1
            return TAMPERINGS[tampering](proxy, path, body, forward) if attempts <= 2 else forward(path, body)

        proxy.tampering = twice
        call()
        assert attempts >= 3


def _assert_revoked(client: Client, token: Macaroon) -> None:
    with pytest.raises(errors.RevokedToken):
        client.verify(token)


def test_an_answer_is_rejected_for_another_request(node: Node, proxy: Proxy, client: Client, patient: Client) -> None:
    with node.client() as direct:
        live, dead = direct.mint("acme"), direct.mint("acme")
        direct.revoke(dead)
    proxy.tampering = _replay
    patient.verify(live)
    # Now each answer is "valid", but sealed for another request.
    with pytest.raises(errors.Unavailable):
        client.verify(dead)


def test_a_write_that_is_sent_many_times_is_done_once(node: Node, proxy: Proxy, patient: Client) -> None:
    proxy.tampering = lambda p, path, body, forward: [forward(path, body) for _ in range(5)][-1]
    with node.client() as direct:
        before = direct.create_organization(f"before-{proxy.url[-5:]}").created_ms
        name = f"many-{proxy.url[-5:]}"
        assert patient.create_organization(name).created_ms >= before
        assert len(patient.rotate_key(name).keys) == 2
        [listed] = [each for each in direct.list_organizations() if each.name == name]
        assert len(listed.keys) == 2
        token = direct.mint(name)
        assert patient.revoke(token) is False
        feed = direct.revocations([token.kid])
        assert feed.revocations == [api.Lineage(token.kid, token.nonce)]
    assert proxy.passed == 15


def test_a_write_without_an_answer_has_an_unknown_outcome_and_can_be_repeated(
    node: Node, proxy: Proxy, client: Client, patient: Client
) -> None:
    with node.client() as direct:
        token = direct.mint("acme")
        proxy.tampering = TAMPERINGS["no answer after the request was carried out"]
        with pytest.raises(errors.OutcomeUnknown):
            client.revoke(token)
        proxy.tampering = lambda p, path, body, forward: forward(path, body)
        assert patient.revoke(token) is True
