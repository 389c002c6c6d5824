"""Clients in processes that fork: preloaded web servers, worker pools, and task queues.

The parent's threads and event loops go on while it forks. A child may never wait for one of them, and never use one of
the parent's connections.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import select
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import FunctionType, ModuleType
from typing import Any, Self

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.background import Background
from tests.client import fake_authority as fake
from tests.client.cache.test_cache_client import RealmServer
from tests.client.fake_authority import FakeAuthority
from tests.client.web.fake_server import scope
from tests.waiting import until
from tkdb import api, errors
from tkdb.attestation import Verifier
from tkdb.macaroon.token import Macaroon
from tkdb_client import AsyncClient, Client
from tkdb_client.configured import Configured
from tkdb_client.httpx import TokenAuth
from tkdb_client.web.facts import Arrived, Attestation

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

WAIT_S = 60
HUNG_S = 3


class Hung(Exception):
    """The child didn't end in time."""


class Child:
    """A forked child that does some work, and reports its result or error."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.write(writing, pickle.dumps(_outcome(work)))
            finally:
                os._exit(0)
        os.close(writing)

    def result(self, wait_s: float = WAIT_S) -> Any:
        try:
            if not select.select([self._reading], [], [], wait_s)[0]:
                os.kill(self._pid, signal.SIGKILL)
                raise Hung
            outcome = pickle.loads(os.read(self._reading, 1 << 16))  # noqa: S301 -- from this test's own child
        finally:
            os.close(self._reading)
            os.waitpid(self._pid, 0)
        if isinstance(outcome, str):
            raise AssertionError(outcome)
        return outcome[0]


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return [work()]
    except BaseException:  # noqa: BLE001 -- the parent reports it
        return traceback.format_exc()


@pytest.fixture
def server(authority: FakeAuthority) -> RealmServer:
    return RealmServer(authority)


@pytest.fixture
def client(authority: FakeAuthority) -> Iterator[Client]:
    with Client(authority.url, authority.identity, signer="") as made:
        yield made


class Awaited:
    """An AsyncClient in use in an event loop of another thread."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.client = AsyncClient(authority.url, authority.identity, signer="")
        self._background = Background("app")

    def __enter__(self) -> Self:
        self._background.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._background.do(self.client.close())
        self._background.stop()

    def verify(self, token: Macaroon) -> str:
        return self._background.do(self.client.verify(token)).organization


def organization_in_child(client: Client | AsyncClient, token: Macaroon) -> str:
    if isinstance(client, Client):
        return client.verify(token).organization
    return asyncio.run(client.verify(token)).organization


def locks_of(client: object) -> list[Any]:
    """Return every lock that a client's objects hold."""
    found, seen, todo = [], set[int](), [client]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | threading.Thread):
            continue
        seen.add(id(each))
        if isinstance(each, type(threading.Lock()) | type(threading.RLock())):
            found.append(each)
        # The globals of a function aren't the client's.
        todo += list(each.__closure__ or ()) if isinstance(each, FunctionType) else gc.get_referents(each)
    return found


def test_a_child_of_a_busy_parent_verifies_over_its_own_connection(
    client: Client, authority: FakeAuthority, server: RealmServer
) -> None:
    known, new, later = (server.realm.mint(number=number) for number in range(3))
    client.verify(known)
    parents = {request.connection for request in authority.requests}

    def work() -> Any:
        return client.verify(known).organization, client.verify(new).organization

    assert Child(work).result() == ("acme", "acme")
    client.verify(later)
    last = next(each for each in reversed(authority.requests) if isinstance(each.call, api.Verify))
    assert last.connection in parents  # The child hasn't ended its parent's connection.
    of_child = [each for each in authority.requests if isinstance(each.call, api.Verify)][1:-1]
    assert len(of_child) == 2
    assert not {each.connection for each in of_child} & parents
    ephemeral = [each.message[:32] for each in authority.requests]
    assert len(set(ephemeral)) == len(ephemeral)


def test_a_child_of_a_parent_with_an_event_loop_verifies_and_the_loop_goes_on(
    authority: FakeAuthority, server: RealmServer
) -> None:
    with Awaited(authority) as app:
        assert app.verify(server.realm.mint()) == "acme"
        parents = {request.connection for request in authority.requests}
        work = lambda: organization_in_child(app.client, server.realm.mint(number=1))  # noqa: E731
        assert Child(work).result() == "acme"
        asked = [each for each in authority.requests if isinstance(each.call, api.Verify)]
        childs = asked[-1].connection
        assert childs not in parents
        assert app.verify(server.realm.mint(number=2)) == "acme"
        last = next(each for each in reversed(authority.requests) if isinstance(each.call, api.Verify))
        assert last.connection != childs
        polls = server.count(api.Revocations)
        until(lambda: server.count(api.Revocations) > polls)  # The parent's follower goes on.


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_child_never_waits_for_a_lock_that_its_parent_held(
    authority: FakeAuthority, server: RealmServer, kind: Any
) -> None:
    client = kind(authority.url, authority.identity, signer="")
    token = server.realm.mint()
    assert organization_in_child(client, token) == "acme"
    assert fork_with_all_locks_held(client, server).result() == "acme"
    asyncio.run(client.close()) if kind is AsyncClient else client.close()


def test_without_renewal_a_child_waits_for_a_lock_of_its_parent_forever(
    client: Client, server: RealmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Configured, "_renew", lambda self: None)
    client.verify(server.realm.mint())
    with pytest.raises(Hung):
        fork_with_all_locks_held(client, server).result(HUNG_S)


def fork_with_all_locks_held(client: Client | AsyncClient, server: RealmServer) -> Child:
    other = server.realm.mint(number=1)
    with ExitStack() as stack:
        locks = locks_of(client)
        assert len(locks) >= 4
        for lock in locks:
            if lock.acquire(timeout=0.1):
                stack.callback(lock.release)
        return Child(lambda: organization_in_child(client, other))


def test_a_child_does_not_wait_for_a_request_of_its_parent(
    client: Client, authority: FakeAuthority, server: RealmServer
) -> None:
    token = server.realm.mint()
    authority.script.append(fake.hang)
    thread = threading.Thread(target=client.verify, args=(token,))
    thread.start()
    until(lambda: authority.requests)
    assert Child(lambda: client.verify(token).organization).result() == "acme"
    thread.join(WAIT_S)


def test_a_child_learns_of_revocations_itself(client: Client, server: RealmServer) -> None:
    """No follower runs in the child until it begins its own."""
    token = server.realm.mint()
    client.verify(token)

    def work() -> str:
        client.verify(token)
        os.write(ready, b"1")

        def is_revoked() -> bool:
            try:
                client.verify(token)
            except errors.RevokedToken:
                return True
            return False

        return str(until(is_revoked))

    waiting, ready = os.pipe()
    child = Child(work)
    os.read(waiting, 1)
    server.revoke(api.Lineage(token.kid, token.nonce))
    assert child.result() == "True"
    os.close(waiting)
    os.close(ready)


def test_many_workers_of_a_preloaded_app_verify_at_the_same_time(client: Client, server: RealmServer) -> None:
    tokens = [server.realm.mint(number=number) for number in range(12)]
    client.verify(tokens[0])
    children = [Child(lambda: [client.verify(token).organization for token in tokens]) for _ in range(4)]
    assert [child.result() for child in children] == [["acme"] * 12] * 4


def test_a_grandchild_verifies(client: Client, server: RealmServer) -> None:
    client.verify(server.realm.mint())
    token = server.realm.mint(number=1)
    assert Child(lambda: Child(lambda: client.verify(token).organization).result()).result() == "acme"


_shared: Client


def _verify(text: str) -> str:
    return _shared.verify(text).organization


def test_a_forked_pool_of_multiprocessing_shares_a_global_client(client: Client, server: RealmServer) -> None:
    global _shared
    _shared = client
    texts = [server.realm.mint(number=number).text for number in range(8)]
    client.verify(texts[0])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_verify, texts).get(WAIT_S) == ["acme"] * 8


def test_a_closed_client_stays_closed_in_a_child(client: Client, server: RealmServer) -> None:
    client.close()

    def work() -> str:
        with pytest.raises(errors.ConfigurationError, match="closed"):
            client.verify(server.realm.mint())
        return "refused"

    assert Child(work).result() == "refused"


def test_a_child_checks_attestations_although_its_parent_held_the_lock() -> None:
    attestation = Attestation(Verifier(Ed25519PrivateKey.generate().public_key(), apps=["shop"]))
    arrived = Arrived.of_scope(scope("/", client=("127.0.0.1", 40_000)))
    with attestation._lock:
        child = Child(lambda: attestation.source(arrived))
    assert child.result() is None


def test_a_child_sends_tokens_with_httpx_although_its_parent_held_the_lock(client: Client, server: RealmServer) -> None:
    auth = TokenAuth(client, server.realm.mint, audience="billing", origin="https://billing.internal")

    def work() -> str:
        request = next(auth.sync_auth_flow(httpx.Request("GET", "https://billing.internal/invoices")))
        return request.headers["authorization"][:7]

    with auth._lock:
        child = Child(work)
    assert child.result() == "Bearer "
