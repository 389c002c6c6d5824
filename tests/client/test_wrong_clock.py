"""A machine whose clock differs from the authority's: an error that names the clock, a 503, and one log line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import fake_authority as fake
from tests.client.fake_authority import FakeAuthority
from tkdb import api, errors
from tkdb.channel.envelope import check_time
from tkdb.macaroon.token import Macaroon
from tkdb_client import AsyncClient, Client
from tkdb_client.clock import Clock
from tkdb_client.web import gate
from tkdb_client.web.facts import Arrived
from tkdb_client.web.gate import CLOCK_LOG_S, ClockLog, Guard
from tkdb_client.web.rejection import Rejection


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def off(by_ms: int) -> Clock:
    return Clock(now_ms=lambda: now_ms() + by_ms)


@pytest.fixture
def strict(authority: FakeAuthority) -> Iterator[FakeAuthority]:
    """An authority that checks the times of requests, as the real one does."""

    def handler(call: Any) -> Any:
        opened = authority.requests[-1].opened
        assert opened is not None
        check_time(opened.envelope, now_ms())
        if isinstance(call, api.Verify):
            return api.Verified(results=[api.Valid(organization="acme") for _ in call.bundles])
        return fake.report()

    authority.handler = handler
    return authority


@pytest.mark.parametrize(
    ("by_ms", "why"),
    [(8_000, r"is [78]\.\d s ahead of the authority's"), (-33_000, r"is 33\.\d s behind the authority's")],
)
def test_a_wrong_clock_is_named_after_one_attempt(
    connect: Any, strict: FakeAuthority, token: Macaroon, by_ms: int, why: str
) -> None:
    client = connect(clock=off(by_ms))
    for method, arguments in (("status", ()), ("verify", (token,)), ("revoke", (token,))):
        before = len(strict.requests)
        with pytest.raises(errors.WrongClock, match=why) as raised:
            client.call(method, *arguments)
        assert raised.value.hint.startswith("set the clock of this machine")
        assert len(strict.requests) == before + 1


@pytest.mark.parametrize("by_ms", [3_000, -25_000])
def test_a_clock_within_the_limits_works(connect: Any, strict: FakeAuthority, by_ms: int) -> None:
    assert connect(clock=off(by_ms)).call("status") == fake.report()


def test_another_region_is_asked_because_one_machine_s_clock_may_be_wrong(connect: Any, strict: FakeAuthority) -> None:
    with FakeAuthority(secrets=strict.secrets, signer=strict.signer) as other:
        client = connect(url=[strict.url, other.url], clock=off(8_000))
        assert client.call("status") == fake.report()
        assert len(strict.requests) == len(other.requests) == 1


def test_a_request_that_only_arrived_late_is_sent_again_with_a_new_time(connect: Any, authority: FakeAuthority) -> None:
    """The process was suspended after it had sealed the request. Its clock is right."""
    authority.script.append(fake.sealed(errors.OutOfTime("40 s later", authority_ms=now_ms())))
    assert connect().call("status") == fake.report()
    assert len(authority.requests) == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_web_app_answers_503_and_logs_the_clock_once(
    strict: FakeAuthority,
    token: Macaroon,
    kind: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "_clock_log", ClockLog())
    guard = Guard(kind(strict.url, strict.identity, signer="", clock=off(8_000)))
    headers = ((b"authorization", f"Bearer {token.text}".encode()),)

    async def visits() -> None:
        for _ in range(3):
            with pytest.raises(Rejection) as rejected:
                await guard.visit(Arrived("GET", "/", "/", "127.0.0.1", headers)).verified()
            assert rejected.value.status == 503
        if isinstance(guard.client, AsyncClient):
            await guard.client.close()
        else:
            guard.client.close()

    with caplog.at_level(logging.ERROR, "tkdb.client"):
        asyncio.run(visits())
    (line,) = caplog.messages
    assert "the clock of this machine is" in line
    assert "ahead of the authority's" in line
    assert token.text not in line


def test_the_log_line_is_repeated_after_a_minute_and_also_for_a_cached_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = [100.0]
    log = ClockLog(lambda: now_s[0])
    stale = errors.StaleAuthority("this token was verified before")
    stale.__cause__ = errors.WrongClock("the clock of this machine is wrong")
    log.note(stale)
    log.note(stale)
    log.note(errors.Unavailable("no answer"))
    assert len(caplog.messages) == 1
    now_s[0] += CLOCK_LOG_S
    log.note(stale)
    assert len(caplog.messages) == 2
