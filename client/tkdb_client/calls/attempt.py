"""One attempt of a call at one region: sealed, sent and opened; and what it tells of the region. Pure: it yields what
to send (`tkdb_client.calls.effects`).

Each attempt is sealed afresh, with the time of then, and with the call's own request id and body. What comes of it is
noted for the attempts to come: how far the region is, whether it is well, which of the authority's keys it holds, and
the position that it has reached.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from tkdb import api, errors
from tkdb.channel.client import Initiator
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.net.url import Url
from tkdb_client.calls.effects import Steps
from tkdb_client.calls.regions import Region, Regions
from tkdb_client.calls.transport import Lost, Send
from tkdb_client.clock import Clock

Passing: TypeAlias = errors.Unavailable | errors.StaleAuthority
"""What the next attempt may not meet again."""

PASSING: Final = (errors.Unavailable, errors.StaleAuthority)
_DOUBTFUL: Final = (errors.OutcomeUnknown, errors.DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class Told:
    """What one attempt brought.

    Attributes:
        answer: the authority's.
        sent_ms: when it began, by the monotonic clock.
        position: the position that it was sent with: no answer comes from before it.
    """

    answer: api.Answer
    sent_ms: int
    position: int

    @property
    def dated_ms(self) -> int:
        """As of when the answer knows all, by the monotonic clock."""
        return self.sent_ms - self.answer.age_ms


@dataclass(slots=True)
class Course:
    """One call under way, and what its attempts have left on it.

    Attributes:
        path: where it goes.
        body: the request.
        request_id: 16 bytes.
        deadline_ms: when it ends, by the monotonic clock.
        wait_ms: how long the authority may hold the answer back by intent (a long poll).
        max_age_ms: how old what the answer is based on may be when it is here; None: that doesn't matter.
        attempts: how many were made; ``unopened``, how many of them couldn't be opened over there.
        in_doubt: whether the authority may have got it, and nobody told what came of it.
        keys: by region, the authority's key that it is addressed by.
        rounds: how many have begun. Of the last one:
        tried: the regions that were asked;
        heard: whether the authority has answered;
        retry_after_ms: the longest wait that was asked for.
    """

    path: str
    body: bytes = field(repr=False)  # it may hold tokens
    request_id: bytes
    deadline_ms: int
    wait_ms: int = 0
    max_age_ms: int | None = None
    attempts: int = 0
    unopened: int = 0
    in_doubt: bool = False
    keys: dict[int, int] = field(default_factory=dict)
    rounds: int = 0
    tried: set[int] = field(default_factory=set)
    heard: bool = False
    retry_after_ms: int = 0

    def begin_round(self) -> None:
        """Forget what the last round tried."""
        self.rounds += 1
        self.tried, self.heard, self.retry_after_ms = set(), False, 0

    @property
    def writes(self) -> bool:
        """Whether it is for the primary."""
        return self.path in api.WRITING_PATHS

    @property
    def is_quick(self) -> bool:
        """Whether it takes little more than the way there and back: a write takes more, and a long poll."""
        return not self.writes and not self.wait_ms


class Attempts:
    """Makes attempts at the regions of one authority. Any number of threads may share one.

    Args:
        urls: where it answers; with more than one, each is a region.
        identity: its name and public keys; more than one while its key is being changed.
        signer: the secret of a signer, for calls that only signers may make.
        clock: both clocks.
        random: returns so many random bytes.
    """

    def __init__(
        self,
        urls: Sequence[Url],
        identity: AuthorityIdentity,
        *,
        signer: SignerSecret | None,
        clock: Clock,
        random: Callable[[int], bytes],
    ) -> None:
        self._urls = tuple(urls)
        self._initiator = Initiator(identity, signer=signer, random=random)
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._key_count = len(identity.keys)
        # What attempts leave behind for the next ones; under the lock, which is never held across a step.
        self._regions = Regions(len(urls))
        self._keys = [0] * len(urls)
        self._journal = b""
        self._positions: dict[bytes, int] = {}

    def course(
        self, path: str, call: api.Call[Any], *, timeout_ms: int, wait_ms: int = 0, max_age_ms: int | None = None
    ) -> Course:
        """Return a new call's course; ``timeout_ms`` is what it may take besides ``wait_ms``."""
        deadline_ms = self._clock.monotonic_ms() + timeout_ms + wait_ms
        return Course(path, api.encode(call), self._random(16), deadline_ms, wait_ms, max_age_ms)

    def untried(self, course: Course) -> list[int]:
        """Return the regions that this round has yet to ask, the next first. Once the authority has answered, those
        that aren't believed well are left out."""
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            order = self._regions.order(now_ms, writing=course.writes)
            well = {region for region in order if self._regions.is_well(region, now_ms)}
        return [region for region in order if region not in course.tried and (region in well or not course.heard)]

    def due(self) -> int | None:
        """Return the region that is to be probed now, if there is one. It is due once."""
        with self._lock:
            return self._regions.due(self._clock.monotonic_ms())

    def patience_ms(self, region: int, after: int, at_most_ms: int) -> int:
        """Return how long a quick call waits for ``region`` before it goes on to ``after``."""
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            is_well = self._regions.is_well(after, now_ms)
            return self._regions.patience_ms(region, at_most_ms) if is_well else at_most_ms

    def attempt(self, course: Course, region: int, timeout_ms: int) -> Steps[Told]:
        """Return the authority's answer, a denial or a refusal too.

        Raises:
            Unavailable, StaleAuthority: there is none, or one that another attempt may better.
            ChannelError: it is the authority's, and can't be read.
        """
        began_ms = self._clock.monotonic_ms()
        with self._lock:
            position = self._positions.get(self._journal, 0)
        answer, rtt_ms = yield from self._sent(course, region, position, timeout_ms)
        now_ms = self._clock.monotonic_ms()
        error = _too_old(course, answer, now_ms - began_ms) if answer.failure is None else answer.failure.error()
        with self._lock:
            course.heard = True
            course.in_doubt = course.in_doubt or isinstance(error, _DOUBTFUL)
            self._journal = answer.journal
            self._positions[answer.journal] = max(answer.position, self._positions.get(answer.journal, 0))
            if not isinstance(error, PASSING):
                self._regions.answered(region, now_ms, rtt_ms if course.is_quick else None)
            elif not course.writes:  # who takes no writes may be well for all else
                self._regions.failed(region, now_ms, began_ms, at_once=False)
            if course.writes:
                self._regions.wrote(region, well=not isinstance(error, PASSING))
        if isinstance(error, PASSING):
            raise error
        return Told(answer, began_ms, position)

    def saw(self, journal: bytes, position: int) -> None:
        """Whoever is asked from now on must have come to ``position``."""
        with self._lock:
            self._positions[journal] = max(position, self._positions.get(journal, 0))

    def probe(self, region: int, timeout_ms: int) -> Steps[Region]:
        """Ask a region who and how it is, and return that. Without the position: it isn't to wait for anything.

        It asks twice: whoever stands in between keeps connections for seconds only, so the first time may include the
        making of one, on the way to a region that gets no calls.
        """
        call, url = api.Status(), str(self._urls[region])
        course = self.course(api.VERIFY, call, timeout_ms=2 * timeout_ms * self._key_count)
        while True:
            began_ms = self._clock.monotonic_ms()
            try:
                _, first_ms = yield from self._sent(course, region, 0, timeout_ms)
                answer, rtt_ms = yield from self._sent(course, region, 0, timeout_ms)
                report = api.decode_result(call, answer)
            except errors.TkdbError as error:
                if region in course.tried:
                    return Region(url, fault=error.message)
            else:
                return self._found(region, report, min(first_ms, rtt_ms), began_ms)

    def _found(self, region: int, report: api.StatusReport, rtt_ms: float, began_ms: int) -> Region:
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            if report.fault:
                self._regions.failed(region, now_ms, began_ms, at_once=True)
            else:
                self._regions.answered(region, now_ms, rtt_ms)
                rtt_ms = self._regions.rtt_ms(region) or rtt_ms
        return Region(
            url=str(self._urls[region]),
            region=report.region,
            machine=report.machine,
            role=report.role,
            rtt_ms=rtt_ms,
            seq=report.position,
            age_ms=report.age_ms,
            fault=report.fault,
        )

    def nearest_first(self, found: Sequence[Region]) -> list[Region]:
        """Return regions, given in the order of the URLs, in the order in which a read would come to them: first those
        that can answer, of which the nearest is ``serving``."""
        with self._lock:
            order = self._regions.order(self._clock.monotonic_ms())
        ranked = sorted((found[region] for region in order), key=lambda each: (each.fault != "", each.rtt_ms is None))
        return [replace(each, serving=place == 0 and not each.fault) for place, each in enumerate(ranked)]

    def _sent(self, course: Course, region: int, position: int, timeout_ms: int) -> Steps[tuple[api.Answer, float]]:
        """Return the authority's answer, and its round trip in ms.

        Raises:
            Unavailable: there is none.
            ChannelError: it can't be read.
        """
        began_ms = self._clock.monotonic_ms()
        left_ms = max(1, course.deadline_ms - began_ms)
        with self._lock:
            course.attempts += 1
            course.tried.add(region)
            key = course.keys.setdefault(region, self._keys[region])
        sealed = self._initiator.seal(
            course.path,
            course.body,
            request_id=course.request_id,
            now_ms=self._clock.now_ms(),
            position=position,
            key=key,
        )
        send = Send(self._urls[region], course.path, sealed.message, sealed.headers, min(timeout_ms, left_ms))
        outcome = yield send
        if isinstance(outcome, Lost):
            # The silence of less time than it is given usually says nothing of it.
            at_once = outcome.silent and timeout_ms <= left_ms
            self._failed(course, region, began_ms, at_once=at_once, doubtful=outcome.sent)
            raise self._lost(course, region, key, outcome)
        try:
            opened = sealed.open(outcome.message)
        except errors.ChannelError:
            self._failed(course, region, began_ms, at_once=False, doubtful=True)
            raise errors.Unavailable(
                "what came back isn't the authority's answer to this request",
                hint="something between here and the authority answers in its stead, or alters answers",
            ) from None
        with self._lock:
            self._keys[region] = key
        return api.decode_answer(opened), outcome.rtt_ms

    def _failed(self, course: Course, region: int, began_ms: int, *, at_once: bool, doubtful: bool) -> None:
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            course.in_doubt = course.in_doubt or doubtful
            self._regions.failed(region, now_ms, began_ms, at_once=at_once)

    def _lost(self, course: Course, region: int, key: int, lost: Lost) -> errors.Unavailable:
        if not lost.unopened:
            return errors.Unavailable(lost.why, hint="try again", retry_after_ms=lost.retry_after_ms)
        with self._lock:
            course.unopened += 1
            course.keys[region] = (key + 1) % self._key_count
            if course.keys[region] != self._keys[region]:
                course.tried.discard(region)  # by another key it hasn't been asked
        setting = "TKDB_AUTHORITY and TKDB_SIGNER" if course.path in api.SIGNED_PATHS else "TKDB_AUTHORITY"
        return errors.Unavailable(
            f"the request couldn't be opened over there ({lost.why})",
            hint=f"check {setting}: is this the authority's name and public key?",
        )


def _too_old(course: Course, answer: api.Answer, took_ms: int) -> errors.TkdbError | None:
    """Return what is wrong with an answer that was on its way too long for what it is based on, or None."""
    if course.max_age_ms is None or answer.age_ms + took_ms <= course.max_age_ms:
        return None
    return errors.StaleAuthority(
        f"the answer took {took_ms} ms and was based on what was {answer.age_ms} ms old; "
        f"{course.max_age_ms} ms are the most in all",
        hint="try again",
    )
