"""What stands between client and authority alters, repeats, drops and invents: it can only make a call fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import pytest

from tests.http_stub import Answer, HttpStub, Request
from tests.end_to_end.node import Node
from tkdb import api, errors
from tkdb_client import Client, Macaroon

Told = tuple[int, bytes] | None
Mischief = Callable[["Proxy", str, bytes, Callable[[str, bytes], Told]], Told]


class Proxy(HttpStub):
    """An HTTP proxy that does as ``mischief`` says. None as an answer breaks the connection."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.mischief: Mischief = lambda proxy, path, body, forward: forward(path, body)
        self.recorded: list[Told] = []
        self.passed = 0
        self._node = node
        self._upstream = httpcore.ConnectionPool()

    def answer(self, request: Request) -> Answer | None:
        kept = {name: value for name, value in request.headers.items() if name.startswith("tkdb-")}

        def forward(path: str, body: bytes) -> Told:
            self.passed += 1
            response = self._upstream.request("POST", self._node.url + path, headers=kept, content=body)
            return response.status, response.content

        told = self.mischief(self, request.target, request.body, forward)
        return told and Answer(told[0], {"location": "http://127.0.0.1:1/"}, told[1])

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._upstream.close()


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    with Proxy(node) as proxy:
        yield proxy


def _at_once(size: int) -> bytes:
    """Randomness whose jitter is nothing: retries don't wait."""
    return bytes(4) if size == 4 else os.urandom(size)


@pytest.fixture
def behind(node: Node, proxy: Proxy) -> Iterator[Client]:
    """A client that has only the proxy to talk to."""
    with node.client(url=proxy.url, timeout_ms=150, attempt_timeout_ms=100, random=_at_once) as client:
        yield client


@pytest.fixture
def patient(node: Node, proxy: Proxy) -> Iterator[Client]:
    """The same, and however busy the machine is, it waits."""
    with node.client(url=proxy.url, timeout_ms=20_000, attempt_timeout_ms=10_000, random=_at_once) as client:
        yield client


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _replay(proxy: Proxy, path: str, body: bytes, forward: Any) -> Told:
    """Answer with what was answered to the first request."""
    proxy.recorded.append(forward(path, body))
    return proxy.recorded[0]


SPOILED_REQUESTS: dict[str, Mischief] = {
    "a bit of the request": lambda p, path, body, forward: forward(path, _flip(body, len(body) // 2)),
    "the first bit of the request": lambda p, path, body, forward: forward(path, _flip(body, 0)),
    "the request's end": lambda p, path, body, forward: forward(path, body[:-1]),
    "another request": lambda p, path, body, forward: forward(path, os.urandom(len(body))),
    "another path": lambda p, path, body, forward: forward(
        "/v1/revoke" if path == "/v1/verify" else "/v1/verify", body
    ),
    "no answer": lambda p, path, body, forward: None,
    "the request itself": lambda p, path, body, forward: (200, body),
    "an empty 200": lambda p, path, body, forward: (200, b""),
    "a 200 of its own": lambda p, path, body, forward: (200, b'{"result":"valid","organization":"acme"}'),
    "a huge 200": lambda p, path, body, forward: (200, bytes(70_000)),
    **{
        f"a plain {status}": lambda p, path, body, forward, status=status: (status, b'{"error":"denied"}')
        for status in (204, 302, 400, 401, 403, 404, 429, 503)
    },
}
SPOILED_ANSWERS: dict[str, Mischief] = {
    "a bit of the answer": lambda p, path, body, forward: (200, _flip(forward(path, body)[1], 40)),
    "the answer's end": lambda p, path, body, forward: (200, forward(path, body)[1][:-1]),
    "more behind the answer": lambda p, path, body, forward: (200, forward(path, body)[1] + b"\0"),
    "the answer as an error": lambda p, path, body, forward: (403, forward(path, body)[1]),
    "no answer, though it was done": lambda p, path, body, forward: forward(path, body) and None,
}
FATAL = SPOILED_REQUESTS | SPOILED_ANSWERS


@pytest.mark.parametrize("mischief", FATAL)
def test_whatever_a_proxy_does_is_never_a_denial_and_never_an_accept(
    mischief: str, node: Node, proxy: Proxy, behind: Client
) -> None:
    with node.client() as direct:
        live, dead = direct.mint("acme"), direct.mint("acme")
        direct.revoke(dead)
        proxy.mischief = FATAL[mischief]
        for call in (
            lambda: behind.verify(live),
            lambda: behind.verify(dead),
            lambda: behind.mint("acme"),
            lambda: behind.revoke(live),
        ):
            with pytest.raises(errors.Unavailable) as caught:
                call()
            assert caught.value.hint
        # What never arrived whole did nothing; what did is done, whatever became of the answer, though perhaps only
        # after the caller has given up.
        for _ in range(100 if mischief in SPOILED_ANSWERS else 1):
            [after] = direct.verify_many([live])
            if isinstance(after, errors.RevokedToken):
                break
            time.sleep(0.05)
        assert isinstance(after, errors.RevokedToken) == (mischief in SPOILED_ANSWERS)


@pytest.mark.parametrize("mischief", FATAL)
def test_a_proxy_that_stops_its_mischief_in_time_has_only_caused_retries(
    mischief: str, node: Node, proxy: Proxy, patient: Client
) -> None:
    with node.client() as direct:
        dead = direct.mint("acme")
        direct.revoke(dead)
    for call in (lambda: patient.verify(patient.mint("acme")), lambda: _denied(patient, dead)):
        attempts = 0

        def twice(proxy: Proxy, path: str, body: bytes, forward: Any) -> Told:
            nonlocal attempts
            attempts += 1
            return FATAL[mischief](proxy, path, body, forward) if attempts <= 2 else forward(path, body)

        proxy.mischief = twice
        call()
        assert attempts >= 3


def _denied(client: Client, token: Macaroon) -> None:
    with pytest.raises(errors.RevokedToken):
        client.verify(token)


def test_an_answer_is_of_no_use_for_another_request(node: Node, proxy: Proxy, behind: Client, patient: Client) -> None:
    with node.client() as direct:
        live, dead = direct.mint("acme"), direct.mint("acme")
        direct.revoke(dead)
    proxy.mischief = _replay
    patient.verify(live)
    # Now every answer is "valid", sealed to another request.
    with pytest.raises(errors.Unavailable):
        behind.verify(dead)


def test_a_write_that_is_sent_many_times_is_done_once(node: Node, proxy: Proxy, patient: Client) -> None:
    proxy.mischief = lambda p, path, body, forward: [forward(path, body) for _ in range(5)][-1]
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


def test_a_write_whose_answers_are_all_lost_is_said_to_be_in_doubt_and_can_be_repeated(
    node: Node, proxy: Proxy, behind: Client, patient: Client
) -> None:
    with node.client() as direct:
        token = direct.mint("acme")
        proxy.mischief = FATAL["no answer, though it was done"]
        with pytest.raises(errors.OutcomeUnknown):
            behind.revoke(token)
        proxy.mischief = lambda p, path, body, forward: forward(path, body)
        assert patient.revoke(token) is True
