"""One call to the authority: its attempts, and its end. Pure: it yields effects, and does nothing itself.

A call is a generator of effects (`tkdb_client.calls.effects`), which returns the call's result. A runner carries the
effects out, blocking or awaiting (`tkdb_client.calls.runners`). So both clients have the same rules, and tests need
neither time nor network.

The rules: a repeated write happens once, because its request id stays the same. Only ``Unavailable`` is retried,
whether the authority reported it or there was no response. ``Refused`` and ``Denied`` are the authority's own answers,
and final. A deadline limits calls, and a budget limits retries. A write that was sent without a known outcome ends as
``OutcomeUnknown``. A write that the authority reports as not done (``NoPrimary``) ends with that error.

Attempts go in **rounds**: each region is asked once, in the order of `tkdb_client.calls.regions`, as soon as the one
before has failed. That isn't a retry, because no region is asked twice. Only then is there a pause, paid from the
budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tkdb import api, errors
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.net.backoff import Backoff
from tkdb.net.url import Url
from tkdb_client.arguments import REQUEST_ID_BYTES
from tkdb_client.calls.attempt import Attempts, CallState, Reply
from tkdb_client.calls.effects import Background, Sleep, Steps
from tkdb_client.calls.regions import Region
from tkdb_client.calls.retry_budget import RetryBudget
from tkdb_client.clock import Clock

R = TypeVar("R")

TIMEOUT_MS: Final = 10_000
ATTEMPT_TIMEOUT_MS: Final = 1_500


@dataclass(frozen=True, slots=True)
class Timing:
    """The timeouts of a call, and of one attempt. A long poll's own wait is added to both."""

    timeout_ms: int = TIMEOUT_MS
    attempt_timeout_ms: int = ATTEMPT_TIMEOUT_MS
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if min(self.timeout_ms, self.attempt_timeout_ms) <= 0:
            raise errors.ConfigurationError("a timeout must be more than 0 ms", hint="leave it out to use the default")


class Calls:
    """Makes calls to one authority. Any number of threads may share it.

    Args:
        urls: the authority's URLs. With more than one, each is a region.
        identity: its name and public keys; more than one during a rotation of its key.
        signer: a signer's secret, for calls that only signers may make.
        timing: the timeouts.
        clock: both clocks.
        random: returns ``n`` random bytes.

    Attributes:
        count: the number of regions.
        is_signer: whether calls that only signers may make are possible.
    """

    def __init__(
        self,
        urls: Sequence[Url],
        identity: AuthorityIdentity,
        *,
        signer: SignerSecret | None,
        timing: Timing,
        clock: Clock,
        random: Callable[[int], bytes],
    ) -> None:
        self._attempts = Attempts(urls, identity, signer=signer, clock=clock, random=random)
        self._unopened_max = _UNOPENED_ROUNDS * len(identity.keys) * len(urls)
        self.count = len(urls)
        self.is_signer = signer is not None
        self._timing = timing
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        # State that calls leave for later ones. The lock that protects it is never held across an effect.
        self._budget = RetryBudget()

    def new_request_id(self) -> bytes:
        """Return a request id that was never used."""
        return self._random(REQUEST_ID_BYTES)

    def ask(
        self,
        path: str,
        call: api.Call[R],
        *,
        wait_ms: int = 0,
        max_age_ms: int | None = None,
        timeout_ms: int | None = None,
        request_id: bytes | None = None,
        part: int = 0,
    ) -> Steps[tuple[R, Reply]]:
        """Return the result of ``call``, and the attempt that brought it.

        Args:
            path: the path for the call.
            call: the request.
            wait_ms: how long the authority may hold the answer back on purpose (a long poll).
            max_age_ms: the largest age of the answer's data on arrival; None: any.
            timeout_ms: a shorter timeout of the call than the client's; None: the client's.
            request_id: the request id of the operation, if it may be a repeated one. Default: a new one.
            part: the number of this request among those of the operation, from 0.

        Raises:
            Denied, Refused: the authority's answer.
            StaleAuthority: until the deadline, no machine could prove that its data is fresh enough.
            Unavailable: there was no answer in time. The most specific subclass is raised.
            OutcomeUnknown: the same, and a write was sent.
            ChannelError: the authority's answer can't be read. It may be a newer version's.
            ConfigurationError: the call needs a signer's key.
        """
        course = self._start(path, call, wait_ms, max_age_ms, timeout_ms, request_id, part)
        while True:
            due = self._attempts.due()
            if due is not None:
                yield Background(self._probe(due))
            try:
                told = yield from self._round(course)
                return api.decode_result(call, told.answer), told
            except errors.Unavailable as error:
                pause_ms = self._pause_ms(course, error)
            except errors.ChannelError as error:
                raise _unreadable(course, error) from None
            if pause_ms:
                yield Sleep(pause_ms)

    def saw(self, journal: bytes, position: int) -> None:
        """Record that every machine asked from now on must have reached ``position`` of this journal."""
        self._attempts.saw(journal, position)

    def survey(self) -> list[Steps[Region]]:
        """Return, for each region, the effects that ask for its status."""
        return [self._probe(region) for region in range(self.count)]

    def nearest_first(self, found: Sequence[Region]) -> list[Region]:
        """Return the result of a survey, in the order in which a read would use the regions now."""
        return self._attempts.nearest_first(found)

    def _probe(self, region: int) -> Steps[Region]:
        return self._attempts.probe(region, self._timing.attempt_timeout_ms)

    def _start(
        self,
        path: str,
        call: api.Call[R],
        wait_ms: int,
        max_age_ms: int | None,
        at_most_ms: int | None,
        request_id: bytes | None,
        part: int,
    ) -> CallState:
        if path in api.SIGNED_PATHS and not self.is_signer:
            raise errors.ConfigurationError("this call needs a signer's key", hint="set TKDB_SIGNER or pass signer=")
        with self._lock:
            self._budget.deposit()
        timeout_ms = self._timing.timeout_ms if at_most_ms is None else min(at_most_ms, self._timing.timeout_ms)
        return self._attempts.course(
            path,
            call,
            timeout_ms=timeout_ms,
            wait_ms=wait_ms,
            max_age_ms=max_age_ms,
            request_id=request_id,
            part=part,
        )

    def _round(self, course: CallState) -> Steps[Reply]:
        """Ask one region after the other until one answers. If none does, raise the most specific error."""
        course.begin_round()
        told: errors.Unavailable | None = None
        while untried := self._attempts.untried(course):
            if told is not None and self._left_ms(course) < self._least_ms(course, told):
                break
            try:
                return (yield from self._turn(course, untried))
            except errors.Unavailable as error:
                course.retry_after_ms = max(course.retry_after_ms, error.retry_after_ms or 0)
                # The authority's own error is more specific, and the primary's reason more than a replica's.
                if told is None or not (isinstance(told, errors.StoreUnwritable) or type(error) is errors.Unavailable):
                    told = error
        assert told is not None  # noqa: S101  a round that begins has a region to ask
        raise told

    def _turn(self, course: CallState, untried: Sequence[int]) -> Steps[Reply]:
        """Ask the first of ``untried``. If another could answer, a region that takes unusually long is given up."""
        region = untried[0]
        timeout_ms = self._timing.attempt_timeout_ms + course.wait_ms
        if len(untried) > 1 and course.is_quick:
            timeout_ms = self._attempts.timeout_ms(region, untried[1], timeout_ms)
        return (yield from self._attempts.attempt(course, region, timeout_ms))

    def _least_ms(self, course: CallState, error: errors.Unavailable) -> int:
        """Return the time that another attempt after ``error`` needs at least.

        If the disk can't be written, the next attempt also waits for it. A write that certainly wasn't done would end
        in doubt if its attempt were cut short.
        """
        if isinstance(error, errors.StoreUnwritable) and not course.in_doubt:
            return self._timing.attempt_timeout_ms
        return _LEAST_ATTEMPT_MS

    def _left_ms(self, course: CallState) -> int:
        return course.deadline_ms - self._clock.monotonic_ms()

    def _pause_ms(self, course: CallState, error: errors.Unavailable) -> int:
        """Return how long to wait before the next round, or raise the call's final error."""
        if course.unopened >= self._unopened_max or isinstance(error, errors.WrongClock):
            raise _end(course, error)
        jitter = int.from_bytes(self._random(4)) / 2**32
        wait_ms = self._timing.backoff.wait_ms(course.rounds - 1, jitter=jitter, at_least_ms=course.retry_after_ms)
        if wait_ms + self._least_ms(course, error) > self._left_ms(course):
            raise _end(course, _late(course, error))
        with self._lock:
            affordable = self._budget.withdraw(now_ms=self._clock.monotonic_ms())
        if not affordable:
            raise _end(course, error)
        return wait_ms


_UNOPENED_ROUNDS = 3
"""How often each key is tried after "can't be opened": a wrong key stays wrong, but a lying proxy may go away."""

_LEAST_ATTEMPT_MS = 50
"""With less time left, another attempt would more likely put a write in doubt than get an answer."""


def _unreadable(course: CallState, error: errors.ChannelError) -> errors.TkdbError:
    """Return the error of a call whose answer is the authority's, but in an unknown format."""
    if not course.writes:
        return error
    return errors.OutcomeUnknown(
        f"the write was answered, but {error.message}", hint=error.hint, request_id=course.call_id
    )


def _late(course: CallState, last: errors.Unavailable) -> errors.Unavailable:
    """Return the error of a call whose deadline has passed."""
    if type(last) is not errors.Unavailable:
        return last  # the authority's own error is more specific
    tries = "1 attempt" if course.attempts == 1 else f"{course.attempts} attempts"
    return errors.DeadlineExceeded(
        f"no answer in time, after {tries}; the last: {last.message}",
        hint=last.hint,
        retry_after_ms=last.retry_after_ms,
    )


def _end(course: CallState, error: errors.Unavailable) -> errors.Unavailable:
    if not course.writes or not course.in_doubt:
        return error
    # A plain 400 may be forged, so it causes doubt like other losses. But if there was nothing else, the keys are
    # wrong.
    never_opened = course.unopened == course.attempts
    return errors.OutcomeUnknown(
        f"the write was sent and its outcome is unknown: {error.message}",
        hint=error.hint if never_opened else _repeat(course),
        retry_after_ms=error.retry_after_ms,
        request_id=course.call_id,
    )


def _repeat(course: CallState) -> str:
    if course.once:
        return f"repeat it with its request id {course.call_id.hex()}, and it is done only once"
    if course.path == api.REVOKE:
        return "revoke it again, which is harmless"
    return "check the status before you repeat it"
