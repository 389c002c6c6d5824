"""Name lookups that take too long. They must hold up neither a call, nor the app, nor the end of the process."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.fake_authority import FakeAuthority, report
from tkdb import errors
from tkdb.net import names
from tkdb.net.names import Names
from tkdb_client import AsyncClient

DEAD = "http://dead.internal:8080"
WAIT_S = 20


class Resolver:
    """The system's resolver. It doesn't answer for names that end in .internal until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.lookups: list[str] = []
        self.threads: set[str] = set()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, *args: Any, **given: Any) -> Any:
        if not str(host).endswith(".internal"):
            return self._real(host, *args, **given)
        self.lookups.append(host)
        self.threads.add(threading.current_thread().name)
        self.over.wait(WAIT_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.over.set()
    for thread in threading.enumerate():
        if thread.name == "tkdb-names":
            thread.join(WAIT_S)


def test_a_call_ends_by_its_deadline_although_the_resolver_does_not_answer(connect: Any, resolver: Resolver) -> None:
    client = connect(url=DEAD, timeout_ms=400, attempt_timeout_ms=100)
    with pytest.raises(errors.DeadlineExceeded, match="couldn't be connected to within"):
        client.call("status")
    assert not resolver.over.is_set()
    assert resolver.lookups == ["dead.internal"]  # The attempts share one lookup.


def test_the_next_region_is_asked_and_later_calls_skip_the_unknown_name(
    connect: Any, authority: FakeAuthority, resolver: Resolver
) -> None:
    client = connect(url=[DEAD, authority.url], attempt_timeout_ms=200)
    for _ in range(3):
        assert client.call("status") == report()
    assert not resolver.over.is_set()
    assert resolver.lookups == ["dead.internal"]


def test_a_name_without_an_address_is_left_at_once(connect: Any, authority: FakeAuthority, resolver: Resolver) -> None:
    resolver.over.set()
    client = connect(url=[DEAD, authority.url], attempt_timeout_ms=60_000, timeout_ms=60_000)
    assert client.call("status") == report()


def test_the_executor_of_the_app_is_not_used_and_its_loop_ends_at_once(resolver: Resolver) -> None:
    async def test(authority: FakeAuthority) -> None:
        async with AsyncClient(DEAD, authority.identity, signer="", timeout_ms=300, attempt_timeout_ms=100) as client:
            asked = await asyncio.gather(*(client.status() for _ in range(40)), return_exceptions=True)
        assert all(isinstance(each, errors.Unavailable) for each in asked)
        await asyncio.to_thread(int)

    with FakeAuthority() as authority:
        asyncio.run(test(authority))  # It would wait for a lookup in its executor.
    assert not resolver.over.is_set()
    assert resolver.threads == {"tkdb-names"}


def test_a_process_ends_while_a_name_is_looked_up() -> None:
    program = """
import socket, threading, time
socket.getaddrinfo = lambda *_, **__: time.sleep(600)
from tkdb.net.names import Names
try:
    Names().addresses("dead.internal", 80, timeout_s=0.05)
except TimeoutError:
    print("timed out")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("timed out\n", "", 0)


def test_the_number_of_threads_is_limited_and_further_names_wait(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "THREADS_MAX", 2)
    looked_up = Names()
    for number in range(5):
        with pytest.raises(TimeoutError):
            looked_up.addresses(f"dead-{number}.internal", 80, timeout_s=0.05)
    assert len(resolver.lookups) == 2
    assert looked_up.addresses("127.0.0.1", 80, timeout_s=0.05)  # An address needs no thread.
    resolver.over.set()
    assert looked_up.addresses("localhost", 80, timeout_s=WAIT_S)


def test_a_lookup_without_a_thread_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="no thread could be started"):
        Names().addresses("dead.internal", 80, timeout_s=WAIT_S)


def test_a_name_that_cannot_be_encoded_has_no_address() -> None:
    with pytest.raises(OSError, match="can't be looked up"):
        Names().addresses("a" * 64 + ".internal", 80, timeout_s=WAIT_S)


def test_with_a_lookup_in_the_caller_s_thread_a_call_waits_for_the_resolver(
    connect: Any, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def addresses(_: Names, host: str, port: int, **__: object) -> Any:
        threading.Timer(0.5, resolver.over.set).start()
        return names._ask_system(host, port)

    async def awaited(looked_up: Names, host: str, port: int) -> Any:
        return addresses(looked_up, host, port)

    monkeypatch.setattr(Names, "addresses", addresses)
    monkeypatch.setattr(Names, "addresses_awaited", awaited)
    client = connect(url=DEAD, timeout_ms=200, attempt_timeout_ms=100)
    with pytest.raises(errors.Unavailable):
        client.call("status")
    assert resolver.over.is_set()
