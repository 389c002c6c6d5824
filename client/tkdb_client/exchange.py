"""One call to the authority, and the attempts that it takes. Pure: it yields what to send and how long to sleep.

A call is a generator. It yields ``Send`` and is resumed with the outcome, or ``Sleep`` and is resumed afterwards;
what it returns is the call's result. Whoever drives it decides whether that blocks a thread or awaits
(`tkdb_client.driving`), so there is one set of rules under both clients, and tests need neither time nor network.

The rules: a request is sealed afresh for each attempt, with the time of then, and with the same request id and
body, so a write that is repeated happens once. Only ``Unavailable`` is tried again, whether the authority said so
or nothing came back, and ``StaleAuthority``, which is about the machine that answered; ``Refused`` and all else that
is ``Denied`` are the authority's own words and final. Calls end by a deadline, retries by a budget. A write that was
sent, and whose outcome nobody told, ends as ``OutcomeUnknown``; one that the authority said it took no part in
(``NoPrimary``), as what it said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from tkdb import api, errors
from tkdb.channel.client import Initiator
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb_client.backoff import Backoff, RetryBudget
from tkdb_client.transport import Lost, Outcome, Send, Url

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing for ``wait_ms``."""

    wait_ms: int


Steps: TypeAlias = Generator[Send | Sleep, Outcome, T]
"""What a call does until it has its result. ``Send`` is answered with its outcome, ``Sleep`` with nothing."""

Passing: TypeAlias = errors.Unavailable | errors.StaleAuthority
"""What the next attempt may not meet again."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks: one that only goes forward, for waiting, and the wall's, for what others will compare."""

    monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a call may take in all, and one attempt of it; a long poll's own wait comes on top of both."""

    timeout_ms: int = 10_000
    attempt_timeout_ms: int = 1_500
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if min(self.timeout_ms, self.attempt_timeout_ms) <= 0:
            raise errors.ConfigurationError("a timeout must be more than 0 ms", hint="leave it out for the default")


@dataclass(slots=True)
class _Course:
    """One call under way."""

    path: str
    body: bytes = field(repr=False)  # it may hold tokens
    request_id: bytes
    deadline_ms: int
    attempt_timeout_ms: int
    key: int
    attempts: int = 0
    unopened: int = 0
    in_doubt: bool = False


class Exchange:
    """Makes calls to one authority. Any number of threads may share one.

    Args:
        url: where it answers.
        identity: its name and public keys; more than one while its key is being changed.
        signer: the secret of a signer, for calls that only signers may make.
        timing: how long calls may take.
        clock: both clocks.
        random: returns so many random bytes.
    """

    def __init__(
        self,
        url: Url,
        identity: AuthorityIdentity,
        *,
        signer: SignerSecret | None,
        timing: Timing,
        clock: Clock,
        random: Callable[[int], bytes],
    ) -> None:
        self._url = url
        self._initiator = Initiator(identity, signer=signer, random=random)
        self._key_count = len(identity.keys)
        self.is_signer = signer is not None
        self._timing = timing
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        # What calls leave behind for the next ones; under the lock, which is never held across a step.
        self._budget = RetryBudget()
        self._key = 0
        self._journal = b""
        self._positions: dict[bytes, int] = {}

    def ask(self, path: str, call: api.Call[R], *, wait_ms: int = 0) -> Steps[tuple[R, api.Answer]]:
        """Return the result of ``call``, and the answer that it came in.

        Args:
            path: the path that takes the call.
            call: the request.
            wait_ms: how long the authority may hold the answer back by intent (a long poll).

        Raises:
            Denied, Refused: the authority's answer.
            StaleAuthority: who answered couldn't show that it is fresh enough, until the deadline.
            Unavailable: no answer in time; of the subclass that says most.
            OutcomeUnknown: the same, and a write was sent.
            ChannelError: the authority's answer can't be read; a newer version's, perhaps.
            ConfigurationError: the call needs a signer's key.
        """
        course = self._start(path, call, wait_ms)
        while True:
            last: Passing
            try:
                answer = yield from self._attempt(course)
                return api.decode_result(call, answer), answer
            except (errors.Unavailable, errors.StaleAuthority) as error:
                last = error
            except errors.ChannelError as error:
                raise _unreadable(course, error) from None
            pause_ms = self._pause_ms(course, last)
            if pause_ms:
                yield Sleep(pause_ms)

    def _start(self, path: str, call: api.Call[R], wait_ms: int) -> _Course:
        if path in api.SIGNED_PATHS and not self.is_signer:
            raise errors.ConfigurationError("this call needs a signer's key", hint="set TKDB_SIGNER or pass signer=")
        with self._lock:
            self._budget.deposit()
            key = self._key
        return _Course(
            path=path,
            body=api.encode(call),
            request_id=self._random(16),
            deadline_ms=self._clock.monotonic_ms() + self._timing.timeout_ms + wait_ms,
            attempt_timeout_ms=self._timing.attempt_timeout_ms + wait_ms,
            key=key,
        )

    def _attempt(self, course: _Course) -> Steps[api.Answer]:
        with self._lock:
            position = self._positions.get(self._journal, 0)
        sealed = self._initiator.seal(
            course.path,
            course.body,
            request_id=course.request_id,
            now_ms=self._clock.now_ms(),
            position=position,
            key=course.key,
        )
        left_ms = max(1, course.deadline_ms - self._clock.monotonic_ms())
        timeout_ms = min(course.attempt_timeout_ms, left_ms)
        course.attempts += 1
        outcome = yield Send(self._endpoint(), course.path, sealed.message, sealed.headers, timeout_ms)
        if isinstance(outcome, Lost):
            raise self._lost(course, outcome)
        try:
            opened = sealed.open(outcome)
        except errors.ChannelError:
            course.in_doubt = True
            raise errors.Unavailable(
                "what came back isn't the authority's answer to this request",
                hint="something between here and the authority answers in its stead, or alters answers",
            ) from None
        answer = api.decode_answer(opened)
        self._note(course, answer)
        return answer

    def _endpoint(self) -> Url:
        """Return where the next attempt goes."""
        return self._url

    def _lost(self, course: _Course, lost: Lost) -> errors.Unavailable:
        course.in_doubt = course.in_doubt or lost.sent
        if not lost.unopened:
            return errors.Unavailable(lost.why, hint="try again", retry_after_ms=lost.retry_after_ms)
        course.unopened += 1
        course.key = (course.key + 1) % self._key_count
        setting = "TKDB_AUTHORITY and TKDB_SIGNER" if course.path in api.SIGNED_PATHS else "TKDB_AUTHORITY"
        return errors.Unavailable(
            f"the request couldn't be opened over there ({lost.why})",
            hint=f"check {setting}: is this the authority's name and public key?",
        )

    def _note(self, course: _Course, answer: api.Answer) -> None:
        if answer.failure is not None and answer.failure.code in _DOUBTFUL:
            course.in_doubt = True
        with self._lock:
            self._key = course.key
            self._journal = answer.journal
            self._positions[answer.journal] = max(answer.position, self._positions.get(answer.journal, 0))

    def _pause_ms(self, course: _Course, error: Passing) -> int:
        """Return how long to wait before the next attempt, or raise what the call ends in."""
        if 0 < course.unopened == course.attempts < self._key_count:
            return 0  # the other key of the authority is no retry of this one
        if course.unopened >= _UNOPENED_ROUNDS * self._key_count:
            raise _end(course, error)
        jitter = int.from_bytes(self._random(4)) / 2**32
        wait_ms = self._timing.backoff.wait_ms(
            course.attempts - 1, jitter=jitter, at_least_ms=_retry_after_ms(error) or 0
        )
        now_ms = self._clock.monotonic_ms()
        if now_ms + wait_ms + _LEAST_ATTEMPT_MS > course.deadline_ms:
            raise _end(course, _late(course, error))
        with self._lock:
            affordable = self._budget.withdraw(now_ms=now_ms)
        if not affordable:
            raise _end(course, error)
        return wait_ms


_UNOPENED_ROUNDS = 3
"""So often each key is tried on "can't be opened": a wrong key stays wrong, a lying proxy may go away."""

_LEAST_ATTEMPT_MS = 50
"""With less time than this left, another attempt would sooner put a write in doubt than bring an answer."""

_DOUBTFUL = frozenset({errors.OutcomeUnknown.code, errors.DeadlineExceeded.code})


def _unreadable(course: _Course, error: errors.ChannelError) -> errors.TkdbError:
    """Return what becomes of a call whose answer is the authority's, and in no language that we know."""
    if course.path not in api.WRITING_PATHS:
        return error
    return errors.OutcomeUnknown(f"the write was answered, but {error.message}", hint=error.hint)


def _retry_after_ms(error: Passing) -> int | None:
    return error.retry_after_ms if isinstance(error, errors.Unavailable) else None


def _late(course: _Course, last: Passing) -> Passing:
    """Return what a call ends in whose time is over."""
    if type(last) is not errors.Unavailable:
        return last  # what the authority itself said says more
    tries = "1 attempt" if course.attempts == 1 else f"{course.attempts} attempts"
    return errors.DeadlineExceeded(
        f"no answer in time, after {tries}; the last: {last.message}",
        hint=last.hint,
        retry_after_ms=last.retry_after_ms,
    )


def _end(course: _Course, error: Passing) -> Passing:
    if course.path not in api.WRITING_PATHS or not course.in_doubt:
        return error
    # A plain 400 may be forged, so it raises doubt like any other; but where there was nothing else, keys are wrong.
    never_opened = course.unopened == course.attempts
    return errors.OutcomeUnknown(
        f"the write was sent and its outcome is not known: {error.message}",
        hint=error.hint if never_opened else "revoking again does no harm; else look first whether it was done",
        retry_after_ms=_retry_after_ms(error),
    )
