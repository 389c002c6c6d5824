"""Verification: the cache answers if it can, and the authority is asked about the rest. Pure: it yields effects.

Every verification goes through here, except for those that the cache answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from hashlib import sha256
from typing import Final, TypeAlias

from tkdb import api, errors
from tkdb.macaroon.bundle import Bundle
from tkdb_client.cache.cache import Cache
from tkdb_client.calls.call import Calls
from tkdb_client.calls.effects import Join, Steps
from tkdb_client.verification.batches import batches
from tkdb_client.verification.feed_follower import FeedFollower
from tkdb_client.verification.rate_limit import LineageRateLimit
from tkdb_client.verification.single_flight import SingleFlight
from tkdb_client.verified import Verified

Result: TypeAlias = Verified | errors.Denied
Outcome: TypeAlias = Result | errors.StaleAuthority
Batch: TypeAlias = Sequence[tuple[bytes, Bundle]]
"""Bundles, with their digests."""
Answers: TypeAlias = dict[bytes, tuple[Outcome, int]]
"""Results by digest, with their dates in monotonic milliseconds."""

ASK_TIMES: Final = 4
"""How often a request is sent at most, while the feed has news that the answers lack."""
UNSURE_TIMEOUT_MS: Final = 2_000
"""The timeout of the request about bundles that a machine was unsure about. The machine waits for 1 s at most."""


class Verification:
    """Verifies bundles with the cache and the authority. Any number of threads may share it.

    Args:
        exchange: makes the calls.
        cache: the cached results.
        feed: follows the cached keys.
        bound_ms: the largest age of an answer's data on arrival.
        asks_when_stale: whether the authority is asked about a cached token whose data may be too old. If not, the
            token is denied.
        timeout_ms: the timeout of a call.
        monotonic_ms: a monotonic clock.
        place: returns the place in which a call runs. Only calls of one place share a request. An event loop is a
            place, because a call in another loop must not wait for a loop that may stop.
    """

    def __init__(
        self,
        exchange: Calls,
        cache: Cache,
        feed: FeedFollower,
        *,
        bound_ms: int,
        asks_when_stale: bool,
        timeout_ms: int,
        monotonic_ms: Callable[[], int],
        place: Callable[[], Hashable] = lambda: None,
    ) -> None:
        self._exchange = exchange
        self._cache = cache
        self._feed = feed
        self._bound_ms = bound_ms
        self._asks_when_stale = asks_when_stale
        self._timeout_ms = timeout_ms
        self._monotonic_ms = monotonic_ms
        self._place = place
        self._single_flight = SingleFlight()
        self._allowance = LineageRateLimit(monotonic_ms=monotonic_ms)

    def verify(self, bundle: Bundle) -> Steps[Verified]:
        """Return the verified token of a bundle.

        Raises:
            Denied: with its reason.
            StaleAuthority: the cached data is too old, and no machine answered in time with fresh data.
            Overloaded: there are too many requests about its lineage.
            TkdbError: the authority couldn't be asked.
        """
        digest = _digest(bundle)
        result = self._known(bundle, digest)
        if result is None:
            result = yield from self._unknown(bundle, digest)
        if isinstance(result, errors.TkdbError):
            raise result
        return result

    def verify_many(self, bundles: Sequence[Bundle]) -> Steps[list[Outcome]]:
        """Return the verified token or the error of each bundle, as of the time when the last one is known.

        If no machine answers, cached results stay valid, and each of the other bundles gets a StaleAuthority.

        Raises:
            Unavailable: no machine answered, and none of the bundles is cached, or was.
            TkdbError: the authority refuses.
        """
        digests = [_digest(bundle) for bundle in bundles]
        wanted = dict(zip(digests, bundles, strict=True))
        unknown: dict[bytes, Bundle] = {}
        asked: dict[bytes, Outcome] = {}
        while True:
            # Look them up after the requests, which take time: cached results may be too old by now, or revoked.
            known = {each: self._known(wanted[each], each) for each in wanted if each not in unknown}
            further = {each: wanted[each] for each, result in known.items() if result is None}
            if not further:
                return [result for each in digests if (result := known.get(each) or asked.get(each)) is not None]
            unknown |= further
            try:
                asked = yield from self._ask(unknown)
            except errors.Unavailable as error:
                found = self._without_answers(wanted, error)
                return [found[each] for each in digests]

    def _without_answers(self, wanted: Mapping[bytes, Bundle], error: errors.Unavailable) -> dict[bytes, Outcome]:
        """Return the results that are cached now, and an error for each bundle that the authority couldn't be asked
        about.

        Raises:
            Unavailable: ``error``, if none of the bundles is cached, or was.
        """
        found = {digest: self._cache.find(bundle, digest) for digest, bundle in wanted.items()}
        were_known = {digest for digest, bundle in wanted.items() if self._cache.was_known(bundle)}
        if not were_known and not any(found.values()):
            raise error
        return {
            digest: result or (_stale(error) if digest in were_known else _not_asked(error))
            for digest, result in found.items()
        }

    def _known(self, bundle: Bundle, digest: bytes) -> Outcome | None:
        """Return the cached result, or None if the authority must be asked."""
        result = self._cache.find(bundle, digest)
        if result is None and not self._asks_when_stale and self._cache.was_known(bundle):
            return _stale()
        return result

    def _unknown(self, bundle: Bundle, digest: bytes) -> Steps[Outcome]:
        """Return the authority's result for a bundle that isn't cached, or is too old."""
        was_known = self._cache.was_known(bundle)
        if not self._cache.is_on or bundle.discharges:  # a result that isn't kept can't be shared
            return (yield from self._ask({digest: bundle}))[digest]
        wait_ms = self._allowance.take(bundle.root.lineage)
        if wait_ms:
            raise errors.Overloaded(
                "there are too many uncached tokens of one lineage",
                hint="narrow tokens in the same way for each call, so that they can be cached",
                retry_after_ms=wait_ms,
            )
        try:
            result = yield from self._shared(bundle, digest)
        except errors.StaleAuthority:
            raise
        except errors.Unavailable as error:
            if was_known:
                raise _stale(error) from error
            raise
        if isinstance(result, errors.BadSignature):
            self._allowance.give_back(bundle.root.lineage)
        return result

    def _shared(self, bundle: Bundle, digest: bytes) -> Steps[Outcome]:
        """Send a request, or wait for another caller's identical one and look in the cache again."""
        flight = self._place(), digest
        other = self._single_flight.join(flight)
        if other is not None:
            if not (yield Join(other, self._timeout_ms)):
                raise errors.DeadlineExceeded(
                    "another call sends the same request, and has no answer yet", hint="try again"
                )
            if (told := other.result()) is not None:
                raise copy(told)  # The request failed. The callers that waited needn't find that out again.
            result = self._cache.find(bundle, digest)
            return (yield from self._ask({digest: bundle}))[digest] if result is None else result
        failed: errors.TkdbError | None = None
        try:
            return (yield from self._ask({digest: bundle}))[digest]
        except errors.TkdbError as error:
            failed = copy(error)
            raise
        finally:
            self._single_flight.finish(flight, failed)

    def _ask(self, wanted: Mapping[bytes, Bundle]) -> Steps[dict[bytes, Outcome]]:
        """Return the authority's result for each bundle, by its digest, and make sure that the kept ones are
        followed.

        Raises:
            Unavailable: also if there was news, each time, that the answer may lack; or if the first of many answers
                were too old, each time, when the last one came.
        """
        answers: dict[bytes, tuple[Outcome, int]] = {}
        for _ in range(ASK_TIMES):
            asked = [(digest, bundle) for digest, bundle in wanted.items() if digest not in answers]
            for batch in batches(asked, lambda pair: len(pair[1].text) + 5, api.MAX_BUNDLES):
                results, unsure = yield from self._ask_batch(batch)
                answers |= results
                if unsure:
                    answers |= yield from self._ask_unsure(unsure)
                yield from self._feed.begin()
            since_ms = self._monotonic_ms() - self._bound_ms
            for digest in [digest for digest, (_, dated_ms) in answers.items() if dated_ms < since_ms]:
                known = self._cache.find(wanted[digest], digest)  # the feed may have kept it fresh
                if known is None:
                    del answers[digest]
                else:
                    answers[digest] = known, since_ms
            if len(answers) == len(wanted):
                return {digest: result for digest, (result, _) in answers.items()}
        raise errors.Unavailable("revocations arrive faster than answers that include them", hint="try again")

    def _ask_batch(self, batch: Batch, timeout_ms: int | None = None) -> Steps[tuple[Answers, Batch]]:
        """Return an answer's result for each bundle, with its date, and the bundles that the machine is unsure about.
        Bundles for which the answer may lack news are in neither."""
        question = self._cache.open(len(batch))
        try:
            call = api.Verify(bundles=[bundle.text for _, bundle in batch])
            answer, told = yield from self._exchange.ask(
                api.VERIFY, call, max_age_ms=self._bound_ms, timeout_ms=timeout_ms
            )
            if len(answer.results) != len(batch):
                raise errors.ChannelError("the answer has a wrong number of results")
            results: Answers = {}
            unsure: list[tuple[bytes, Bundle]] = []
            for (digest, bundle), result in zip(batch, answer.results, strict=True):
                if isinstance(result, api.Unsure):
                    unsure.append((digest, bundle))
                elif (taken := self._cache.take(question, bundle, digest, result, told)) is not None:
                    results[digest] = taken, told.dated_ms
            return results, unsure
        finally:
            self._cache.close(question)

    def _ask_unsure(self, batch: Batch) -> Steps[Answers]:
        """Ask about the bundles that a machine was unsure about again, without the others: then the machine waits until
        it knows whether their keys are new. A bundle that stays without a result gets an error of its own, so that one
        caller's unknown key costs the others little time and no result."""
        reason = errors.Unavailable("the machine doesn't know the key yet", hint="try again")
        results: Answers = {}
        try:
            results, _ = yield from self._ask_batch(batch, UNSURE_TIMEOUT_MS)
        except errors.Unavailable as error:
            reason = error
        now_ms = self._monotonic_ms()
        return {digest: results.get(digest) or (_not_asked(reason), now_ms) for digest, _ in batch}


def _digest(bundle: Bundle) -> bytes:
    return sha256(bundle.text.encode()).digest()


def _stale(error: errors.Unavailable | None = None) -> errors.StaleAuthority:
    """Return the error for a token that was cached before. ``error`` is the reason why no machine could be asked."""
    why = "" if error is None else f", and the authority could not be asked ({error.message})"
    return errors.StaleAuthority(
        f"this token was verified before, but it may have been revoked since{why}",
        hint="try again when the authority can be reached",
    )


def _not_asked(error: errors.Unavailable) -> errors.StaleAuthority:
    """Return the error for a token that isn't cached. ``error`` is the reason why no machine could be asked."""
    return errors.StaleAuthority(
        f"this token isn't cached, and the authority could not be asked ({error.message})",
        hint="try again when the authority can be reached",
    )
