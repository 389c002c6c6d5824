"""One AsyncClient in several event loops: one after the other, at the same time, and loops that end badly."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvloop
from anyio.from_thread import start_blocking_portal
from asgiref.sync import async_to_sync

from tests.client import fake_authority as fake
from tests.client.cache.test_cache_client import RealmServer
from tests.client.fake_authority import FakeAuthority
from tests.waiting import until, until_awaited
from tkdb import api, errors
from tkdb_client import AsyncClient
from tkdb_client.calls.per_loop import PerLoop
from tkdb_client.verification import single_flight

WAIT_S = 20


@pytest.fixture
def server(authority: FakeAuthority) -> RealmServer:
    return RealmServer(authority)


@pytest.fixture
def client(authority: FakeAuthority) -> Iterator[AsyncClient]:
    made = AsyncClient(authority.url, authority.identity, signer="", timeout_ms=3_000, attempt_timeout_ms=1_000)
    yield made
    asyncio.run(made.close())


def sockets() -> int:
    """Return the number of this process's open sockets."""
    return sum("socket:" in str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_client_works_in_one_loop_after_another_and_leaves_no_socket(
    client: AsyncClient, server: RealmServer, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    tokens = [server.realm.mint(number=number) for number in range(6)]
    open_before = sockets()
    for token in tokens:
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(client.verify(token)).macaroon == token
    until(lambda: sockets() - open_before <= 0)


def test_a_revocation_is_known_within_the_bound_although_each_loop_was_short(
    authority: FakeAuthority, server: RealmServer
) -> None:
    client = AsyncClient(authority.url, authority.identity, signer="", clock=server.clock())
    token = server.realm.mint()
    asyncio.run(client.verify(token))
    server.revoke(api.Lineage(token.kid, token.nonce))
    server.ahead_ms += 6_000
    with pytest.raises(errors.RevokedToken):
        asyncio.run(client.verify(token))


def test_a_connection_is_reused_within_a_loop_and_never_in_another(
    client: AsyncClient, authority: FakeAuthority
) -> None:
    async def twice() -> None:
        await client.status()
        await client.status()

    asyncio.run(twice())
    asyncio.run(twice())
    assert [request.connection for request in authority.requests] == [1, 1, 2, 2]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Only its owner could end the loop cleanly.
def test_a_loop_that_is_closed_without_a_warning_takes_its_connections_and_follower_with_it(
    client: AsyncClient, server: RealmServer
) -> None:
    token = server.realm.mint()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.verify(token))
    loop.close()  # neither its tasks nor its generators are ended
    assert len(client._cache._followed._polls) == 1
    asyncio.run(client.verify(server.realm.mint(number=1)))
    assert client._cache.enlist() is not None  # No follower of a lost loop holds the keys.
    del loop
    gc.collect()


def test_threads_with_a_loop_each_share_a_client(client: AsyncClient, server: RealmServer) -> None:
    tokens = [server.realm.mint(number=number) for number in range(40)]
    found: list[Any] = []

    def work(mine: list[Any]) -> None:
        for token in mine:
            found.append(asyncio.run(client.verify(token)).macaroon)  # noqa: PERF401 -- one by one

    threads = [threading.Thread(target=work, args=(tokens[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(each.text for each in found) == sorted(each.text for each in tokens)


def test_asynchronous_views_of_django_under_wsgi_verify(client: AsyncClient, server: RealmServer) -> None:
    """Django runs each in ``async_to_sync``: a loop for each request, in one of many threads."""
    tokens = [server.realm.mint(number=number) for number in range(20)]
    view = async_to_sync(client.verify)
    with ThreadPoolExecutor(4) as threads:
        assert [each.macaroon for each in threads.map(view, tokens)] == tokens


def test_a_test_client_of_starlette_without_a_context_verifies(client: AsyncClient, server: RealmServer) -> None:
    """It runs each request in a portal of anyio: a loop in a thread."""
    for number in range(4):
        token = server.realm.mint(number=number)
        with start_blocking_portal() as portal:
            assert portal.call(client.verify, token).macaroon == token


class Stopped:
    """A loop that stops in the middle of a request, and is never run again until the test ends."""

    def __init__(self, client: AsyncClient, server: RealmServer, token: Any) -> None:
        self.loop = asyncio.new_event_loop()
        before = len(server.authority.requests)
        self.task = self.loop.create_task(client.verify(token))

        async def sent() -> None:
            while len(server.authority.requests) == before:  # noqa: ASYNC110 -- another thread's event
                await asyncio.sleep(0.01)

        self.loop.run_until_complete(sent())

    def end(self) -> None:
        self.task.cancel()
        self.loop.run_until_complete(asyncio.gather(self.task, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def test_a_loop_that_stops_during_a_shared_request_holds_no_other_loop_up(
    client: AsyncClient, server: RealmServer
) -> None:
    token = server.realm.mint()
    server.authority.script.append(fake.hang)
    stopped = Stopped(client, server, token)
    assert asyncio.run(client.verify(token)).macaroon == token
    assert server.count() == 2
    stopped.end()


def test_if_loops_shared_requests_a_stopped_loop_would_hold_the_others_up(
    client: AsyncClient, server: RealmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    join, finish = single_flight.SingleFlight.join, single_flight.SingleFlight.finish
    monkeypatch.setattr(single_flight.SingleFlight, "join", lambda self, key: join(self, key[1]))
    monkeypatch.setattr(single_flight.SingleFlight, "finish", lambda self, key, error=None: finish(self, key[1], error))
    token = server.realm.mint()
    server.authority.script.append(fake.hang)
    stopped = Stopped(client, server, token)
    with pytest.raises(errors.DeadlineExceeded, match="another call sends the same request"):
        asyncio.run(client.verify(token))
    stopped.end()


def test_a_client_can_be_closed_in_another_loop(client: AsyncClient, authority: FakeAuthority) -> None:
    asyncio.run(client.status())
    asyncio.run(client.close())
    with pytest.raises(errors.ConfigurationError, match="closed"):
        asyncio.run(client.status())


def test_closing_a_client_ends_its_work_in_a_loop_of_another_thread(client: AsyncClient, server: RealmServer) -> None:
    verified = threading.Event()

    async def work() -> None:
        await client.verify(server.realm.mint())
        verified.set()
        await until_awaited(lambda: len(asyncio.all_tasks()) == 1)  # The follower has ended.

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    assert verified.wait(WAIT_S)
    asyncio.run(client.close())
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_without_an_event_loop_of_asyncio_a_configuration_error_is_raised(
    client: AsyncClient, server: RealmServer
) -> None:
    """A framework like trio runs a coroutine in its own loop. Nothing of asyncio runs then."""
    for call in (client.status(), client.verify(server.realm.mint()), client.regions()):
        with pytest.raises(errors.ConfigurationError, match="needs an event loop of asyncio"):
            call.send(None)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Nothing closes the connections of the first loop.
def test_with_one_pool_for_all_loops_the_second_loop_fails(
    authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[Any, Any] = {}
    monkeypatch.setattr(PerLoop, "here", lambda self: shared.setdefault(self, self._new()))
    client = AsyncClient(authority.url, authority.identity, signer="", cache_bytes=0, timeout_ms=500)
    asyncio.run(client.status())
    with pytest.raises(RuntimeError, match="loop"):
        asyncio.run(client.status())
    for pool in shared[client._driver._transport._pools].values():
        pool.abandon()
    shared.clear()
    gc.collect()
