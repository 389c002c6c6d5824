"""One attempt of a call at one region: sealed, sent and opened, with its effect on the region's record. Pure: it
yields effects (`tkdb_client.calls.effects`).

Each attempt is sealed again, with its own time, and with the call's request id and body. Its outcome is recorded for
later attempts: the region's distance, its health, the authority's key that it holds, and the position that it has
reached.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tkdb import api, errors
from tkdb.channel.client import Initiator
from tkdb.channel.envelope import MAX_AGE_MS, MAX_AHEAD_MS
from tkdb.channel.keys import AuthorityIdentity, SignerSecret
from tkdb.net.url import Url
from tkdb_client.arguments import REQUEST_ID_BYTES, request_id_of_part
from tkdb_client.calls.effects import Steps
from tkdb_client.calls.regions import Region, Regions
from tkdb_client.calls.transport import Lost, Send
from tkdb_client.clock import Clock

_DOUBTFUL: Final = (errors.OutcomeUnknown, errors.DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of one attempt.

    Attributes:
        answer: the authority's answer.
        sent_ms: when the attempt began, by ``Clock.elapsed_ms``.
        position: the position that was sent with it. No answer is from before it.
    """

    answer: api.Answer
    sent_ms: int
    position: int

    @property
    def dated_ms(self) -> int:
        """The time, by ``Clock.elapsed_ms``, as of which the answer includes everything."""
        return self.sent_ms - self.answer.age_ms


@dataclass(slots=True)
class CallState:
    """One call in progress, with the traces of its attempts.

    Attributes:
        path: the call's path.
        body: the request.
        request_id: 16 bytes.
        call_id: the request id of the whole operation, of which this call may be one part.
        once: whether the authority carries out this request id only once, whenever it is repeated.
        deadline_ms: when the call ends, by the monotonic clock.
        wait_ms: how long the authority may hold the answer back on purpose (a long poll).
        max_age_ms: the largest age of the answer's data on arrival; None: any.
        attempts: the number of attempts. ``unopened``: how many of them the authority couldn't open.
        in_doubt: whether the authority may have received the request without a known outcome.
        keys: by region, the authority's key to which the request is sealed.
        rounds: the number of rounds that have begun. Of the last one:
        tried: the regions that were asked;
        heard: whether the authority has answered;
        retry_after_ms: the longest wait that a response asked for.
    """

    path: str
    body: bytes = field(repr=False)  # it may contain tokens
    request_id: bytes
    call_id: bytes
    once: bool
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
        """Forget the regions that the last round tried."""
        self.rounds += 1
        self.tried, self.heard, self.retry_after_ms = set(), False, 0

    @property
    def writes(self) -> bool:
        """Whether the call is for the primary."""
        return self.path in api.WRITING_PATHS

    @property
    def is_quick(self) -> bool:
        """Whether the call takes little more than a round trip. A write takes longer, and so does a long poll."""
        return not self.writes and not self.wait_ms


class Attempts:
    """Makes attempts at the regions of one authority. Any number of threads may share it.

    Args:
        urls: the authority's URLs. With more than one, each is a region.
        identity: its name and public keys; more than one during a rotation of its key.
        signer: a signer's secret, for calls that only signers may make.
        clock: both clocks.
        random: returns ``n`` random bytes.
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
        # State that attempts leave for later ones. The lock that protects it is never held across an effect.
        self._regions = Regions(len(urls))
        self._keys = [0] * len(urls)
        self._journal = b""
        self._positions: dict[bytes, int] = {}

    def course(
        self,
        path: str,
        call: api.Call[Any],
        *,
        timeout_ms: int,
        wait_ms: int = 0,
        max_age_ms: int | None = None,
        request_id: bytes | None = None,
        part: int = 0,
    ) -> CallState:
        """Return the state of a new call. ``timeout_ms`` is its timeout, in addition to ``wait_ms``."""
        call_id = self._random(REQUEST_ID_BYTES) if request_id is None else request_id
        return CallState(
            path=path,
            body=api.encode(call),
            request_id=request_id_of_part(call_id, part),
            call_id=call_id,
            once=isinstance(call, api.WriteCall),
            deadline_ms=self._clock.monotonic_ms() + timeout_ms + wait_ms,
            wait_ms=wait_ms,
            max_age_ms=max_age_ms,
        )

    def untried(self, course: CallState) -> list[int]:
        """Return the regions that this round has yet to ask, the next one first.

        Once the authority has answered, unhealthy regions are left out.
        """
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            order = self._regions.order(now_ms, writing=course.writes)
            well = {region for region in order if self._regions.is_well(region, now_ms)}
        return [region for region in order if region not in course.tried and (region in well or not course.heard)]

    def due(self) -> int | None:
        """Return the region whose probe is due now, or None. A probe is due once."""
        with self._lock:
            return self._regions.due(self._clock.monotonic_ms())

    def timeout_ms(self, region: int, after: int, at_most_ms: int) -> int:
        """Return how long a quick call waits for ``region`` before it continues with ``after``."""
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            is_well = self._regions.is_well(after, now_ms)
            return self._regions.timeout_ms(region, at_most_ms) if is_well else at_most_ms

    def attempt(self, course: CallState, region: int, timeout_ms: int) -> Steps[Reply]:
        """Return the authority's answer, which may be a denial or a refusal.

        Raises:
            Unavailable: there is none, or another attempt may get a better one.
            ChannelError: the answer is the authority's, and can't be read.
        """
        began_ms, sent_ms = self._clock.monotonic_ms(), self._clock.elapsed_ms()
        with self._lock:
            position = self._positions.get(self._journal, 0)
        answer, rtt_ms = yield from self._sent(course, region, position, timeout_ms)
        now_ms, took_ms = self._clock.monotonic_ms(), self._clock.elapsed_ms() - sent_ms
        error = _too_old(course, answer, took_ms) if answer.failure is None else answer.failure.error()
        if isinstance(error, errors.OutOfTime):
            error = _out_of_time(error, self._clock.now_ms())
        with self._lock:
            course.heard = True
            course.in_doubt = course.in_doubt or isinstance(error, _DOUBTFUL)
            self._journal = answer.journal
            self._positions[answer.journal] = max(answer.position, self._positions.get(answer.journal, 0))
            if not isinstance(error, errors.Unavailable) or isinstance(error, errors.WrongClock):
                self._regions.answered(region, now_ms, rtt_ms if course.is_quick else None)
            elif not course.writes:  # a machine that takes no writes may be healthy for other calls
                self._regions.failed(region, now_ms, began_ms, at_once=False)
            if course.writes:
                self._regions.wrote(region, well=not isinstance(error, errors.Unavailable))
        if isinstance(error, errors.Unavailable):
            raise error
        return Reply(answer, sent_ms, position)

    def saw(self, journal: bytes, position: int) -> None:
        """Record that every machine asked from now on must have reached ``position``."""
        with self._lock:
            self._positions[journal] = max(position, self._positions.get(journal, 0))

    def probe(self, region: int, timeout_ms: int) -> Steps[Region]:
        """Return the status of a region. The request has no position, so that the region doesn't wait for one.

        It sends two requests. Proxies keep connections for seconds only, so the first request to a region without calls
        may include opening a connection.
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
            role=report.role if report.cluster is None or report.cluster.is_current else "",
            rtt_ms=rtt_ms,
            seq=report.position,
            age_ms=report.age_ms,
            fault=report.fault,
        )

    def nearest_first(self, found: Sequence[Region]) -> list[Region]:
        """Return the regions, given in the order of the URLs, in the order in which a read would use them.

        Regions that can answer come first, and the nearest of them is ``serving``.
        """
        with self._lock:
            order = self._regions.order(self._clock.monotonic_ms())
        ranked = sorted((found[region] for region in order), key=lambda each: (each.fault != "", each.rtt_ms is None))
        return [replace(each, serving=place == 0 and not each.fault) for place, each in enumerate(ranked)]

    def _sent(self, course: CallState, region: int, position: int, timeout_ms: int) -> Steps[tuple[api.Answer, float]]:
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
            # Silence for less time than a region usually gets proves nothing about it.
            at_once = outcome.silent and timeout_ms <= left_ms
            self._failed(course, region, began_ms, at_once=at_once, doubtful=outcome.sent)
            raise self._lost(course, region, key, outcome)
        try:
            opened = sealed.open(outcome.message)
        except errors.ChannelError:
            self._failed(course, region, began_ms, at_once=False, doubtful=True)
            raise errors.Unavailable(
                "the response isn't the authority's answer to this request",
                hint="check for a proxy that answers in place of the authority, or alters answers",
            ) from None
        with self._lock:
            self._keys[region] = key
        return api.decode_answer(opened), outcome.rtt_ms

    def _failed(self, course: CallState, region: int, began_ms: int, *, at_once: bool, doubtful: bool) -> None:
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            course.in_doubt = course.in_doubt or doubtful
            self._regions.failed(region, now_ms, began_ms, at_once=at_once)

    def _lost(self, course: CallState, region: int, key: int, lost: Lost) -> errors.Unavailable:
        if not lost.unopened:
            return errors.Unavailable(lost.why, hint="try again", retry_after_ms=lost.retry_after_ms)
        with self._lock:
            course.unopened += 1
            course.keys[region] = (key + 1) % self._key_count
            if course.keys[region] != self._keys[region]:
                course.tried.discard(region)  # with another key, it hasn't been asked yet
        setting = "TKDB_AUTHORITY and TKDB_SIGNER" if course.path in api.SIGNED_PATHS else "TKDB_AUTHORITY"
        return errors.Unavailable(
            f"the authority couldn't open the request ({lost.why})",
            hint=f"check that {setting} belongs to this authority",
        )


def _out_of_time(error: errors.OutOfTime, now_ms: int) -> errors.Unavailable:
    """Return the error for a request that the authority refused for its time: this machine's clock is wrong, or the
    request arrived too late (after a suspension, for example), and another attempt has a new time."""
    ahead_ms = None if error.authority_ms is None else now_ms - error.authority_ms
    if ahead_ms is None:
        return errors.WrongClock(error.message, hint=_SET_CLOCK)
    if -MAX_AGE_MS <= ahead_ms <= MAX_AHEAD_MS:
        return errors.Unavailable("the request reached the authority too late", hint="try again")
    side = "ahead of" if ahead_ms > 0 else "behind"
    return errors.WrongClock(
        f"the clock of this machine is {abs(ahead_ms) / 1000:.1f} s {side} the authority's", hint=_SET_CLOCK
    )


_SET_CLOCK: Final = "set the clock of this machine, and keep it right with a time service"


def _too_old(course: CallState, answer: api.Answer, took_ms: int) -> errors.TkdbError | None:
    """Return the error for an answer whose data is too old on arrival, or None."""
    if course.max_age_ms is None or answer.age_ms + took_ms <= course.max_age_ms:
        return None
    return errors.StaleAuthority(
        f"the answer took {took_ms} ms, and its data was {answer.age_ms} ms old; "
        f"at most {course.max_age_ms} ms are allowed in all",
        hint="try again",
    )
