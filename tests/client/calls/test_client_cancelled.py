"""Calls that are cancelled, or time out, at any moment. They must cost no connection, and no place for one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from types import coroutine
from typing import Any, Self, TypeVar

import httpcore
import pytest

from tests.client import fake_authority as fake
from tests.client.conftest import zero_jitter
from tests.client.fake_authority import FakeAuthority
from tests.waiting import until_awaited
from tkdb import api, errors
from tkdb.net.connections import AsyncDialer
from tkdb.net.names import Names
from tkdb.net.url import Url
from tkdb_client import AsyncClient
from tkdb_client.calls import transport
from tkdb_client.calls.transport import AsyncTransport, Lost, Send, Transport

WAIT_S = 20

T = TypeVar("T")

STEPS_MAX = 200
"""More suspensions than any call has."""


class HttpcorePool:
    """The pool of httpcore itself, as a negative control."""

    def __init__(self, names: Names, **settings: Any) -> None:
        dialers = self._dialers = list[AsyncDialer]()

        class Backend(AsyncDialer):
            async def connect_tcp(self, *args: Any, **given: Any) -> Any:
                dialers.append(AsyncDialer(names))
                return await dialers[-1].connect_tcp(*args, **given)

        self._pool = httpcore.AsyncConnectionPool(network_backend=Backend(names), **settings)

    @asynccontextmanager
    async def stream(self, request: httpcore.Request) -> AsyncIterator[httpcore.Response]:
        given = {"headers": request.headers, "extensions": request.extensions}
        content = b"".join([part async for part in request.stream])  # type: ignore[union-attr]
        async with self._pool.stream(request.method, request.url, content=content, **given) as response:
            yield response

    def close(self) -> None:
        for dialer in self._dialers:
            dialer.cut()


class Cancelled:
    """Awaits a coroutine in a task, and cancels the task when the coroutine suspends for the ``at``-th time.

    ``again``: also each time after that, so that the coroutine's cleanup is cancelled, too.
    """

    def __init__(self, awaited: Coroutine[Any, Any, Any], *, at: int, again: bool) -> None:
        self._awaited = awaited
        self._at = at
        self._again = again

    async def run(self) -> Any:
        return await self._steps()

    @coroutine
    def _steps(self) -> Generator[Any, Any, Any]:
        task, suspensions, error = asyncio.current_task(), 0, None
        assert task is not None
        while True:
            try:
                step = self._awaited.send(None) if error is None else self._awaited.throw(error)
            except StopIteration as end:
                return end.value
            suspensions += 1
            if suspensions == self._at or (self._again and suspensions > self._at):
                task.cancel()
            error = None
            try:
                yield step
            except BaseException as raised:  # noqa: BLE001 -- the coroutine gets every error
                error = raised


class Sweep:
    """Cancels a call at each of its suspensions, one after the other. There is at most one connection.

    Attributes:
        cancelled: how many calls were cancelled.
        lost: how many undisturbed calls failed afterwards. The first one ends the sweep.
    """

    def __init__(self, authority: FakeAuthority) -> None:
        self.authority = authority
        self.client = AsyncClient(
            authority.url.replace("127.0.0.1", "localhost"),
            authority.identity,
            signer="",
            cache_bytes=0,
            timeout_ms=1_500,
            attempt_timeout_ms=400,
            random=zero_jitter,
        )
        self.cancelled = self.lost = 0

    async def run(self, prepare: Callable[[Sweep], Awaitable[object]], *, again: bool) -> Self:
        for at in range(1, STEPS_MAX):
            before = await prepare(self)
            call = Cancelled(self.client.status(), at=at, again=again)
            try:
                await asyncio.create_task(call.run())
            except asyncio.CancelledError:
                self.cancelled += 1
            else:
                break
            try:
                await self.client.status()
            except errors.Unavailable:
                self.lost += 1
                break
            if isinstance(before, asyncio.Task):
                await before
        await self.client.close()
        return self


async def new_connection(sweep: Sweep) -> None:
    """End the kept connection, so that the next call opens one."""
    sweep.authority.script.append(fake.plain(503))
    attempts = sweep.client._operations._exchange._attempts
    course = attempts.course(api.VERIFY, api.Status(), timeout_ms=1_000)
    with suppress(errors.Unavailable):
        await sweep.client._run(attempts.attempt(course, 0, 1_000))
    sweep.authority.script.clear()


async def kept_connection(sweep: Sweep) -> None:
    await sweep.client.status()


async def no_free_connection(sweep: Sweep) -> object:
    """Let another call hold the only connection. It ends while the cancelled one waits."""
    sweep.authority.delay_s = 0.05
    await sweep.client.status()
    seen = len(sweep.authority.requests)
    holder = asyncio.create_task(sweep.client.status())
    await until_awaited(lambda: len(sweep.authority.requests) > seen)
    return holder


@pytest.fixture(autouse=True)
def one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transport._POOL, "max_connections", 1)


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("prepare", [new_connection, kept_connection, no_free_connection])
def test_a_call_that_is_cancelled_at_any_await_costs_no_connection(
    authority: FakeAuthority, prepare: Any, again: bool
) -> None:
    sweep = asyncio.run(Sweep(authority).run(prepare, again=again))
    assert sweep.cancelled >= 4
    assert sweep.lost == 0


@pytest.mark.parametrize("prepare", [kept_connection, no_free_connection])
def test_with_the_pool_of_httpcore_a_cancelled_call_costs_the_connection(
    authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch, prepare: Any
) -> None:
    monkeypatch.setattr(transport, "AsyncPool", HttpcorePool)
    assert asyncio.run(Sweep(authority).run(prepare, again=True)).lost == 1


def test_an_attempt_that_is_cancelled_during_the_tls_handshake_closes_its_connection() -> None:
    async def test() -> None:
        accepted: list[asyncio.StreamReader] = []
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(reader)
            await reader.read()
            writer.close()
            ended.set()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = Url.parse(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        posting = AsyncTransport()
        attempt = asyncio.create_task(posting.post(Send(url, api.VERIFY, b"1", {}, 60_000)))
        await until_awaited(lambda: accepted)
        attempt.cancel()
        await asyncio.wait_for(ended.wait(), WAIT_S)
        await posting.close()
        server.close()

    asyncio.run(test())


def test_timeouts_in_threads_cost_no_connection(authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than connections wait for one, and time out at all moments."""
    monkeypatch.setitem(transport._POOL, "max_connections", 2)
    monkeypatch.setattr(authority, "delay_s", 0.03)
    url = Url.parse(authority.url)
    posting = Transport()

    def ask(timeout_ms: int) -> None:
        for _ in range(20):
            posting.post(Send(url, api.VERIFY, b"1", {}, timeout_ms))

    threads = [threading.Thread(target=ask, args=(timeout_ms,)) for timeout_ms in range(20, 100, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert posting._pools is not None
    pool = posting._pools[url]
    assert (pool.lanes.taken, pool._free._value) == (0, 2)
    assert pool.lanes.idle <= 2
    lost = posting.post(Send(url, api.VERIFY, b"1", {}, 5_000))
    assert isinstance(lost, Lost)
    assert lost.unopened  # The server answered.
    posting.close()
