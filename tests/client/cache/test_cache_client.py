"""The cache in both clients, against a fake authority on loopback that has a journal."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.client.cache.model.realm import NOW_MS, Realm
from tests.client.conftest import Caller
from tests.client.fake_authority import FakeAuthority, hang
from tests.waiting import until
from tkdb import api, errors
from tkdb.macaroon.access import Access, Policy
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.token import Macaroon
from tkdb_client import AsyncClient, Client
from tkdb_client.cache.cache import IDLE_MS
from tkdb_client.clock import Clock
from tkdb_client.verification import verification
from tkdb_client.verification.rate_limit import LINEAGE_BURST, LINEAGE_EVERY_MS

WAIT_S = 60
READ = Access(organization="acme", action="r", now_s=NOW_MS / 1000)


class RealmServer:
    """The fake authority with the tokens and revocations of a realm, and a clock that the test can move forward."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.realm = Realm()
        self.authority = authority
        self.ahead_ms = 0
        authority.handler = self.answer
        authority.position = self.realm.position

    def answer(self, call: Any) -> Any:
        known = len(self.realm.entries)
        match call:
            case api.Verify():
                return api.Verified([self.realm.verify(text, known) for text in call.bundles])
            case api.Revocations():
                return self.realm.feed(call.kids, self.realm.journal, call.after, known)
            case api.Revoke():
                for target in call.targets:
                    self.revoke(target)  # type: ignore[arg-type]  # only lineages and branches
                return api.Revoked(already=False)
            case api.RevokeOwn():
                token = Macaroon.parse(call.token)
                self.revoke(api.Branch(token.kid, token.nonce, token.branch))
                return api.Revoked(already=False)
        raise errors.NotFound("the fake authority doesn't have this method")

    def revoke(self, revocation: api.Revocation) -> None:
        self.realm.revoke(revocation)
        self.authority.position = self.realm.position

    def clock(self) -> Clock:
        return Clock(monotonic_ms=lambda: time.monotonic_ns() // 1_000_000 + self.ahead_ms)

    def count(self, kind: type = api.Verify) -> int:
        return sum(isinstance(request.call, kind) for request in self.authority.requests)


@pytest.fixture
def server(authority: FakeAuthority) -> RealmServer:
    return RealmServer(authority)


Connect = Callable[..., Caller]


@pytest.fixture
def cached(connect: Connect, server: RealmServer) -> Connect:
    def make(**settings: Any) -> Caller:
        given = {"cache_bytes": 1 << 20, "clock": server.clock(), "policy": Policy(clock=lambda: NOW_MS / 1000)}
        return connect(**(given | settings))

    return make


def denied(caller: Caller, token: Macaroon) -> bool:
    """Return True if the token is denied as revoked. An awaited client first gets time to follow the feed."""
    if isinstance(caller.client, AsyncClient):
        assert caller._runner is not None
        caller._runner.run(asyncio.sleep(0.01))
    try:
        caller.call("verify", token.text)
    except errors.RevokedToken:
        return True
    return False


def test_a_cached_token_and_its_children_verify_without_a_request(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(), server.realm.mint()
    for each in (token, token, token.narrow(Act("r")), token.narrow(Exp(1_900_000_000), Act("r"))):
        for text in (each.text, each, f"Bearer {each.text}"):
            verified = caller.call("verify", text)
            assert verified.macaroon == each
            verified.clear(READ)
    assert server.count() == 1
    info = caller.client.cache_info()
    assert (info.misses, info.hits, info.denials, info.keys) == (1, 11, 0, 1)


def test_a_cache_of_0_bytes_sends_every_verification_and_follows_no_key(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(cache_bytes=0), server.realm.mint()
    for _ in range(3):
        caller.call("verify", token.text)
    assert (server.count(), server.count(api.Revocations)) == (3, 0)


def test_a_revocation_arrives_through_the_feed(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(), server.realm.mint()
    other = server.realm.mint(number=1)
    for each in (token, other):
        caller.call("verify", each.text)
    server.revoke(api.Lineage(token.kid, token.nonce))
    until(lambda: denied(caller, token))
    caller.call("verify", other.text)
    assert server.count() == 3


def test_a_client_s_revocation_is_in_its_cache_when_the_call_returns(cached: Connect, server: RealmServer) -> None:
    for signer in (server.authority.signer, None):
        caller, token = cached(signer=signer), server.realm.mint(number=5 if signer else 6)
        child = token.narrow(Act("r"))
        for each in (token, child, child, child):
            caller.call("verify", each.text)
        caller.call("revoke", child)
        with pytest.raises(errors.RevokedToken):
            caller.call("verify", child.text)
        caller.call("verify", token.text)


def test_verify_many_sends_one_request_for_the_uncached_tokens(cached: Connect, server: RealmServer) -> None:
    caller = cached()
    tokens = [server.realm.mint(number=number) for number in range(4)]
    caller.call("verify", tokens[0].text)
    results = caller.call("verify_many", [tokens[0], tokens[1], tokens[2].narrow(Act("r")), tokens[1], "junk"])
    assert [type(each).__name__ for each in results] == ["Verified"] * 4 + ["MalformedToken"]
    asked = [request.call for request in server.authority.requests if isinstance(request.call, api.Verify)]
    assert [len(each.bundles) for each in asked] == [1, 2]


def test_a_bundle_that_a_machine_is_unsure_about_is_sent_again_alone(cached: Connect, server: RealmServer) -> None:
    caller = cached()
    tokens = [server.realm.mint(number=number) for number in range(3)]
    answer = server.answer

    def unsure_in_a_batch(call: Any) -> Any:
        result = answer(call)
        if isinstance(call, api.Verify) and len(call.bundles) > 1:
            result.results[1] = api.Unsure()
        return result

    server.authority.handler = unsure_in_a_batch
    results = caller.call("verify_many", tokens)
    assert [type(each).__name__ for each in results] == ["Verified"] * 3
    asked = [request.call for request in server.authority.requests if isinstance(request.call, api.Verify)]
    assert [len(each.bundles) for each in asked] == [3, 1]
    assert asked[1].bundles == [tokens[1].text]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_bundle_that_stays_without_a_result_costs_only_its_own(
    cached: Connect, server: RealmServer, monkeypatch: pytest.MonkeyPatch, cache_bytes: int
) -> None:
    monkeypatch.setattr(verification, "UNSURE_TIMEOUT_MS", 200)
    caller = cached(cache_bytes=cache_bytes)
    tokens = [server.realm.mint(number=number) for number in range(3)]
    answer = server.answer

    def unsure_for_good(call: Any) -> Any:
        if isinstance(call, api.Verify) and len(call.bundles) == 1:
            raise errors.Unavailable("this machine doesn't know the key and couldn't check whether it is new")
        result = answer(call)
        if isinstance(call, api.Verify):
            result.results[1] = api.Unsure()
        return result

    server.authority.handler = unsure_for_good
    results = caller.call("verify_many", tokens)
    assert [type(each).__name__ for each in results] == ["Verified", "StaleAuthority", "Verified"]
    assert "doesn't know the key" in results[1].message


# --- no machine answers ----------------------------------------------------------------------------------------------


def stop_answering(server: RealmServer) -> None:
    server.authority.script.extend([hang] * 1_000)


def test_without_the_authority_cached_tokens_clear_until_the_bound_and_then_are_stale(
    cached: Connect, server: RealmServer
) -> None:
    caller = cached(timeout_ms=400, attempt_timeout_ms=200)
    token, stranger = server.realm.mint(), server.realm.mint(number=1)
    caller.call("verify", token.text)
    stop_answering(server)
    server.ahead_ms += 4_000
    caller.call("verify", token.text).clear(READ)
    server.ahead_ms += 2_000
    with pytest.raises(errors.StaleAuthority, match="could not be asked") as stale:
        caller.call("verify", token.text)
    assert stale.value.code == "stale"
    with pytest.raises(errors.Unavailable):
        caller.call("verify", stranger.text)


def test_verify_many_returns_cached_tokens_while_no_machine_answers(cached: Connect, server: RealmServer) -> None:
    caller = cached(timeout_ms=400, attempt_timeout_ms=200)
    known, old, stranger = (server.realm.mint(number=number) for number in range(3))
    caller.call("verify", known.text)
    stop_answering(server)
    first, second, third, junk = caller.call("verify_many", [stranger, known, known.narrow(Act("r")), "junk"])
    second.clear(READ)
    third.clear(READ)
    assert isinstance(first, errors.StaleAuthority)
    assert "isn't cached, and the authority could not be asked" in first.message
    assert isinstance(junk, errors.MalformedToken)
    with pytest.raises(errors.Unavailable):
        caller.call("verify_many", [stranger, old])
    server.ahead_ms += 6_000
    first, second = caller.call("verify_many", [stranger, known])
    assert isinstance(first, errors.StaleAuthority)
    assert isinstance(second, errors.StaleAuthority)
    assert "was verified before" in second.message


def test_a_client_that_refuses_when_stale_sends_no_request_for_a_stale_token(
    cached: Connect, server: RealmServer
) -> None:
    caller, token = cached(when_stale="refuse"), server.realm.mint()
    caller.call("verify", token.text)
    server.ahead_ms += 6_000
    with pytest.raises(errors.StaleAuthority):
        caller.call("verify", token.text)
    (result,) = caller.call("verify_many", [token])
    assert isinstance(result, errors.StaleAuthority)
    assert server.count() == 1


def test_an_answer_that_took_longer_than_the_bound_is_stale(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(bound_ms=1_000, timeout_ms=600, cache_bytes=0), server.realm.mint()
    answer = server.answer

    def late(call: Any) -> Any:
        server.ahead_ms += 1_001
        return answer(call)

    server.authority.handler = late
    with pytest.raises(errors.StaleAuthority, match="the answer took"):
        caller.call("verify", token.text)


@pytest.mark.parametrize(
    "settings", [{"cache_bytes": -1}, {"bound_ms": 0}, {"when_stale": "maybe"}], ids=["size", "bound", "when stale"]
)
def test_invalid_cache_settings_are_refused(cached: Connect, settings: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError):
        cached(**settings)


# --- concurrent calls ------------------------------------------------------------------------------------------------


def verify_at_once(caller: Caller, texts: list[str]) -> list[Any]:
    """Verify all texts at the same time. An error is returned as the result."""
    if isinstance(caller.client, Client):

        def one(text: str) -> Any:
            try:
                return caller.client.verify(text)
            except errors.TkdbError as error:
                return error

        with ThreadPoolExecutor(len(texts)) as pool:
            return list(pool.map(one, texts))

    async def all_() -> list[Any]:
        return await asyncio.gather(*map(caller.client.verify, texts), return_exceptions=True)

    assert caller._runner is not None
    return list(caller._runner.run(all_()))


def test_concurrent_identical_calls_share_one_request(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(), server.realm.mint()
    other = server.realm.mint(number=1)
    server.authority.delay_s = 0.3
    results = verify_at_once(caller, [token.text] * 10 + [other.text] * 10)
    assert [result.macaroon for result in results] == [token] * 10 + [other] * 10
    assert server.count() == 2


def test_a_shared_request_never_returns_the_result_of_another_token(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(), server.realm.mint()
    forged = Macaroon.parse(token.raw[:-1] + bytes([token.raw[-1] ^ 1]))
    server.authority.delay_s = 0.2
    results = verify_at_once(caller, [token.text, forged.text] * 5)
    for good, bad in zip(results[::2], results[1::2], strict=True):
        assert good.macaroon == token
        assert isinstance(bad, errors.BadSignature)
    assert len(set(map(id, results[1::2]))) == 5  # Each caller gets a new error.


def test_if_no_machine_answers_all_waiting_callers_fail_together(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(timeout_ms=500, attempt_timeout_ms=400), server.realm.mint()
    stop_answering(server)
    began_s = time.monotonic()
    results = verify_at_once(caller, [token.text] * 8)
    assert {type(result) for result in results} == {errors.DeadlineExceeded}
    assert time.monotonic() - began_s < WAIT_S
    assert server.count() <= 2  # fewer requests than callers


def test_a_caller_that_waits_for_a_cancelled_call_still_gets_an_answer(authority: FakeAuthority) -> None:
    server = RealmServer(authority)
    token = server.realm.mint()

    async def test() -> None:
        async with AsyncClient(authority.url, authority.identity) as client:
            authority.delay_s = 0.2
            first = asyncio.create_task(client.verify(token.text))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(client.verify(token.text))
            await asyncio.sleep(0.05)
            first.cancel()
            assert (await asyncio.wait_for(second, WAIT_S)).macaroon == token

    asyncio.run(test())


def test_a_holder_cannot_flood_the_authority_with_attenuated_tokens(cached: Connect, server: RealmServer) -> None:
    clock = Clock(monotonic_ms=lambda: 1_000_000, now_ms=lambda: NOW_MS)
    caller, token = cached(clock=clock), server.realm.mint()
    # No child descends from another, and their parent was never presented.
    children = [token.narrow(Act("r"), Exp(1_900_000_000 + number)) for number in range(LINEAGE_BURST + 1)]
    for child in children[:-1]:
        caller.call("verify", child.text)
    with pytest.raises(errors.Overloaded) as slower:
        caller.call("verify", children[-1].text)
    assert slower.value.retry_after_ms == LINEAGE_EVERY_MS
    assert server.count() == LINEAGE_BURST
    caller.call("verify", server.realm.mint(number=1).text)  # The limit doesn't affect another lineage.


def test_concurrent_threads_never_see_a_revocation_undone(authority: FakeAuthority) -> None:
    server = RealmServer(authority)
    tokens = [server.realm.mint(number=number) for number in range(20)]
    errors_seen: list[BaseException] = []
    over = threading.Event()
    with Client(authority.url, authority.identity, signer=authority.signer) as client:

        def reader(mine: list[Macaroon]) -> None:
            revoked: set[int] = set()
            try:
                while not over.is_set():
                    for number, token in enumerate(mine):
                        try:
                            client.verify(token.narrow(Act("r")).text)
                            assert number not in revoked, "a revoked token was accepted"
                        except errors.RevokedToken:
                            revoked.add(number)
            except BaseException as error:  # noqa: BLE001  reported by the test
                errors_seen.append(error)

        threads = [threading.Thread(target=reader, args=(tokens,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for token in tokens[::2]:
            client.revoke(token)
            with pytest.raises(errors.RevokedToken):
                client.verify(token.text)
        over.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert not errors_seen


# --- followers of the feed -------------------------------------------------------------------------------------------


def followers() -> int:
    return sum(thread.name == "tkdb-client" for thread in threading.enumerate())


@pytest.fixture
def alone() -> Iterator[None]:
    """Wait until the followers of other tests have ended."""
    until(lambda: followers() == 0)
    yield
    until(lambda: followers() == 0)


@pytest.mark.usefixtures("alone")
def test_a_closed_client_stops_following_the_feed(authority: FakeAuthority) -> None:
    server = RealmServer(authority)
    with Client(authority.url, authority.identity) as client:
        client.verify(server.realm.mint().text)
        until(lambda: server.count(api.Revocations) > 1)
        assert followers() == 1
    until(lambda: followers() == 0)


@pytest.mark.usefixtures("alone")
def test_an_idle_client_stops_following_and_the_next_call_starts_it_again(authority: FakeAuthority) -> None:
    server = RealmServer(authority)
    token = server.realm.mint()
    with Client(authority.url, authority.identity, clock=server.clock()) as client:
        client.verify(token.text)
        until(lambda: server.count(api.Revocations) > 1)
        server.ahead_ms += IDLE_MS + 1
        until(lambda: followers() == 0)
        assert client.cache_info().entries == 0
        polls = server.count(api.Revocations)
        client.verify(token.text)
        until(lambda: server.count(api.Revocations) > polls)


def test_a_closed_async_client_stops_following_the_feed(authority: FakeAuthority) -> None:
    server = RealmServer(authority)

    async def test() -> None:
        async with AsyncClient(authority.url, authority.identity) as client:
            await client.verify(server.realm.mint().text)
            assert len(client._driver._work.here().tasks) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert client._cache.enlist() is not None  # Its follower has ended, so another could start.

    asyncio.run(test())


def test_the_feed_continues_from_its_position_after_an_outage(cached: Connect, server: RealmServer) -> None:
    caller, token = cached(timeout_ms=300, attempt_timeout_ms=200), server.realm.mint()
    caller.call("verify", token.text)
    server.authority.script.extend([hang] * 3)
    server.revoke(api.Lineage(token.kid, token.nonce))
    until(lambda: denied(caller, token))
    polls = [request.call for request in server.authority.requests if isinstance(request.call, api.Revocations)]
    assert {poll.after for poll in polls[:3]} == {1_000}
