"""The rules of a call, step by step: without a network, and with a clock that only the test moves."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake_authority import JOURNAL, Brain, Request, report
from tkdb import api, errors
from tkdb.channel.keys import AuthorityIdentity, AuthoritySecret
from tkdb.net.url import Url
from tkdb_client.calls.call import Calls, Timing
from tkdb_client.calls.effects import Sleep, Steps
from tkdb_client.calls.transport import Answered, Lost, Outcome, Send, _refusal
from tkdb_client.clock import Clock

World = Callable[[Send, int], tuple[int, Outcome]]
"""Returns the duration (ms) and the outcome of an attempt."""


class Simulation:
    """Runs calls against a world, on a simulated clock."""

    def __init__(self, brain: Brain, **settings: Any) -> None:
        self.brain = brain
        self.elapsed_ms = 0
        self.sends: list[Send] = []
        self.slept_ms: list[int] = []
        timing = settings.pop("timing", Timing(timeout_ms=10_000, attempt_timeout_ms=1_500))
        given = {"identity": brain.identity, "signer": brain.signer, "random": os.urandom} | settings
        clock = Clock(monotonic_ms=lambda: self.elapsed_ms, now_ms=lambda: 1_700_000_000_000 + self.elapsed_ms)
        self.exchange = Calls(
            [Url.parse("http://authority")], given.pop("identity"), timing=timing, clock=clock, **given
        )

    def run(self, steps: Steps[Any], world: World) -> Any:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    assert step.wait_ms > 0
                    self.slept_ms.append(step.wait_ms)
                    self.elapsed_ms += step.wait_ms
                    step = next(steps)
                else:
                    assert isinstance(step, Send)
                    self.sends.append(step)
                    took_ms, outcome = world(step, len(self.sends))
                    self.elapsed_ms += min(took_ms, step.timeout_ms)
                    step = steps.send(outcome)
        except StopIteration as end:
            return end.value

    def honest(self, send: Send, _attempt: int = 0) -> tuple[int, Outcome]:
        return 1, self.deliver(send)

    def deliver(self, send: Send, error: errors.TkdbError | None = None) -> Outcome:
        request = Request(send.path, dict(send.headers), send.message, 0)
        self.brain.note(request)
        message = self.brain.answer(request, error)
        return Lost("the answer is a plain HTTP 400", unopened=True) if message is None else Answered(message, 1.0)


@pytest.fixture
def sim() -> Simulation:
    return Simulation(Brain())


def lost(_send: Send, _attempt: int) -> tuple[int, Outcome]:
    return 10, Lost("the connection broke")


def silent(send: Send, _attempt: int) -> tuple[int, Outcome]:
    return send.timeout_ms, Lost("it didn't answer")


def status(sim: Simulation) -> Steps[Any]:
    return sim.exchange.ask(api.VERIFY, api.Status())


def rotate(sim: Simulation) -> Steps[Any]:
    return sim.exchange.ask(api.WRITE, api.RotateKey(name="acme"))


took = st.integers(0, 2_000)
fates = st.sampled_from(["lost", "unsent", "unopened", "garbage", "overloaded", "retry later"])


@given(st.lists(st.tuples(took, fates), min_size=1, max_size=60), st.integers(1, 20_000), st.integers(1, 3_000))
def test_a_call_always_ends_by_its_deadline(outcomes: list[tuple[int, str]], timeout_ms: int, attempt_ms: int) -> None:
    sim = Simulation(Brain(), timing=Timing(timeout_ms=timeout_ms, attempt_timeout_ms=attempt_ms))

    def world(send: Send, attempt: int) -> tuple[int, Outcome]:
        assert 1 <= send.timeout_ms <= attempt_ms
        took_ms, fate = outcomes[attempt % len(outcomes)]
        return took_ms, {
            "lost": Lost("lost"),
            "unsent": Lost("unsent", sent=False),
            "unopened": Lost("unopened", unopened=True),
            "garbage": Answered(b"garbage", 1.0),
            "overloaded": sim.deliver(send, errors.Overloaded("slow down", retry_after_ms=50)),
            "retry later": Lost("wait", retry_after_ms=10**9),
        }[fate]

    with pytest.raises(errors.Unavailable):
        sim.run(status(sim), world)
    assert sim.elapsed_ms <= timeout_ms


def test_a_silent_authority_raises_deadline_exceeded_with_the_last_failure(sim: Simulation) -> None:
    with pytest.raises(errors.DeadlineExceeded, match=r"after \d attempts; the last: it didn't answer"):
        sim.run(status(sim), silent)
    assert 8_000 <= sim.elapsed_ms <= 10_000


def test_an_unanswered_write_has_an_unknown_outcome(sim: Simulation) -> None:
    with pytest.raises(errors.OutcomeUnknown):
        sim.run(rotate(sim), silent)


def test_a_write_that_was_never_sent_has_a_known_outcome(sim: Simulation) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        sim.run(rotate(sim), lambda send, _: (send.timeout_ms, Lost("no connection", sent=False)))


def test_an_unknown_outcome_stays_unknown_if_the_next_attempt_meets_a_draining_machine(sim: Simulation) -> None:
    def world(send: Send, attempt: int) -> tuple[int, Outcome]:
        return (
            (5, Lost("the connection broke")) if attempt == 1 else (5, sim.deliver(send, errors.Draining("going away")))
        )

    with pytest.raises(errors.OutcomeUnknown):
        sim.run(rotate(sim), world)


@pytest.mark.parametrize("error", [errors.OutcomeUnknown("unknown"), errors.DeadlineExceeded("too late")])
def test_an_outcome_that_the_authority_does_not_know_is_unknown(sim: Simulation, error: errors.Unavailable) -> None:
    with pytest.raises(errors.OutcomeUnknown):
        sim.run(rotate(sim), lambda send, _: (5, sim.deliver(send, error)))


def test_a_later_answer_settles_an_unknown_outcome(sim: Simulation) -> None:
    sim.brain.handler = lambda _: api.Organization(name="acme", max_lifetime_s=1, created_ms=1, keys=[])
    organization, _ = sim.run(rotate(sim), lambda send, n: lost(send, n) if n < 3 else sim.honest(send))
    assert organization.name == "acme"


def test_a_repeated_write_keeps_its_id_and_body_and_gets_a_new_time(sim: Simulation) -> None:
    sim.brain.handler = lambda _: api.Organization(name="acme", max_lifetime_s=1, created_ms=1, keys=[])

    def world(send: Send, attempt: int) -> tuple[int, Outcome]:
        arrived = sim.deliver(send)
        return (40, Lost("the answer got lost")) if attempt < 3 else (1, arrived)

    sim.run(rotate(sim), world)
    envelopes = [request.opened.envelope for request in sim.brain.requests if request.opened]
    assert len(envelopes) == 3
    assert len({(each.request_id, each.body) for each in envelopes}) == 1
    times = [each.time_ms for each in envelopes]
    assert times == sorted(set(times))


def test_the_client_waits_at_least_as_long_as_the_authority_asks(sim: Simulation) -> None:
    def world(send: Send, attempt: int) -> tuple[int, Outcome]:
        if attempt == 1:
            return 1, sim.deliver(send, errors.Overloaded("slow down", retry_after_ms=700))
        return sim.honest(send)

    sim.run(status(sim), world)
    assert sim.slept_ms[0] >= 700


def test_many_failing_calls_send_few_retries(sim: Simulation) -> None:
    calls = 600
    for _ in range(calls):
        with pytest.raises(errors.Unavailable):
            sim.run(status(sim), lambda send, _: (0, Lost("refused", sent=False)))
    retries = len(sim.sends) - calls
    assert retries <= 100 + 0.2 * calls + 10 * sim.elapsed_ms / 1000


def test_each_request_sends_the_highest_known_position(sim: Simulation) -> None:
    for position in (7, 12, 9):
        sim.brain.position = position
        sim.run(status(sim), sim.honest)
    sim.run(status(sim), sim.honest)
    sent = [request.opened.envelope.position for request in sim.brain.requests if request.opened]
    assert sent == [0, 7, 12, 12]


def test_a_position_of_another_journal_is_not_sent(sim: Simulation) -> None:
    sent: list[int] = []
    for journal, position in ((JOURNAL, 50), (b"n" * 16, 3), (JOURNAL, 40), (JOURNAL, 41)):
        sim.brain.journal, sim.brain.position = journal, position
        sim.run(status(sim), sim.honest)
        opened = sim.brain.requests[-1].opened
        assert opened is not None
        sent.append(opened.envelope.position)
    assert sent == [0, 50, 3, 50]


def test_a_failure_answer_also_updates_the_position(sim: Simulation) -> None:
    sim.brain.position = 9
    with pytest.raises(errors.Conflict):
        sim.run(rotate(sim), lambda send, _: (1, sim.deliver(send, errors.Conflict("exists"))))
    sim.run(status(sim), sim.honest)
    opened = sim.brain.requests[-1].opened
    assert opened is not None
    assert opened.envelope.position == 9


def hand_over(sim: Simulation) -> Steps[Any]:
    return sim.exchange.ask(api.WRITE, api.HandOver(machine="m-2"), wait_ms=8_000)


def test_a_write_to_a_replica_is_retried_until_there_is_a_primary(sim: Simulation) -> None:
    sim.brain.handler = lambda _: api.Organization(name="acme", max_lifetime_s=1, created_ms=1, keys=[])

    def world(send: Send, attempt: int) -> tuple[int, Outcome]:
        return 1, sim.deliver(send, errors.NoPrimary("no machine is primary") if attempt < 6 else None)

    organization, _ = sim.run(rotate(sim), world)
    assert (organization.name, len(sim.sends)) == ("acme", 6)


@pytest.mark.parametrize("call", [rotate, hand_over])
def test_a_write_that_finds_no_primary_has_a_known_outcome_and_names_the_machine_to_ask(
    sim: Simulation, call: Callable[[Simulation], Steps[Any]]
) -> None:
    error = errors.NoPrimary("this machine isn't primary: m-2 is", hint="ask m-2")
    with pytest.raises(errors.NoPrimary, match="m-2 is: ask m-2"):
        sim.run(call(sim), lambda send, _: (5, sim.deliver(send, error)))
    assert len(sim.sends) > 3


def test_a_handover_with_a_lost_answer_has_an_unknown_outcome(sim: Simulation) -> None:
    def world(send: Send, attempt: int) -> tuple[int, Outcome]:
        return (
            (5, Lost("the connection broke"))
            if attempt == 1
            else (5, sim.deliver(send, errors.NoPrimary("no machine is primary")))
        )

    with pytest.raises(errors.OutcomeUnknown, match="no machine is primary"):
        sim.run(hand_over(sim), world)


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=80)), max_size=8), st.integers(100, 999))
def test_the_headers_of_a_plain_answer_cannot_mislead_or_break_the_client(
    headers: list[tuple[bytes, bytes]], status: int
) -> None:
    named = [(name, value) for _, value in headers for name in (b"fly-replay", b"Retry-After", b"Location")]
    response = httpcore.Response(status, headers=headers + named)
    refused = _refusal(response)
    assert (refused is None) == (status == 200)
    if refused is not None:
        assert refused.sent
        assert refused.retry_after_ms is None or 0 <= refused.retry_after_ms < 10**12


def test_a_stale_authority_is_asked_again_and_its_next_answer_counts(sim: Simulation) -> None:
    def world(send: Send, attempt: int) -> tuple[int, Outcome]:
        return 1, sim.deliver(send, errors.StaleAuthority("6.1 s behind") if attempt < 3 else None)

    result, _ = sim.run(status(sim), world)
    assert (result, len(sim.sends)) == (report(), 3)


def test_an_authority_that_stays_stale_raises_stale_authority(sim: Simulation) -> None:
    stale = errors.StaleAuthority("6.1 s behind", hint="ask another region")
    with pytest.raises(errors.StaleAuthority, match=r"6\.1 s behind: ask another region"):
        sim.run(status(sim), lambda send, _: (5, sim.deliver(send, stale)))
    assert len(sim.sends) > 3
    assert sim.elapsed_ms <= 10_000


def two_keys() -> tuple[Brain, AuthorityIdentity]:
    brain = Brain()
    stranger = AuthoritySecret.generate(os.urandom)
    return brain, AuthorityIdentity(brain.identity.name, (stranger.public, *brain.identity.keys))


def test_the_second_key_is_tried_at_once_and_remembered() -> None:
    brain, identity = two_keys()
    sim = Simulation(brain, identity=identity)
    sim.run(status(sim), sim.honest)
    assert len(sim.sends) == 2
    assert sim.slept_ms == []
    sim.run(status(sim), sim.honest)
    assert len(sim.sends) == 3


def test_a_forged_400_does_not_lock_out_the_working_key() -> None:
    brain, identity = two_keys()
    sim = Simulation(brain, identity=identity)
    sim.run(status(sim), sim.honest)
    forged = (1, Lost("a plain HTTP 400", unopened=True))
    sim.run(status(sim), lambda send, n: forged if n == 3 else sim.honest(send))


def test_the_client_returns_to_the_first_key_when_the_authority_does() -> None:
    brain = Brain()
    old, new = AuthoritySecret.generate(os.urandom), AuthoritySecret.generate(os.urandom)
    sim = Simulation(brain, identity=AuthorityIdentity(brain.identity.name, (old.public, new.public)))
    for secret, attempts in ((old, 1), (new, 3), (new, 4), (old, 6)):
        brain.trust(secret)
        sim.run(status(sim), sim.honest)
        assert len(sim.sends) == attempts


def test_wrong_keys_fail_after_three_attempts_with_a_hint(sim: Simulation) -> None:
    sim.brain.trust(AuthoritySecret.generate(os.urandom))
    with pytest.raises(errors.Unavailable, match="check that TKDB_AUTHORITY"):
        sim.run(status(sim), sim.honest)
    assert len(sim.sends) == 3


def test_a_write_with_wrong_keys_has_an_unknown_outcome_and_a_hint(sim: Simulation) -> None:
    sim.brain.trust(AuthoritySecret.generate(os.urandom))
    with pytest.raises(errors.OutcomeUnknown, match="check that TKDB_AUTHORITY and TKDB_SIGNER"):
        sim.run(rotate(sim), sim.honest)


def test_a_long_poll_adds_its_wait_to_the_timeout(sim: Simulation) -> None:
    sim.brain.handler = lambda _: api.Feed(position=1, revocations=[], more=False)
    call = api.Revocations(kids=[b"k" * 16], after=0, wait_ms=25_000)
    sim.run(sim.exchange.ask(api.VERIFY, call, wait_ms=25_000), lambda send, _: (25_000, sim.deliver(send)))
    assert sim.sends[0].timeout_ms == 26_500


def test_a_write_without_a_signer_fails_before_it_is_sent() -> None:
    sim = Simulation(Brain(), signer=None)
    with pytest.raises(errors.ConfigurationError, match="TKDB_SIGNER"):
        sim.run(rotate(sim), sim.honest)
    assert sim.sends == []


def test_an_authentic_answer_that_cannot_be_read_is_not_requested_again(sim: Simulation) -> None:
    sim.brain.handler = lambda _: api.Revoked(already=True)
    with pytest.raises(errors.ChannelError, match="upgrade this client"):
        sim.run(status(sim), sim.honest)
    assert len(sim.sends) == 1
    with pytest.raises(errors.OutcomeUnknown, match="the write was answered"):
        sim.run(rotate(sim), sim.honest)


def test_a_request_in_flight_shows_no_token_in_a_trace(sim: Simulation) -> None:
    steps = sim.exchange.ask(api.VERIFY, api.Verify(bundles=["tkdb_secret"]))
    send = next(steps)
    assert isinstance(send, Send)
    assert "tkdb_secret" not in repr(send)
    assert repr(send.message)[2:-1] not in repr(send)
    assert "tkdb_secret" not in repr(steps.gi_yieldfrom.gi_frame.f_locals["course"])  # type: ignore[union-attr]


def test_no_attempt_starts_with_less_than_50_ms_left(sim: Simulation) -> None:
    with pytest.raises(errors.Unavailable):
        sim.run(status(sim), lambda send, _: (1_480, Lost("slow")))
    assert min(send.timeout_ms for send in sim.sends) >= 50


@pytest.mark.parametrize("settings", [{"timeout_ms": 0}, {"attempt_timeout_ms": -1}])
def test_a_timeout_that_is_not_positive_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(errors.ConfigurationError, match="more than 0 ms"):
        Timing(**settings)


def test_a_successful_call_makes_one_attempt_and_never_sleeps(sim: Simulation) -> None:
    result, reply = sim.run(status(sim), sim.honest)
    assert (result, reply.answer.journal) == (report(), JOURNAL)
    assert (len(sim.sends), sim.slept_ms) == (1, [])


def _unwritable(sim: Simulation, timeout_ms: int) -> errors.TkdbError:
    """Return the error of a write to a machine that waits 1 s for a lock on its database, and then refuses."""

    def locked(send: Send, _attempt: int) -> tuple[int, Outcome]:
        if send.timeout_ms < 1_000:
            return 1_000, Lost("it didn't answer", silent=True)
        return 1_000, sim.deliver(
            send, errors.StoreUnwritable("tkdb.db can't be written", hint="stop the other process")
        )

    with pytest.raises(errors.Unavailable) as caught:
        sim.run(sim.exchange.ask(api.WRITE, api.RotateKey("acme"), timeout_ms=timeout_ms), locked)
    return caught.value


def test_a_write_to_an_unwritable_disk_never_ends_in_doubt() -> None:
    for timeout_ms in range(1_500, 10_000, 250):
        error = _unwritable(Simulation(Brain()), timeout_ms)
        assert (type(error), error.hint) == (errors.StoreUnwritable, "stop the other process")


def test_without_time_for_the_answer_a_write_to_an_unwritable_disk_ends_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Calls, "_least_ms", lambda calls, course, error: 50)
    ends = {type(_unwritable(Simulation(Brain()), timeout_ms)) for timeout_ms in range(1_500, 10_000, 250)}
    assert errors.OutcomeUnknown in ends
