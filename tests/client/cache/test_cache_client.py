"""The cache in both clients, against a fake authority on loopback that keeps a journal."""

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
from tkdb_client.verification.rate_limit import LINEAGE_BURST, LINEAGE_EVERY_MS

WAIT_S = 60
READ = Access(action="r", now_s=NOW_MS / 1000)


class Kept:
    """A realm behind the fake authority, and a clock that can be put forward."""

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
        raise errors.NotFound("the fake doesn't know it")

    def revoke(self, revocation: api.Revocation) -> None:
        self.realm.revoke(revocation)
        self.authority.position = self.realm.position

    def clock(self) -> Clock:
        return Clock(monotonic_ms=lambda: time.monotonic_ns() // 1_000_000 + self.ahead_ms)

    def asked(self, kind: type = api.Verify) -> int:
        return sum(isinstance(request.call, kind) for request in self.authority.requests)


@pytest.fixture
def kept(authority: FakeAuthority) -> Kept:
    return Kept(authority)


Connect = Callable[..., Caller]


@pytest.fixture
def cached(connect: Connect, kept: Kept) -> Connect:
    def make(**settings: Any) -> Caller:
        given = {"cache_bytes": 1 << 20, "clock": kept.clock(), "policy": Policy(clock=lambda: NOW_MS / 1000)}
        return connect(**(given | settings))

    return make


def denied(caller: Caller, token: Macaroon) -> bool:
    """Whether it is denied now; an awaited client gets its turn to follow the feed."""
    if isinstance(caller.client, AsyncClient):
        assert caller._runner is not None
        caller._runner.run(asyncio.sleep(0.01))
    try:
        caller.call("verify", token.text)
    except errors.RevokedToken:
        return True
    return False


def test_what_was_verified_is_verified_again_without_asking_and_so_are_its_children(
    cached: Connect, kept: Kept
) -> None:
    caller, token = cached(), kept.realm.mint()
    for each in (token, token, token.attenuate(Act("r")), token.attenuate(Exp(1_900_000_000), Act("r"))):
        for text in (each.text, each, f"Bearer {each.text}"):
            verified = caller.call("verify", text)
            assert verified.macaroon == each
            verified.clear(READ)
    assert kept.asked() == 1
    info = caller.client.cache_info()
    assert (info.misses, info.hits, info.denials, info.keys) == (1, 11, 0, 1)


def test_with_no_room_everything_is_asked_and_nothing_followed(cached: Connect, kept: Kept) -> None:
    caller, token = cached(cache_bytes=0), kept.realm.mint()
    for _ in range(3):
        caller.call("verify", token.text)
    assert (kept.asked(), kept.asked(api.Revocations)) == (3, 0)


def test_a_revocation_is_heard_of_by_the_feed(cached: Connect, kept: Kept) -> None:
    caller, token = cached(), kept.realm.mint()
    other = kept.realm.mint(number=1)
    for each in (token, other):
        caller.call("verify", each.text)
    kept.revoke(api.Lineage(token.kid, token.nonce))
    until(lambda: denied(caller, token))
    caller.call("verify", other.text)
    assert kept.asked() == 3


def test_a_client_s_own_revocation_is_known_to_its_cache_when_it_returns(cached: Connect, kept: Kept) -> None:
    for signer in (kept.authority.signer, None):
        caller, token = cached(signer=signer), kept.realm.mint(number=5 if signer else 6)
        child = token.attenuate(Act("r"))
        for each in (token, child, child, child):
            caller.call("verify", each.text)
        caller.call("revoke", child)
        with pytest.raises(errors.RevokedToken):
            caller.call("verify", child.text)
        caller.call("verify", token.text)


def test_many_are_verified_with_one_question_about_what_is_not_known(cached: Connect, kept: Kept) -> None:
    caller = cached()
    tokens = [kept.realm.mint(number=number) for number in range(4)]
    caller.call("verify", tokens[0].text)
    results = caller.call("verify_many", [tokens[0], tokens[1], tokens[2].attenuate(Act("r")), tokens[1], "junk"])
    assert [type(each).__name__ for each in results] == ["Verified"] * 4 + ["MalformedToken"]
    asked = [request.call for request in kept.authority.requests if isinstance(request.call, api.Verify)]
    assert [len(each.bundles) for each in asked] == [1, 2]


# --- the authority is gone -------------------------------------------------------------------------------------------


def lose(kept: Kept) -> None:
    kept.authority.script.extend([hang] * 1_000)


def test_without_the_authority_known_tokens_clear_to_the_end_of_the_bound_and_then_are_stale(
    cached: Connect, kept: Kept
) -> None:
    caller = cached(timeout_ms=400, attempt_timeout_ms=200)
    token, stranger = kept.realm.mint(), kept.realm.mint(number=1)
    caller.call("verify", token.text)
    lose(kept)
    kept.ahead_ms += 4_000
    caller.call("verify", token.text).clear(READ)
    kept.ahead_ms += 2_000
    with pytest.raises(errors.StaleAuthority, match="could not be asked") as stale:
        caller.call("verify", token.text)
    assert stale.value.reason is errors.Reason.STALE
    with pytest.raises(errors.Unavailable):
        caller.call("verify", stranger.text)


def test_of_many_those_that_are_known_clear_while_nobody_can_be_asked_about_the_others(
    cached: Connect, kept: Kept
) -> None:
    caller = cached(timeout_ms=400, attempt_timeout_ms=200)
    known, old, stranger = (kept.realm.mint(number=number) for number in range(3))
    caller.call("verify", known.text)
    lose(kept)
    first, second, third, junk = caller.call("verify_many", [stranger, known, known.attenuate(Act("r")), "junk"])
    second.clear(READ)
    third.clear(READ)
    assert isinstance(first, errors.StaleAuthority)
    assert "isn't cached, and the authority could not be asked" in first.message
    assert isinstance(junk, errors.MalformedToken)
    with pytest.raises(errors.Unavailable):
        caller.call("verify_many", [stranger, old])
    kept.ahead_ms += 6_000
    first, second = caller.call("verify_many", [stranger, known])
    assert isinstance(first, errors.StaleAuthority)
    assert isinstance(second, errors.StaleAuthority)
    assert "was verified before" in second.message


def test_who_prefers_to_fail_is_refused_at_once_when_what_is_known_is_too_old(cached: Connect, kept: Kept) -> None:
    caller, token = cached(when_stale="refuse"), kept.realm.mint()
    caller.call("verify", token.text)
    kept.ahead_ms += 6_000
    with pytest.raises(errors.StaleAuthority):
        caller.call("verify", token.text)
    (result,) = caller.call("verify_many", [token])
    assert isinstance(result, errors.StaleAuthority)
    assert kept.asked() == 1


def test_an_answer_that_was_too_long_on_its_way_is_not_believed(cached: Connect, kept: Kept) -> None:
    caller, token = cached(bound_ms=1_000, timeout_ms=600, cache_bytes=0), kept.realm.mint()
    answer = kept.answer

    def late(call: Any) -> Any:
        kept.ahead_ms += 1_001
        return answer(call)

    kept.authority.handler = late
    with pytest.raises(errors.StaleAuthority, match="the answer took"):
        caller.call("verify", token.text)


@pytest.mark.parametrize(
    "settings", [{"cache_bytes": -1}, {"bound_ms": 0}, {"when_stale": "maybe"}], ids=["size", "bound", "when stale"]
)
def test_settings_of_the_cache_that_mean_nothing_are_refused(cached: Connect, settings: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError):
        cached(**settings)


# --- many at once ----------------------------------------------------------------------------------------------------


def verify_at_once(caller: Caller, texts: list[str]) -> list[Any]:
    """Verify all at the same time; what is raised is the result."""
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


def test_the_same_question_at_the_same_time_is_asked_once(cached: Connect, kept: Kept) -> None:
    caller, token = cached(), kept.realm.mint()
    other = kept.realm.mint(number=1)
    kept.authority.delay_s = 0.3
    results = verify_at_once(caller, [token.text] * 10 + [other.text] * 10)
    assert [result.macaroon for result in results] == [token] * 10 + [other] * 10
    assert kept.asked() == 2


def test_who_waits_for_another_s_question_gets_no_result_of_another_token(cached: Connect, kept: Kept) -> None:
    caller, token = cached(), kept.realm.mint()
    forged = Macaroon.parse(token.raw[:-1] + bytes([token.raw[-1] ^ 1]))
    kept.authority.delay_s = 0.2
    results = verify_at_once(caller, [token.text, forged.text] * 5)
    for good, bad in zip(results[::2], results[1::2], strict=True):
        assert good.macaroon == token
        assert isinstance(bad, errors.BadSignature)
    assert len(set(map(id, results[1::2]))) == 5  # an error is its raiser's own


def test_when_nobody_answers_all_who_wait_are_told_at_once(cached: Connect, kept: Kept) -> None:
    caller, token = cached(timeout_ms=500, attempt_timeout_ms=400), kept.realm.mint()
    lose(kept)
    began_s = time.monotonic()
    results = verify_at_once(caller, [token.text] * 8)
    assert {type(result) for result in results} == {errors.DeadlineExceeded}
    assert time.monotonic() - began_s < WAIT_S
    assert kept.asked() <= 2  # not once for each


def test_a_call_that_is_cancelled_leaves_those_who_wait_for_it_an_answer(authority: FakeAuthority) -> None:
    kept = Kept(authority)
    token = kept.realm.mint()

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


def test_who_holds_a_token_can_not_turn_the_client_on_the_authority_by_attenuating_it(
    cached: Connect, kept: Kept
) -> None:
    caller, token = cached(clock=Clock(monotonic_ms=lambda: 1_000_000)), kept.realm.mint()
    # None of them descends from another, and what they descend from was never shown here.
    children = [token.attenuate(Act("r"), Exp(1_900_000_000 + number)) for number in range(LINEAGE_BURST + 1)]
    for child in children[:-1]:
        caller.call("verify", child.text)
    with pytest.raises(errors.Overloaded) as slower:
        caller.call("verify", children[-1].text)
    assert slower.value.retry_after_ms == LINEAGE_EVERY_MS
    assert kept.asked() == LINEAGE_BURST
    caller.call("verify", kept.realm.mint(number=1).text)  # another lineage pays nothing for that


def test_threads_that_verify_while_revocations_come_never_see_one_undone(authority: FakeAuthority) -> None:
    kept = Kept(authority)
    tokens = [kept.realm.mint(number=number) for number in range(20)]
    errors_seen: list[BaseException] = []
    over = threading.Event()
    with Client(authority.url, authority.identity, signer=authority.signer) as client:

        def reader(mine: list[Macaroon]) -> None:
            dead: set[int] = set()
            try:
                while not over.is_set():
                    for number, token in enumerate(mine):
                        try:
                            client.verify(token.attenuate(Act("r")).text)
                            assert number not in dead, "it lives again"
                        except errors.RevokedToken:
                            dead.add(number)
            except BaseException as error:  # noqa: BLE001  told to the test
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


# --- following -------------------------------------------------------------------------------------------------------


def followers() -> int:
    return sum(thread.name == "tkdb-client" for thread in threading.enumerate())


@pytest.fixture
def alone() -> Iterator[None]:
    """Followers of other tests' clients have ended."""
    until(lambda: followers() == 0)
    yield
    until(lambda: followers() == 0)


@pytest.mark.usefixtures("alone")
def test_a_client_that_is_closed_follows_no_more(authority: FakeAuthority) -> None:
    kept = Kept(authority)
    with Client(authority.url, authority.identity) as client:
        client.verify(kept.realm.mint().text)
        until(lambda: kept.asked(api.Revocations) > 1)
        assert followers() == 1
    until(lambda: followers() == 0)


@pytest.mark.usefixtures("alone")
def test_a_client_that_is_not_used_follows_no_more_and_begins_again(authority: FakeAuthority) -> None:
    kept = Kept(authority)
    token = kept.realm.mint()
    with Client(authority.url, authority.identity, clock=kept.clock()) as client:
        client.verify(token.text)
        until(lambda: kept.asked(api.Revocations) > 1)
        kept.ahead_ms += IDLE_MS + 1
        until(lambda: followers() == 0)
        assert client.cache_info().entries == 0
        polls = kept.asked(api.Revocations)
        client.verify(token.text)
        until(lambda: kept.asked(api.Revocations) > polls)


def test_an_awaited_client_that_is_closed_follows_no_more(authority: FakeAuthority) -> None:
    kept = Kept(authority)

    async def test() -> None:
        async with AsyncClient(authority.url, authority.identity) as client:
            await client.verify(kept.realm.mint().text)
            assert len(client._driver._tasks) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert client._cache.enlist() is not None  # its follower has signed off: another could begin

    asyncio.run(test())


def test_the_feed_goes_on_from_its_position_after_the_authority_was_away(cached: Connect, kept: Kept) -> None:
    caller, token = cached(timeout_ms=300, attempt_timeout_ms=200), kept.realm.mint()
    caller.call("verify", token.text)
    kept.authority.script.extend([hang] * 3)
    kept.revoke(api.Lineage(token.kid, token.nonce))
    until(lambda: denied(caller, token))
    polls = [request.call for request in kept.authority.requests if isinstance(request.call, api.Revocations)]
    assert {poll.after for poll in polls[:3]} == {1_000}
