"""Negative controls: the same clients with one rule switched off. Each must be seen to do the harm that it is there
against, or the model couldn't see it. They reach in from outside: production has no switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from tests.client.cache.model.world import FALSE_DENIAL, STALE_ACCEPT, UNDONE, Parts
from tkdb import api
from tkdb_client.cache.cache import Cache
from tkdb_client.cache.in_flight import InFlight
from tkdb_client.cache.subscriptions import Subscriptions
from tkdb_client.calls.attempt import Reply
from tkdb_client.calls.effects import Join
from tkdb_client.operations import Operations
from tkdb_client.verification.verification import Verification


class NeverStale(Cache):
    """What is known is never too old."""

    def __init__(self, *args: Any, bound_ms: int, **given: Any) -> None:
        super().__init__(*args, bound_ms=10**9, **given)


class DatedByArrival(Cache):
    """What an answer tells is dated by when it is here, not by when it was asked for."""

    def take(self, question: Any, bundle: Any, digest: bytes, result: Any, told: Reply) -> Any:
        return super().take(question, bundle, digest, result, Reply(told.answer, self._monotonic_ms(), told.position))

    def apply(self, follower: int, poll: Any, feed: api.Feed, told: Reply) -> None:
        super().apply(follower, poll, feed, Reply(told.answer, self._monotonic_ms(), told.position))


class AgeIgnored(Cache):
    """The machine's own age isn't added."""

    def apply(self, follower: int, poll: Any, feed: api.Feed, told: Reply) -> None:
        super().apply(follower, poll, feed, _ageless(told))

    def take(self, question: Any, bundle: Any, digest: bytes, result: Any, told: Reply) -> Any:
        return super().take(question, bundle, digest, result, _ageless(told))


class LateDirect(Verification):
    """A direct answer is believed however long it took."""

    def __init__(self, *args: Any, bound_ms: int, **given: Any) -> None:
        super().__init__(*args, bound_ms=10**9, **given)


class NewsForgotten(InFlight):
    """What the feed has told isn't held against answers that are late."""

    def unknown_to(self, question: Any, position: int) -> Any:
        return iter(())


class FloorForgotten(InFlight):
    """An answer from before what was known when it was asked is believed."""

    def is_outdated(self, question: Any, position: int) -> bool:
        return False


class JournalIgnored(Cache):
    """Positions of one journal are taken for another's."""

    def _begin_again(self, journal: bytes) -> None:
        self._journal = journal


class GapsIgnored(Subscriptions):
    """A key is followed from wherever the feed has come to."""

    def next_poll(self, number: int, *, due_ms: int) -> Any:
        poll = super().next_poll(number, due_ms=due_ms)
        if poll is None:
            return None
        newest = max(self._keys[kid].position for kid in poll.kids)
        for kid in poll.kids:
            self._keys[kid].position = newest
        changed = type(poll)(poll.kids, newest)
        self._polls[number] = changed, due_ms
        return changed


class DatedThoughMore(Cache):
    """A page that isn't the last is dated as if it were."""

    def apply(self, follower: int, poll: Any, feed: api.Feed, told: Reply) -> None:
        super().apply(follower, poll, api.Feed(feed.position, feed.revocations, more=False), told)


class BranchesUntold(Cache):
    """What the authority tells of a lineage's revoked branches isn't kept."""

    def _keep(self, verified: Any, branches: Any, position: int, told: Reply) -> None:
        super()._keep(verified, [], position, told)


class DescendantsKept(Cache):
    """When a branch is revoked, only the token that it is named after is dropped."""

    def _revoke(self, revocations: Iterable[api.Revocation]) -> None:
        for revocation in revocations:
            if not isinstance(revocation, api.Branch):
                super()._revoke([revocation])
                continue
            lineage = self._entries.find(revocation.kid + revocation.nonce)
            if lineage is not None:
                kept = [each for each in lineage.entries if each.verified.macaroon.branch != revocation.branch]
                self._entries.keep_only(lineage, kept)


class BranchesNotLookedUp(Cache):
    """What is walked isn't held against the revoked branches of its lineage."""

    def _find_ancestor(self, text: str) -> Any:
        lineage = self._with_head(text[self._head])
        if lineage is None:
            return super()._find_ancestor(text)
        branches, lineage.branches = lineage.branches, frozenset()
        try:
            return super()._find_ancestor(text)
        finally:
            lineage.branches = branches


def deaf(kind: type) -> type[Cache]:
    """Return a cache that doesn't hear of one kind of revocation."""

    class Deaf(Cache):
        def _revoke(self, revocations: Iterable[api.Revocation]) -> None:
            super()._revoke([each for each in revocations if not isinstance(each, kind)])

    return Deaf


class LineageDropped(Cache):
    """A denial drops all that is known of the lineage."""

    def _drop_denied(self, token: Any, reason: Any) -> None:
        lineage = self._entries.find(token.lineage)
        if lineage is not None:
            self._entries.drop(lineage)


class SubjectsNotHeard(Cache):
    """Of what was issued before a time, only what concerns a whole organization is heard."""

    def _revoke(self, revocations: Iterable[api.Revocation]) -> None:
        heard = [replace(each, subjects=[]) if isinstance(each, api.IssuedBefore) else each for each in revocations]
        super()._revoke(heard)


class OwnForgotten(Operations):
    """A client's own revocations are left to the feed."""

    def _revoking(self, path: str, call: Any, targets: Any) -> Any:
        result, _ = yield from self._exchange.ask(path, call)
        return result


class NegativeOfLineage(Cache):
    """A denial is kept for the whole lineage, not for the very bundle."""

    def find(self, bundle: Any, digest: bytes) -> Any:
        return super().find(bundle, bundle.root.lineage)

    def take(self, question: Any, bundle: Any, digest: bytes, result: Any, told: Reply) -> Any:
        return super().take(question, bundle, bundle.root.lineage, result, told)


class DenialShared(Verification):
    """Who waits for another's question takes its answer: and all questions about one lineage are the same."""

    def _shared(self, bundle: Any, digest: bytes) -> Any:
        lineage = bundle.root.lineage
        other = self._single_flight.join(lineage)
        if other is not None:
            yield Join(other, self._timeout_ms)
            if not other.done():
                return (yield from self._ask({digest: bundle}))[digest]
            handed: Any = other.result()
            if handed is None:
                return (yield from self._ask({digest: bundle}))[digest]
            return handed
        result = None
        try:
            result = (yield from self._ask({digest: bundle}))[digest]
            return result
        finally:
            self._single_flight.finish(lineage, result)  # type: ignore[arg-type]  # that is the fault


def _ageless(told: Reply) -> Reply:
    answer = told.answer
    return Reply(
        api.Answer(answer.journal, answer.position, 0, answer.result, answer.failure), told.sent_ms, told.position
    )


def _with(attribute: str, make: Callable[[], object]) -> Callable[[Cache], object]:
    def exchange(cache: Cache) -> None:
        part: Any = make()
        setattr(cache, attribute, part)
        if attribute == "_followed":
            cache._entries._leave = part.leave

    return exchange


@dataclass(frozen=True)
class Control:
    """What is exchanged, what harm that does, and from which seed on that is looked for (it was found there)."""

    parts: Parts
    harm: set[str]
    first: int = 0


CONTROLS: Final[dict[str, Control]] = {
    "never stale": Control(Parts(cache=NeverStale), {STALE_ACCEPT}),
    "dated by arrival": Control(Parts(cache=DatedByArrival), {STALE_ACCEPT}, first=73),
    "the machine's age ignored": Control(Parts(cache=AgeIgnored), {STALE_ACCEPT}),
    "late direct answers believed": Control(Parts(verification=LateDirect), {STALE_ACCEPT}, first=140),
    "news not held against late answers": Control(
        Parts(before=_with("_in_flight", NewsForgotten)), {STALE_ACCEPT, UNDONE}, first=2_290
    ),
    "answers from before what was known": Control(
        Parts(before=_with("_in_flight", FloorForgotten)), {STALE_ACCEPT, UNDONE}, first=61
    ),
    "another journal's positions": Control(Parts(cache=JournalIgnored), {STALE_ACCEPT}, first=44),
    "a page dated before the last": Control(Parts(cache=DatedThoughMore), {STALE_ACCEPT}, first=256),
    "revoked branches not told": Control(Parts(cache=BranchesUntold), {STALE_ACCEPT, UNDONE}),
    "descendants of a revoked branch kept": Control(Parts(cache=DescendantsKept), {STALE_ACCEPT, UNDONE}),
    "walked tails not looked up": Control(Parts(cache=BranchesNotLookedUp), {STALE_ACCEPT, UNDONE}),
    "lineages not heard": Control(Parts(cache=deaf(api.Lineage)), {STALE_ACCEPT}, first=49),
    "issued-before not heard": Control(Parts(cache=deaf(api.IssuedBefore)), {STALE_ACCEPT}),
    "subjects not heard": Control(Parts(cache=SubjectsNotHeard), {STALE_ACCEPT}),
    "retired keys not heard": Control(Parts(cache=deaf(api.KeyRetired)), {STALE_ACCEPT}, first=28),
    "own revocations left to the feed": Control(Parts(operations=OwnForgotten), {UNDONE}),
    "a denial kept for the lineage": Control(Parts(cache=NegativeOfLineage), {FALSE_DENIAL}),
    "a flight that hands over its result": Control(Parts(verification=DenialShared), {FALSE_DENIAL, STALE_ACCEPT}),
    "position and age after the answer": Control(Parts(position_after=True), {STALE_ACCEPT, UNDONE}, first=540),
}
"""By name. A gap in what is followed is too rare here: ``test_cache_staleness`` makes it."""
