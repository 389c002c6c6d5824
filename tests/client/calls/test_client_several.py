"""Both clients and the regions of one authority, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from tests.client import fake_authority as fake
from tests.client.fake_authority import Brain, FakeAuthority, report
from tests.waiting import until
from tkdb import api, errors
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret
from tkdb.macaroon.token import Macaroon
from tkdb.net.url import Url
from tkdb_client import AsyncClient, Client
from tkdb_client.calls import transport
from tkdb_client.calls.transport import Lost, Send, Transport

UNREACHABLE = "http://127.0.0.1:1"
WAIT_S = 20
"""The limit of a wait for something that usually takes a moment."""


@pytest.fixture
def regions() -> Iterator[list[FakeAuthority]]:
    """Three regions of one authority: syd, ams, and iad. The primary is in iad."""
    brain = Brain()
    with ExitStack() as stack:
        made = [stack.enter_context(FakeAuthority(secrets=brain.secrets, signer=brain.signer)) for _ in range(3)]
        for name, each in zip(("syd", "ams", "iad"), made, strict=True):
            each.handler = answers(name)
        yield made


def answers(name: str) -> Callable[[Any], msgspec.Struct]:
    role = "primary" if name == "iad" else "replica"

    def handler(call: Any) -> msgspec.Struct:
        if isinstance(call, api.Status):
            return msgspec.structs.replace(report(), region=name, machine=f"m-{name}", role=role)
        if isinstance(call, api.Verify):
            return api.Verified(results=[api.Valid(organization=name) for _ in call.bundles])
        if role == "replica":
            raise errors.NoPrimary("this machine isn't primary: m-iad is", hint="ask m-iad")
        return api.Revoked(already=False)

    return handler


@pytest.fixture
def connect_all(connect: Any, regions: list[FakeAuthority]) -> Callable[..., Any]:
    """Make clients of either kind. Default: for all regions."""

    def make(**settings: Any) -> Any:
        given = {"url": [each.url for each in regions], "authority": regions[0].identity, "signer": regions[0].signer}
        return connect(**(given | settings))

    return make


def calls(region: FakeAuthority, kind: type) -> int:
    return sum(isinstance(request.call, kind) for request in region.requests)


def test_the_next_region_answers_if_the_first_is_down(connect_all: Any, regions: list[FakeAuthority]) -> None:
    client = connect_all(url=[UNREACHABLE, regions[1].url])
    assert client.call("status").region == "ams"


def test_urls_may_be_separated_by_commas(connect_all: Any, regions: list[FakeAuthority]) -> None:
    client = connect_all(url=f"{UNREACHABLE}, {regions[2].url},")
    assert client.call("status").region == "iad"
    assert repr(client.client).endswith(f"Client of {UNREACHABLE}, {regions[2].url}>")


@pytest.mark.parametrize("fault", [fake.hang, fake.drip])
def test_a_hung_region_is_left_and_later_calls_skip_it(
    connect_all: Any, regions: list[FakeAuthority], token: Macaroon, fault: fake.Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkdb_client.calls.circuit_breaker.OPEN_MS", 3_600_000)
    regions[0].script.extend([fault] * 100)
    client = connect_all(attempt_timeout_ms=200)
    for _ in range(5):
        assert client.call("verify", token).organization in ("ams", "iad")
    assert calls(regions[0], api.Verify) == 1


def test_calls_find_the_nearest_region_leave_it_while_it_is_down_and_return(
    connect_all: Any, regions: list[FakeAuthority], token: Macaroon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkdb_client.calls.circuit_breaker.OPEN_MS", 50)
    monkeypatch.setattr("tkdb_client.calls.regions.PROBE_FIRST_MS", 10)
    far, further, nearest = regions
    far.delay_s, further.delay_s = 0.06, 0.15
    client = connect_all()
    asked: list[str] = []

    def asks(name: str) -> bool:
        asked.append(client.call("verify", token).organization)
        return asked[-1] == name

    assert asks("syd")
    until(lambda: asks("iad"))
    nearest.script.extend([fake.plain(503)] * 3)
    assert asks("syd")
    nearest.script.clear()
    until(lambda: asks("iad"))


def test_a_stale_region_is_left_for_the_next(connect_all: Any, regions: list[FakeAuthority], token: Macaroon) -> None:
    regions[0].script.append(fake.sealed(errors.StaleAuthority("6.1 s behind")))
    assert connect_all().call("verify", token).organization == "ams"


def test_a_write_finds_the_primary_and_the_next_write_goes_there_at_once(
    connect_all: Any, regions: list[FakeAuthority], token: Macaroon
) -> None:
    client = connect_all()
    assert client.call("revoke", token) is False
    assert [calls(each, api.Revoke) for each in regions] == [1, 1, 1]
    assert client.call("revoke", token) is False
    assert [calls(each, api.Revoke) for each in regions] == [1, 1, 2]
    opened = [each.requests[0].opened for each in regions]
    assert len({each.envelope.request_id for each in opened if each}) == 1


def test_a_write_that_no_region_takes_names_the_primary(
    connect_all: Any, regions: list[FakeAuthority], token: Macaroon
) -> None:
    client = connect_all(url=[each.url for each in regions[:2]] + [UNREACHABLE])
    with pytest.raises(errors.NoPrimary, match="m-iad"):
        client.call("revoke", token)


def test_regions_are_listed_nearest_first_with_their_machines(connect_all: Any, regions: list[FakeAuthority]) -> None:
    regions[0].delay_s, regions[2].delay_s = 0.5, 0.25
    regions[1].position = 7
    client = connect_all(url=[*(each.url for each in regions), UNREACHABLE])
    found = client.call("regions")
    assert [each.region for each in found] == ["ams", "iad", "syd", ""]
    assert [each.url for each in found] == [*(regions[number].url for number in (1, 2, 0)), UNREACHABLE]
    assert [each.role for each in found] == ["replica", "primary", "replica", ""]
    assert [each.serving for each in found] == [True, False, False, False]
    assert [each.health for each in found[:3]] == ["ok"] * 3
    assert "couldn't be connected to" in found[3].fault
    ams = found[0]
    assert (ams.machine, ams.seq, ams.age_ms) == ("m-ams", 1, 0)
    assert 0 < ams.rtt_ms < found[1].rtt_ms < found[2].rtt_ms
    assert found[2].rtt_ms >= 150


def test_a_region_that_cannot_answer_is_reported_and_gets_no_calls(
    connect_all: Any, regions: list[FakeAuthority], token: Macaroon
) -> None:
    regions[0].handler = lambda _: msgspec.structs.replace(report(), region="syd", fault="the head is 6.1 s old")
    client = connect_all()
    found = {each.region: each for each in client.call("regions")}
    assert (found["syd"].health, found["syd"].serving) == ("the head is 6.1 s old", False)
    assert [each.region for each in found.values() if each.serving] == [client.call("verify", token).organization]
    assert calls(regions[0], api.Verify) == 0


def test_a_call_does_not_wait_for_a_probe(
    connect_all: Any, regions: list[FakeAuthority], token: Macaroon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkdb_client.calls.regions.PROBE_FIRST_MS", 0)
    client = connect_all(attempt_timeout_ms=60_000, timeout_ms=60_000)
    for each in regions[1:]:
        each.script.extend([fake.hang] * 100)
    until(lambda: bool(client.call("verify", token)) and calls(regions[1], api.Status) > 0)
    assert calls(regions[1], api.Verify) == 0


def test_a_probe_sends_position_0(connect_all: Any, regions: list[FakeAuthority], token: Macaroon) -> None:
    for each in regions:
        each.position = 9
    client = connect_all()
    until(lambda: bool(client.call("verify", token)) and calls(regions[1], api.Status) > 0)
    probe = next(request for request in regions[1].requests if request.opened)
    assert probe.opened is not None
    assert probe.opened.envelope.position == 0
    client.call("verify", token)
    last = regions[0].requests[-1].opened
    assert last is not None
    assert last.envelope.position == 9


def test_a_client_with_one_url_does_no_background_work(
    connect: Any, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkdb_client.calls.regions.PROBE_FIRST_MS", 0)
    client = connect()
    before = threading.active_count()
    for _ in range(20):
        client.call("status")
    assert len(authority.requests) == 20
    assert threading.active_count() == before


def test_each_region_may_use_another_key_of_the_authority(
    connect_all: Any, regions: list[FakeAuthority], token: Macaroon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkdb_client.calls.regions.PROBE_FIRST_MS", 10)
    new = AuthoritySecret.generate(os.urandom)
    regions[1].trust(new)
    old_and_new = AuthorityIdentity(fake.NAME, (*regions[0].identity.keys, new.public))
    client = connect_all(authority=old_and_new)
    assert [each.health for each in client.call("regions")] == ["ok"] * 3
    regions[0].script.extend([fake.plain(503)] * 100)
    regions[2].script.extend([fake.plain(503)] * 100)
    for _ in range(5):
        assert client.call("verify", token).organization == "ams"


def test_take_over_needs_the_url_of_one_machine(connect_all: Any, regions: list[FakeAuthority]) -> None:
    with pytest.raises(errors.ConfigurationError, match="one machine"):
        connect_all().call("take_over")
    assert not any(each.requests for each in regions)


def test_closing_a_client_ends_its_background_tasks(regions: list[FakeAuthority], token: Macaroon) -> None:
    regions[1].script.extend([fake.hang] * 100)
    regions[2].script.extend([fake.hang] * 100)

    async def ask() -> int:
        async with AsyncClient(
            [each.url for each in regions], regions[0].identity, attempt_timeout_ms=60_000
        ) as client:
            while not regions[1].requests:
                await client.verify(token)
        return len(asyncio.all_tasks())

    assert asyncio.run(ask()) == 1


def test_a_closed_client_of_several_regions_raises_a_configuration_error(connect_all: Any) -> None:
    client = connect_all()
    client.call("close")
    for method in ("status", "regions"):
        with pytest.raises(errors.ConfigurationError, match="closed"):
            client.call(method)


def test_threads_share_a_client_of_several_regions(regions: list[FakeAuthority], token: Macaroon) -> None:
    regions[0].script.extend([fake.reset_after_reading] * 5)
    found: list[str] = []
    with Client([each.url for each in regions], regions[0].identity) as client:
        threads = [
            threading.Thread(target=lambda: found.extend([client.verify(token).organization for _ in range(10)]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert len(found) == 80
    assert set(found) <= {"syd", "ams", "iad"}


# --- connections ---------------------------------------------------------------------------------------------------


@pytest.fixture
def v6() -> Iterator[FakeAuthority]:
    try:
        with FakeAuthority(host="::1") as running:
            yield running
    except OSError:
        pytest.skip("this machine has no IPv6")


def test_an_ipv6_address_works_and_has_brackets_in_the_host_header(connect: Any, v6: FakeAuthority) -> None:
    client = connect(url=v6.url, authority=v6.identity, signer=v6.signer)
    assert client.call("status") == report()
    assert v6.requests[0].headers["host"] == f"[::1]:{v6.port}"


@pytest.mark.parametrize("before", [[], [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.2")]])
def test_a_host_name_is_reached_through_the_address_that_answers(
    connect: Any, v6: FakeAuthority, monkeypatch: pytest.MonkeyPatch, before: list[tuple[Any, str]]
) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in ("tkdb.flycast", b"tkdb.flycast"):
            return real(host, port, *args, **kwargs)
        return [
            (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)[: 4 if ":" in address else 2])
            for family, address in [*reversed(before), (socket.AF_INET6, "::1")]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    client = connect(url=f"http://tkdb.flycast:{v6.port}", authority=v6.identity, signer=v6.signer)
    assert client.call("status") == report()
    assert v6.requests[0].headers["host"] == f"tkdb.flycast:{v6.port}"


def test_the_region_in_the_url_is_sent_to_the_proxy(connect: Any, authority: FakeAuthority) -> None:
    client = connect(url=f"{authority.url}?region=syd")
    assert client.call("status") == report()
    connect().call("status")
    assert [request.headers.get("fly-force-region") for request in authority.requests] == ["syd", None]
    assert authority.requests[0].path == "/v1/verify"


def test_a_host_name_with_several_addresses_takes_no_longer_than_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host drops new connections, because its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        tried: list[float | None] = []
        connect = socket.create_connection
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", port)) for number in (1, 1, 2)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        monkeypatch.setattr(
            socket,
            "create_connection",
            lambda address, timeout=None, **given: tried.append(timeout) or connect(address, timeout, **given),
        )
        lost = Transport().post(Send(Url.parse(f"http://tkdb.flycast:{port}"), "/v1/verify", b"1", {}, 200))
    assert isinstance(lost, Lost)
    assert not lost.sent
    assert len(tried) == 2
    assert all(share_s is not None and share_s <= 0.2 for share_s in tried)
    assert tried[0] is not None
    assert tried[0] <= 0.1


def test_a_hung_region_takes_no_connection_from_another(
    regions: list[FakeAuthority], token: Macaroon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(transport._POOL, "max_connections", 1)
    regions[0].script.append(fake.hang)
    found: list[str] = []
    with Client([each.url for each in regions[:2]], regions[0].identity) as client:
        first = threading.Thread(target=lambda: found.append(client.verify(token).organization))
        first.start()
        until(lambda: bool(regions[0].requests))
        with Client([regions[1].url], regions[0].identity) as other:
            assert other.verify(token).organization == "ams"
        first.join(WAIT_S)
    assert found == ["ams"]


def test_a_connection_that_was_idle_for_too_long_carries_no_new_request(
    connect: Any, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert transport._POOL["keepalive_expiry"] < 60
    monkeypatch.setitem(transport._POOL, "keepalive_expiry", 0)
    client = connect()
    client.call("status")
    client.call("status")
    assert [request.connection for request in authority.requests] == [1, 2]
