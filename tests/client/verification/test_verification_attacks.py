"""Attacks on verification with the cache: results that become stale during requests about other tokens, and refusals
without a reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.client.cache.model.single import BOUND_MS, Single, digest
from tkdb import api, errors
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.token import Macaroon
from tkdb.rate_limit import RateLimiter
from tkdb_client.calls.call import Calls
from tkdb_client.calls.effects import Background, Join, Steps
from tkdb_client.verification.batches import batches
from tkdb_client.verification.feed_follower import FeedFollower
from tkdb_client.verification.rate_limit import LINEAGE_BURST
from tkdb_client.verification.verification import Verification
from tkdb_client.verified import Verified


class FakeCalls:
    """A replacement for the exchange: the realm answers, after the next action in ``before``."""

    def __init__(self, single: Single) -> None:
        self.single = single
        self.calls: list[list[str]] = []
        self.before: list[Callable[[], object]] = []
        self.fails: errors.TkdbError | None = None

    def ask(self, _path: str, call: Any, **_: object) -> Steps[Any]:
        if isinstance(call, api.Verify):
            self.calls.append(list(call.bundles))
            if self.fails is not None:
                raise self.fails
            if self.before:
                self.before.pop(0)()
            known = len(self.single.realm.entries)
            results = [self.single.realm.verify(text, known) for text in call.bundles]
            return api.Verified(results), self.single.reply()
        yield from ()
        raise errors.Unavailable("this fake has no feed")

    def saw(self, _journal: bytes, _position: int) -> None:
        """Do nothing: there is only one machine."""


class Verifying:
    """A verification whose steps run at once."""

    def __init__(self, *, when_stale: str = "ask") -> None:
        self.single = Single()
        self.realm = self.single.realm
        self.exchange: Any = FakeCalls(self.single)
        exchange: Calls = self.exchange
        feed = FeedFollower(
            exchange,
            self.single.cache,
            bound_ms=BOUND_MS,
            timeout_ms=10_000,
            monotonic_ms=lambda: self.single.now_ms,
            random=bytes,
        )
        self.verification = Verification(
            exchange,
            self.single.cache,
            feed,
            bound_ms=BOUND_MS,
            asks_when_stale=when_stale == "ask",
            timeout_ms=10_000,
            monotonic_ms=lambda: self.single.now_ms,
        )

    def verify(self, token: Macaroon) -> Any:
        return self.run(self.verification.verify(Bundle(token)))

    def verify_many(self, *tokens: Macaroon) -> list[Any]:
        results: list[Any] = self.run(self.verification.verify_many([Bundle(token) for token in tokens]))
        return results

    @staticmethod
    def run(steps: Steps[Any], answer: Any = None) -> Any:
        """Run the steps to their end. ``answer`` is the answer to the last step that already ran."""
        try:
            step: Any = steps.send(answer)
            while True:
                assert isinstance(step, Background | Join)
                step = steps.send(step.other.done()) if isinstance(step, Join) else next(steps)
        except StopIteration as end:
            return end.value


def advance(verifying: Verifying, for_ms: int, *revocations: api.Revocation) -> Callable[[], None]:
    def happen() -> None:
        for revocation in revocations:
            verifying.realm.revoke(revocation)
        verifying.single.now_ms += for_ms

    return happen


def lineage(token: Macaroon) -> api.Lineage:
    return api.Lineage(token.kid, token.nonce)


# --- verify_many: all results must be fresh at the same time ---------------------------------------------------------


def test_verify_many_rechecks_a_cached_token_if_the_last_answer_comes_after_the_bound() -> None:
    verifying = Verifying()
    known, unknown = verifying.realm.mint(), verifying.realm.mint(number=1)
    verifying.verify(known)
    verifying.exchange.before = [advance(verifying, BOUND_MS + 1, lineage(known))]
    first, second = verifying.verify_many(known, unknown)
    assert isinstance(first, errors.RevokedToken)
    assert second.macaroon == unknown


def test_verify_many_denies_a_cached_token_that_is_revoked_during_the_request() -> None:
    verifying = Verifying()
    known, unknown = verifying.realm.mint(), verifying.realm.mint(number=1)
    verifying.verify(known)

    def revoke_and_poll() -> None:
        verifying.realm.revoke(lineage(known))
        verifying.single.poll()

    verifying.exchange.before = [revoke_and_poll]
    first, second = verifying.verify_many(known, unknown)
    assert isinstance(first, errors.RevokedToken)
    assert second.macaroon == unknown


def test_verify_many_rechecks_the_first_answer_if_the_last_comes_after_the_bound() -> None:
    verifying = Verifying()
    tokens = [verifying.realm.mint(number=number) for number in range(api.MAX_BUNDLES + 1)]
    nothing = advance(verifying, 0)
    verifying.exchange.before = [nothing, advance(verifying, BOUND_MS + 1, lineage(tokens[0]))]
    assert len(list(batches(tokens, lambda token: len(token.text) + 5, api.MAX_BUNDLES))) == 2
    results = verifying.verify_many(*tokens)
    assert isinstance(results[0], errors.RevokedToken)
    assert [result.macaroon for result in results[1:]] == tokens[1:]


def test_verify_many_may_take_longer_than_the_bound_if_the_feed_keeps_results_fresh() -> None:
    verifying = Verifying()
    tokens = [verifying.realm.mint(number=number) for number in range(2 * api.MAX_BUNDLES + 1)]

    def advance_and_poll() -> None:
        verifying.single.now_ms += BOUND_MS * 2 // 3
        if verifying.single.cache.info().keys:
            verifying.single.poll()

    verifying.exchange.before = [advance_and_poll] * 3
    assert [result.macaroon for result in verifying.verify_many(*tokens)] == tokens
    assert len(verifying.exchange.calls) == 3


def test_verify_many_stops_and_reports_stale_if_results_are_never_fresh_together() -> None:
    verifying = Verifying()
    tokens = [verifying.realm.mint(number=number) for number in range(2 * api.MAX_BUNDLES)]
    verifying.exchange.before = [advance(verifying, BOUND_MS + 1) for _ in range(100)]
    results = verifying.verify_many(*tokens)
    asked_last = set(verifying.exchange.calls[-1])
    for token, result in zip(tokens, results, strict=True):
        assert isinstance(result, Verified if token.text in asked_last else errors.StaleAuthority)
    assert len(verifying.exchange.calls) < 10


def test_verify_many_does_not_accept_a_token_that_is_revoked_before_its_request_fails() -> None:
    verifying = Verifying()
    known, revoked, unknown = (verifying.realm.mint(number=number) for number in range(3))
    verifying.verify_many(known, revoked)

    def poll_and_fail() -> None:
        verifying.realm.revoke(lineage(revoked))
        verifying.single.poll()
        raise errors.Unavailable("no machine answers")

    verifying.exchange.before = [poll_and_fail]
    first, second, third = verifying.verify_many(known, revoked, unknown)
    assert first.macaroon == known
    assert isinstance(second, errors.StaleAuthority)
    assert isinstance(third, errors.StaleAuthority)


@pytest.mark.parametrize("error", [errors.StaleAuthority("the data is too old"), errors.DeadlineExceeded("too late")])
def test_verify_many_raises_the_cause_if_no_token_is_cached(error: errors.TkdbError) -> None:
    verifying = Verifying()
    known, unknown = (verifying.realm.mint(number=number) for number in range(2))
    verifying.verify(known)
    verifying.exchange.fails = error
    assert isinstance(verifying.verify_many(known, unknown)[1], errors.StaleAuthority)
    with pytest.raises(type(error)):
        verifying.verify_many(unknown)


def test_verify_many_raises_a_refusal_for_all_tokens() -> None:
    verifying = Verifying()
    known, unknown = (verifying.realm.mint(number=number) for number in range(2))
    verifying.verify(known)
    verifying.exchange.fails = errors.Refused("no")
    with pytest.raises(errors.Refused):
        verifying.verify_many(known, unknown)


def test_verify_many_sends_a_repeated_token_once_and_answers_each() -> None:
    verifying = Verifying()
    good, revoked = verifying.realm.mint(), verifying.realm.mint(number=1)
    verifying.realm.revoke(lineage(revoked))
    results = verifying.verify_many(good, revoked, good, revoked, revoked)
    assert [getattr(result, "macaroon", None) for result in results] == [good, None, good, None, None]
    assert all(isinstance(results[place], errors.RevokedToken) for place in (1, 3, 4))
    assert [len(call) for call in verifying.exchange.calls] == [2]


# --- refused as stale without a reason ------------------------------------------------------------------------------


def test_a_client_that_refuses_when_stale_still_verifies_an_uncached_token() -> None:
    """With many revoked branches, a descendant isn't verified locally. That doesn't make it stale."""
    verifying = Verifying(when_stale="refuse")
    token = verifying.realm.mint()
    child = token.narrow(Act("r"))
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        verifying.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    verifying.verify(token)
    assert verifying.verify(child).macaroon == child
    assert verifying.verify_many(child.narrow(Exp(1_900_000_000)))[0].macaroon.raw
    verifying.single.now_ms += BOUND_MS + 1
    with pytest.raises(errors.StaleAuthority):
        verifying.verify(token)


@pytest.mark.parametrize("many", [False, True])
def test_a_client_that_refuses_when_stale_accepts_a_token_that_another_thread_just_cached(
    monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """The answer to another thread arrives after the lookup and before the check why it failed."""
    verifying = Verifying(when_stale="refuse")
    token = verifying.realm.mint()
    find = verifying.single.cache.find

    def find_late(bundle: Bundle, digest_: bytes) -> Any:
        found = find(bundle, digest_)
        monkeypatch.undo()
        verifying.single.ask(token)
        return found

    monkeypatch.setattr(verifying.single.cache, "find", find_late)
    result = verifying.verify_many(token)[0] if many else verifying.verify(token)
    assert result.macaroon == token


def test_an_uncached_descendant_is_unavailable_and_not_stale() -> None:
    """Without an answer, a token is stale only if it was cached itself."""
    verifying = Verifying()
    token = verifying.realm.mint()
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        verifying.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    verifying.verify(token)
    verifying.single.now_ms += BOUND_MS + 1
    verifying.exchange.fails = errors.Unavailable("no machine answers")
    with pytest.raises(errors.StaleAuthority):
        verifying.verify(token)
    with pytest.raises(errors.Unavailable):
        verifying.verify(token.narrow(Act("r")))


# --- single flight ---------------------------------------------------------------------------------------------------


def test_a_waiting_caller_sends_a_request_if_the_shared_answer_is_outdated() -> None:
    """The shared answer was true when it was sent. The feed has reported a revocation since."""
    verifying = Verifying()
    token = verifying.realm.mint()
    bundle = Bundle(token)
    flights, key = verifying.verification._single_flight, (None, digest(bundle))
    assert flights.join(key) is None
    waiting = verifying.verification.verify(bundle)
    assert isinstance(next(waiting), Join)
    verifying.single.ask(token)
    verifying.realm.revoke(lineage(token))
    verifying.single.poll()
    flights.finish(key)
    with pytest.raises(errors.RevokedToken):
        verifying.run(waiting, True)
    assert len(verifying.exchange.calls) == 1


# --- the rate limit --------------------------------------------------------------------------------------------------


def test_forged_tokens_do_not_use_up_the_rate_limit_of_their_lineage() -> None:
    """An attacker without the token can make forgeries of any lineage. They must not count against its holders."""
    verifying = Verifying()
    token = verifying.realm.mint()
    for number in range(2 * LINEAGE_BURST):
        forged = token.narrow(Exp(1_900_000_000 + number))
        with pytest.raises(errors.BadSignature):
            verifying.verify(Macaroon.parse(forged.raw[:-1] + bytes([forged.raw[-1] ^ 1])))
    assert verifying.verify(token.narrow(Act("r"))).macaroon.raw


class WatchedLimiter(RateLimiter):
    """A rate limiter that records if two threads are inside it at the same time."""

    inside, overlapped = 0, False

    def take(self, key: bytes) -> int:
        self.inside += 1
        time.sleep(0.001)  # Give other threads time to enter.
        self.overlapped = self.overlapped or self.inside > 1
        self.inside -= 1
        return super().take(key)


def test_concurrent_threads_take_from_the_rate_limit_one_at_a_time() -> None:
    verifying = Verifying()
    verifying.exchange.fails = errors.Unavailable("no machine answers")
    limiter = WatchedLimiter(burst=10, every_ms=1_000, monotonic_ms=lambda: 0)
    verifying.verification._allowance._rate = limiter
    token = verifying.realm.mint()

    def outcome(number: int) -> type[BaseException] | None:
        try:
            verifying.verify(token.narrow(Exp(1_900_000_000 + number)))
        except errors.Unavailable as error:
            return type(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(outcome, range(40)))
    assert not limiter.overlapped
    assert outcomes.count(errors.Unavailable) == 10
