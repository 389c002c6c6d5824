"""Attacks on verification around the cache: results that grow old while others are asked about, and refusals that
nothing calls for."""

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


class Asked:
    """In the exchange's place: the realm answers, and something happens before it does."""

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
            return api.Verified(results), self.single.told()
        yield from ()
        raise errors.Unavailable("the feed isn't followed here")

    def saw(self, _journal: bytes, _position: int) -> None:
        """It is one machine."""


class Verifying:
    """A verification whose steps are taken at once."""

    def __init__(self, *, when_stale: str = "ask") -> None:
        self.single = Single()
        self.realm = self.single.realm
        self.asked: Any = Asked(self.single)
        exchange: Calls = self.asked
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
        """Take steps to their end; ``answer`` is the answer to the one that was taken last."""
        try:
            step: Any = steps.send(answer)
            while True:
                assert isinstance(step, Background | Join)
                step = steps.send(step.other.done()) if isinstance(step, Join) else next(steps)
        except StopIteration as end:
            return end.value


def pass_by(verifying: Verifying, for_ms: int, *revocations: api.Revocation) -> Callable[[], None]:
    def happen() -> None:
        for revocation in revocations:
            verifying.realm.revoke(revocation)
        verifying.single.now_ms += for_ms

    return happen


def lineage(token: Macaroon) -> api.Lineage:
    return api.Lineage(token.kid, token.nonce)


# --- many: the first result is as old as the last is late ------------------------------------------------------------


def test_what_was_known_when_many_were_begun_is_not_accepted_when_the_last_answer_comes_beyond_the_bound() -> None:
    verifying = Verifying()
    known, unknown = verifying.realm.mint(), verifying.realm.mint(number=1)
    verifying.verify(known)
    verifying.asked.before = [pass_by(verifying, BOUND_MS + 1, lineage(known))]
    first, second = verifying.verify_many(known, unknown)
    assert isinstance(first, errors.RevokedToken)
    assert second.macaroon == unknown


def test_what_is_heard_to_be_revoked_while_others_are_asked_about_is_not_accepted() -> None:
    verifying = Verifying()
    known, unknown = verifying.realm.mint(), verifying.realm.mint(number=1)
    verifying.verify(known)

    def hear() -> None:
        verifying.realm.revoke(lineage(known))
        verifying.single.poll()

    verifying.asked.before = [hear]
    first, second = verifying.verify_many(known, unknown)
    assert isinstance(first, errors.RevokedToken)
    assert second.macaroon == unknown


def test_of_many_answers_the_first_is_not_accepted_when_the_last_comes_beyond_the_bound() -> None:
    verifying = Verifying()
    tokens = [verifying.realm.mint(number=number) for number in range(api.MAX_BUNDLES + 1)]
    nothing = pass_by(verifying, 0)
    verifying.asked.before = [nothing, pass_by(verifying, BOUND_MS + 1, lineage(tokens[0]))]
    assert len(list(batches(tokens, lambda token: len(token.text) + 5, api.MAX_BUNDLES))) == 2
    results = verifying.verify_many(*tokens)
    assert isinstance(results[0], errors.RevokedToken)
    assert [result.macaroon for result in results[1:]] == tokens[1:]


def test_more_than_can_be_asked_about_within_the_bound_hold_together_when_the_feed_is_followed() -> None:
    verifying = Verifying()
    tokens = [verifying.realm.mint(number=number) for number in range(2 * api.MAX_BUNDLES + 1)]

    def pass_and_hear() -> None:
        verifying.single.now_ms += BOUND_MS * 2 // 3
        if verifying.single.cache.info().keys:
            verifying.single.poll()

    verifying.asked.before = [pass_and_hear] * 3
    assert [result.macaroon for result in verifying.verify_many(*tokens)] == tokens
    assert len(verifying.asked.calls) == 3


def test_many_that_never_hold_together_are_not_accepted_and_not_asked_about_for_ever() -> None:
    verifying = Verifying()
    tokens = [verifying.realm.mint(number=number) for number in range(2 * api.MAX_BUNDLES)]
    verifying.asked.before = [pass_by(verifying, BOUND_MS + 1) for _ in range(100)]
    results = verifying.verify_many(*tokens)
    asked_last = set(verifying.asked.calls[-1])
    for token, result in zip(tokens, results, strict=True):
        assert isinstance(result, Verified if token.text in asked_last else errors.StaleAuthority)
    assert len(verifying.asked.calls) < 10


def test_what_is_known_of_many_and_heard_to_be_revoked_before_nobody_answers_is_not_accepted() -> None:
    verifying = Verifying()
    known, dead, unknown = (verifying.realm.mint(number=number) for number in range(3))
    verifying.verify_many(known, dead)

    def hear_and_fail() -> None:
        verifying.realm.revoke(lineage(dead))
        verifying.single.poll()
        raise errors.Unavailable("nobody answers")

    verifying.asked.before = [hear_and_fail]
    first, second, third = verifying.verify_many(known, dead, unknown)
    assert first.macaroon == known
    assert isinstance(second, errors.StaleAuthority)
    assert isinstance(third, errors.StaleAuthority)


@pytest.mark.parametrize("error", [errors.StaleAuthority("it can't show it"), errors.DeadlineExceeded("too late")])
def test_of_many_of_which_nothing_is_known_it_is_said_why_nobody_told(error: errors.TkdbError) -> None:
    verifying = Verifying()
    known, unknown = (verifying.realm.mint(number=number) for number in range(2))
    verifying.verify(known)
    verifying.asked.fails = error
    assert isinstance(verifying.verify_many(known, unknown)[1], errors.StaleAuthority)
    with pytest.raises(type(error)):
        verifying.verify_many(unknown)


def test_a_refusal_is_of_all_of_many() -> None:
    verifying = Verifying()
    known, unknown = (verifying.realm.mint(number=number) for number in range(2))
    verifying.verify(known)
    verifying.asked.fails = errors.Refused("no")
    with pytest.raises(errors.Refused):
        verifying.verify_many(known, unknown)


def test_many_of_the_same_are_one_question_and_each_has_its_answer() -> None:
    verifying = Verifying()
    good, dead = verifying.realm.mint(), verifying.realm.mint(number=1)
    verifying.realm.revoke(lineage(dead))
    results = verifying.verify_many(good, dead, good, dead, dead)
    assert [getattr(result, "macaroon", None) for result in results] == [good, None, good, None, None]
    assert all(isinstance(results[place], errors.RevokedToken) for place in (1, 3, 4))
    assert [len(call) for call in verifying.asked.calls] == [2]


# --- refused as stale, and nothing is -------------------------------------------------------------------------------


def test_who_prefers_to_fail_is_not_refused_a_token_that_was_never_known() -> None:
    """With many revoked branches a descendant isn't walked; that is no reason to call it stale."""
    verifying = Verifying(when_stale="refuse")
    token = verifying.realm.mint()
    child = token.attenuate(Act("r"))
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        verifying.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    verifying.verify(token)
    assert verifying.verify(child).macaroon == child
    assert verifying.verify_many(child.attenuate(Exp(1_900_000_000)))[0].macaroon.raw
    verifying.single.now_ms += BOUND_MS + 1
    with pytest.raises(errors.StaleAuthority):
        verifying.verify(token)


@pytest.mark.parametrize("many", [False, True])
def test_who_prefers_to_fail_is_not_refused_what_another_has_just_made_known(
    monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Between not finding a token and asking why, another thread's answer arrives."""
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


def test_a_token_of_another_kind_than_was_known_is_unavailable_and_not_stale() -> None:
    """Only what was known itself is called stale when nobody can be asked."""
    verifying = Verifying()
    token = verifying.realm.mint()
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        verifying.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    verifying.verify(token)
    verifying.single.now_ms += BOUND_MS + 1
    verifying.asked.fails = errors.Unavailable("nobody is there")
    with pytest.raises(errors.StaleAuthority):
        verifying.verify(token)
    with pytest.raises(errors.Unavailable):
        verifying.verify(token.attenuate(Act("r")))


# --- flights ---------------------------------------------------------------------------------------------------------


def test_whoever_waits_for_a_question_whose_answer_was_overtaken_asks_for_himself() -> None:
    """The one who asked got an answer that was true when it was sent; news has come since."""
    verifying = Verifying()
    token = verifying.realm.mint()
    bundle = Bundle(token)
    flights = verifying.verification._single_flight
    assert flights.join(digest(bundle)) is None
    waiting = verifying.verification.verify(bundle)
    assert isinstance(next(waiting), Join)
    verifying.single.ask(token)
    verifying.realm.revoke(lineage(token))
    verifying.single.poll()
    flights.finish(digest(bundle))
    with pytest.raises(errors.RevokedToken):
        verifying.run(waiting, True)
    assert len(verifying.asked.calls) == 1


# --- how often is asked ----------------------------------------------------------------------------------------------


def test_who_knows_the_name_of_a_lineage_can_not_use_up_its_questions_with_forgeries() -> None:
    """Forgeries may have any lineage. So that they are of this one limits nobody but its holders."""
    verifying = Verifying()
    token = verifying.realm.mint()
    for number in range(2 * LINEAGE_BURST):
        forged = token.attenuate(Exp(1_900_000_000 + number))
        with pytest.raises(errors.BadSignature):
            verifying.verify(Macaroon.parse(forged.raw[:-1] + bytes([forged.raw[-1] ^ 1])))
    assert verifying.verify(token.attenuate(Act("r"))).macaroon.raw


class Narrow(RateLimiter):
    """A rate that notices when two threads are in it at once."""

    inside, met = 0, False

    def take(self, key: bytes) -> int:
        self.inside += 1
        time.sleep(0.001)  # let others come
        self.met = self.met or self.inside > 1
        self.inside -= 1
        return super().take(key)


def test_threads_that_ask_at_once_are_charged_one_after_the_other() -> None:
    verifying = Verifying()
    verifying.asked.fails = errors.Unavailable("nobody is there")
    narrow = Narrow(burst=10, every_ms=1_000, monotonic_ms=lambda: 0)
    verifying.verification._allowance._rate = narrow
    token = verifying.realm.mint()

    def outcome(number: int) -> type[BaseException] | None:
        try:
            verifying.verify(token.attenuate(Exp(1_900_000_000 + number)))
        except errors.Unavailable as error:
            return type(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(outcome, range(40)))
    assert not narrow.met
    assert outcomes.count(errors.Unavailable) == 10
