"""If Fly-Src is required, the server answers only callers that the proxy attests. Health checks stay open."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.waiting import until_awaited
from tkdb import api
from tkdb.attestation import Source, sign
from tkdb.errors import ConfigurationError, Overloaded
from tkdb.server.limits import Admission, Limits
from tkdb.server.run import serve

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOOPBACK = IPv4Network("127.0.0.0/8")


@pytest.fixture
def required(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "fly-src.pub"
    file.write_text(KEY.public_key().public_bytes_raw().hex() + "\n")
    return {
        "fly_src_required": True,
        "fly_src_apps": ("web",),
        "fly_src_orgs": ("acme",),
        "fly_src_key_file": file,
    }


def attested(
    app: str = "web", org: str = "acme", *, age_s: int = 0, key: Ed25519PrivateKey = KEY, request: str = "1"
) -> dict[str, str]:
    source, signature = sign(key, Source("4d891d7e", app, org, int(time.time()) - age_s))
    return {"fly-src": source, "fly-src-signature": signature, "fly-request-id": request}


def test_an_attested_request_is_answered_only_once(start: Any, run: Any, required: Any) -> None:
    async def test() -> None:
        async with start(proxies=LOOPBACK, **required) as server:
            server.http.headers.update(attested())
            assert (await server.ask("/v1/verify", api.Status())).name == "tkdb.example"
            again = await server.post("/v1/verify", api.Status())
            assert again.status_code == 403
            assert "is a replay" in again.json()["detail"]

    run(test())


@pytest.mark.parametrize(
    ("presented", "reason"),
    [
        (dict, "no Fly-Src"),
        (partial(attested, key=Ed25519PrivateKey.from_private_bytes(bytes(32))), "isn't signed"),
        (lambda: {**attested(), "fly-src": str(Source("4d891d7e", "web", "acme", 1))}, "isn't signed"),
        (partial(attested, age_s=3_600), "another time"),
        (partial(attested, app="other"), "isn't allowed"),
        (partial(attested, org="other"), "isn't allowed"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/verify", "/v1/%76erify", "/v1/write", "/v1/nothing"])
def test_a_request_without_a_valid_attestation_is_refused_before_it_is_opened(
    start: Any, run: Any, required: Any, log: Any, path: str, presented: Callable[[], dict[str, str]], reason: str
) -> None:
    headers = presented()

    async def test() -> None:
        async with start(proxies=LOOPBACK, **required) as server:
            answer = await server.http.post(path, content=b"x" * 1_000, headers=headers)
            assert answer.status_code == 403
            assert answer.headers["connection"] == "close"
            assert answer.json()["type"] == "urn:tkdb:problem:not-attested"
            assert reason in answer.json()["detail"]
            assert server.service.calls == []
        for value in headers.values():
            assert len(value) < 4 or value not in log.getvalue() + answer.text
        assert '"event":"not attested"' in log.getvalue()

    run(test())


def test_a_connection_that_bypasses_the_proxy_is_refused(start: Any, run: Any, required: Any) -> None:
    async def test() -> None:
        async with start(**required) as server:
            answer = await server.http.post("/v1/verify", headers=attested())
            assert answer.status_code == 403
            assert "isn't from the proxy" in answer.json()["detail"]

    run(test())


def test_health_checks_need_no_attestation(start: Any, run: Any, required: Any) -> None:
    async def test() -> None:
        async with start(**required) as server:
            assert [(await server.http.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]

    run(test())


def test_callers_need_no_attestation_unless_it_is_required(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start() as server:
            assert (await server.ask("/v1/verify", api.Status())).name == "tkdb.example"

    run(test())


@pytest.mark.parametrize("text", [None, "", "00", "\xff"])
def test_the_server_does_not_start_without_a_readable_fly_src_key(
    run: Any, required: Any, settings: Any, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "other.pub"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigurationError, match="public key of Fly-Src"):
        run(serve(replace(settings, **{**required, "fly_src_key_file": file})))


async def take_all(server: Any, count: int) -> list[asyncio.Task[Any]]:
    """Let the app ``web`` take ``count`` places, and keep them."""
    server.service.released.clear()
    held = [asyncio.create_task(post(server, "web", f"held-{number}")) for number in range(count)]
    await until_awaited(lambda: len(server.service.calls) == count)
    return held


async def post(server: Any, app: str, request: str) -> int:
    """Return the status of a verification that the proxy attests for ``app``."""
    initiator, now_ms = server.anonymous, time.time_ns() // 1_000_000
    call = api.encode(api.Verify(["tkdb_x"]))
    sealed = initiator.seal("/v1/verify", call, request_id=os.urandom(16), now_ms=now_ms)
    headers = {**sealed.headers, **attested(app, request=request)}
    return int((await server.http.post("/v1/verify", content=sealed.message, headers=headers)).status_code)


def test_an_app_that_takes_all_places_keeps_out_no_other(start: Any, run: Any, required: Any) -> None:
    async def test() -> None:
        limits = Limits(active_max=4)
        async with start(proxies=LOOPBACK, limits=limits, **{**required, "fly_src_apps": ("web", "api")}) as server:
            held = await take_all(server, 4)
            assert await post(server, "web", "one-more") == 503
            others = [asyncio.create_task(post(server, "api", f"other-{number}")) for number in range(2)]
            await until_awaited(lambda: len(server.service.calls) == 6)
            assert await post(server, "api", "above-its-share") == 503
            server.service.released.set()
            assert set(await asyncio.gather(*held, *others)) == {200}
            assert await post(server, "web", "afterwards") == 200

    run(test())


def test_without_shares_one_app_keeps_out_the_others(
    monkeypatch: pytest.MonkeyPatch, start: Any, run: Any, required: Any
) -> None:
    """The negative control of the previous test."""
    monkeypatch.setattr("tkdb.server.work.APP", "unknown")

    async def test() -> None:
        limits = Limits(active_max=4)
        async with start(proxies=LOOPBACK, limits=limits, **{**required, "fly_src_apps": ("web", "api")}) as server:
            held = await take_all(server, 4)
            assert await post(server, "api", "other") == 503
            server.service.released.set()
            await asyncio.gather(*held)

    run(test())


def test_places_are_shared_equally_and_an_app_has_as_many_polls_as_are_left() -> None:
    gate = Admission(active_max=12, waiting_max=8)
    assert [taken(gate, app) for app in ("a", "b", "c", "a")] == [12, 6, 4, 0]
    polls = Admission(active_max=100, waiting_max=8)
    assert [waiting(polls, app) for app in ("a", "b", "c")] == [4, 2, 1]
    assert waiting(Admission(active_max=100, waiting_max=8), "") == 8


def taken(gate: Admission, app: str) -> int:
    """Return how many places ``app`` gets."""
    for count in range(100):
        try:
            gate.enter(app)
        except Overloaded:
            return count
    raise AssertionError


def waiting(gate: Admission, app: str) -> int:
    """Return how many long polls ``app`` gets."""
    for count in range(100):
        try:
            gate.enter(app).wait()
        except Overloaded:
            return count
    raise AssertionError
