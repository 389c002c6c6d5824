"""Verification: what is known is answered here, and the authority is asked about the rest. Pure: it yields what to do.

Every verification goes through here, except for what the cache answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from hashlib import sha256
from typing import Final, TypeAlias

from tkdb import api, errors
from tkdb.macaroon.bundle import Bundle
from tkdb_client.cache.cache import Cache
from tkdb_client.calls.attempt import PASSING, Passing
from tkdb_client.calls.call import Exchange
from tkdb_client.calls.effects import Join, Steps
from tkdb_client.verification.batches import batches
from tkdb_client.verification.feed_follower import Feed
from tkdb_client.verification.rate_limit import Allowance
from tkdb_client.verification.single_flight import Flights
from tkdb_client.verified import Verified

Result: TypeAlias = Verified | errors.Denied

ASK_TIMES: Final = 4
"""How often the same is asked, while there is news that the answers know nothing of."""


class Verification:
    """Verifies bundles, by the cache and by the authority. Any number of threads may share one.

    Args:
        exchange: makes the calls.
        cache: what is known.
        feed: follows what is known.
        bound_ms: how old what an answer is based on may be when it is here.
        asks_when_stale: whether the authority is asked about what was known and may be too old by now; else it is
            refused.
        timeout_ms: how long a call may take.
        monotonic_ms: a clock that only goes forward.
    """

    def __init__(
        self,
        exchange: Exchange,
        cache: Cache,
        feed: Feed,
        *,
        bound_ms: int,
        asks_when_stale: bool,
        timeout_ms: int,
        monotonic_ms: Callable[[], int],
    ) -> None:
        self._exchange = exchange
        self._cache = cache
        self._feed = feed
        self._bound_ms = bound_ms
        self._asks_when_stale = asks_when_stale
        self._timeout_ms = timeout_ms
        self._monotonic_ms = monotonic_ms
        self._flights = Flights()
        self._allowance = Allowance(monotonic_ms=monotonic_ms)

    def verify(self, bundle: Bundle) -> Steps[Verified]:
        """Return what is trusted of a bundle's token.

        Raises:
            Denied: why not. StaleAuthority, which is one, also where what was known is too old and nobody could be
                asked.
            Overloaded: too much is asked about its lineage.
            TkdbError: the authority couldn't be asked.
        """
        digest = _digest(bundle)
        result = self._known(bundle, digest)
        if result is None:
            result = yield from self._unknown(bundle, digest)
        if isinstance(result, errors.Denied):
            raise result
        return result

    def verify_many(self, bundles: Sequence[Bundle]) -> Steps[list[Result]]:
        """Return what is trusted of each, or what denies it, as it stands when the last one is known.

        Where nobody answers, what is known here stands, and each of the others is denied, as StaleAuthority.

        Raises:
            Unavailable, StaleAuthority: nobody answered, and not one of them is known here, or was.
            TkdbError: the authority refuses.
        """
        digests = [_digest(bundle) for bundle in bundles]
        wanted = dict(zip(digests, bundles, strict=True))
        unknown: dict[bytes, Bundle] = {}
        asked: dict[bytes, Result] = {}
        while True:
            # Looked up behind what takes time: what was known before may be too old by now, or revoked.
            known = {each: self._known(wanted[each], each) for each in wanted if each not in unknown}
            further = {each: wanted[each] for each, result in known.items() if result is None}
            if not further:
                return [result for each in digests if (result := known.get(each) or asked.get(each)) is not None]
            unknown |= further
            try:
                asked = yield from self._ask(unknown)
            except PASSING as error:
                found = self._without_answers(wanted, error)
                return [found[each] for each in digests]

    def _without_answers(self, wanted: Mapping[bytes, Bundle], error: Passing) -> dict[bytes, Result]:
        """Return what is known now of each bundle, and deny those that the authority couldn't be asked about.

        Raises:
            Unavailable, StaleAuthority: ``error``, if there is nothing to tell besides.
        """
        found = {digest: self._cache.find(bundle, digest) for digest, bundle in wanted.items()}
        were_known = {digest for digest, bundle in wanted.items() if self._cache.was_known(bundle)}
        if not were_known and not any(found.values()):
            raise error
        return {
            digest: result or (_stale(error) if digest in were_known else _not_asked(error))
            for digest, result in found.items()
        }

    def _known(self, bundle: Bundle, digest: bytes) -> Result | None:
        """Return what is known here; None where the authority is to be asked."""
        result = self._cache.find(bundle, digest)
        if result is None and not self._asks_when_stale and self._cache.was_known(bundle):
            return _stale()
        return result

    def _unknown(self, bundle: Bundle, digest: bytes) -> Steps[Result]:
        """Return what the authority says of a bundle that isn't known here, or not well enough."""
        was_known = self._cache.was_known(bundle)
        if not self._cache.is_on or bundle.discharges:  # what isn't kept can't be handed over
            return (yield from self._ask({digest: bundle}))[digest]
        wait_ms = self._allowance.take(bundle.root.lineage)
        if wait_ms:
            raise errors.Overloaded(
                "too many unknown tokens of one lineage were presented",
                hint="narrow by what stays the same from call to call",
                retry_after_ms=wait_ms,
            )
        try:
            result = yield from self._shared(bundle, digest)
        except errors.Unavailable as error:
            if was_known:
                raise _stale(error) from error
            raise
        if isinstance(result, errors.BadSignature):
            self._allowance.give_back(bundle.root.lineage)
        return result

    def _shared(self, bundle: Bundle, digest: bytes) -> Steps[Result]:
        """Ask, or wait for who is asking the same and look again."""
        other = self._flights.board(digest)
        if other is not None:
            if not (yield Join(other, self._timeout_ms)):
                raise errors.DeadlineExceeded("another call asks the same, and has no answer yet", hint="try again")
            if (told := other.result()) is not None:
                raise copy(told)  # nobody answered: all who wait need not find that out again
            result = self._cache.find(bundle, digest)
            return (yield from self._ask({digest: bundle}))[digest] if result is None else result
        failed: errors.TkdbError | None = None
        try:
            return (yield from self._ask({digest: bundle}))[digest]
        except errors.TkdbError as error:
            failed = copy(error)
            raise
        finally:
            self._flights.land(digest, failed)

    def _ask(self, wanted: Mapping[bytes, Bundle]) -> Steps[dict[bytes, Result]]:
        """Return what the authority says of each bundle, by its digest; and see to it that what is kept is followed.

        Raises:
            Unavailable: also where there was news, each time, that the answer may not have known of; or where the first
                of many answers were too old, each time, when the last came.
        """
        answers: dict[bytes, tuple[Result, int]] = {}
        for _ in range(ASK_TIMES):
            asked = [(digest, bundle) for digest, bundle in wanted.items() if digest not in answers]
            for batch in batches(asked, lambda pair: len(pair[1].text) + 5, api.MAX_BUNDLES):
                answers |= yield from self._ask_batch(batch)
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
        raise errors.Unavailable("revocations come in faster than answers that know of them", hint="try again")

    def _ask_batch(self, batch: Sequence[tuple[bytes, Bundle]]) -> Steps[dict[bytes, tuple[Result, int]]]:
        """Return what an answer says of each bundle, and as of when; without those of which it may not know all."""
        question = self._cache.open(len(batch))
        try:
            call = api.Verify(bundles=[bundle.text for _, bundle in batch])
            answer, told = yield from self._exchange.ask(api.VERIFY, call, max_age_ms=self._bound_ms)
            if len(answer.results) != len(batch):
                raise errors.ChannelError("the answer has another number of results than were asked for")
            results: dict[bytes, tuple[Result, int]] = {}
            for (digest, bundle), result in zip(batch, answer.results, strict=True):
                taken = self._cache.take(question, bundle, digest, result, told)
                if taken is not None:
                    results[digest] = taken, told.dated_ms
            return results
        finally:
            self._cache.close(question)


def _digest(bundle: Bundle) -> bytes:
    return sha256(bundle.text.encode()).digest()


def _stale(error: Passing | None = None) -> errors.StaleAuthority:
    """Return the denial of what was known once; ``error`` is why nobody could be asked."""
    why = "" if error is None else f", and the authority could not be asked ({error.message})"
    return errors.StaleAuthority(
        f"this token was verified before, but whether it has been revoked since isn't known{why}",
        hint="try again when the authority can be reached",
    )


def _not_asked(error: Passing) -> errors.StaleAuthority:
    """Return the denial of what isn't known here; ``error`` is why nobody could be asked."""
    return errors.StaleAuthority(
        f"this token isn't known here, and the authority could not be asked ({error.message})",
        hint="try again when the authority can be reached",
    )
