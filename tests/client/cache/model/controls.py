"""Negative controls: the same clients without one rule. With each of them, the model must find the harm that the rule
prevents. Otherwise the model couldn't detect that harm. The controls replace classes from outside, because production
code has no switch.
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
    """A cached entry never becomes stale."""

    def __init__(self, *args: Any, bound_ms: int, **given: Any) -> None:
        super().__init__(*args, bound_ms=10**9, **given)


class DatedByArrival(Cache):
    """The age of an answer counts from its arrival, not from the time when the request was sent."""

    def take(self, question: Any, bundle: Any, digest: bytes, result: Any, reply: Reply) -> Any:
        return super().take(question, bundle, digest, result, Reply(reply.answer, self._monotonic_ms(), reply.position))

    def apply(self, follower: int, poll: Any, feed: api.Feed, reply: Reply) -> None:
        super().apply(follower, poll, feed, Reply(reply.answer, self._monotonic_ms(), reply.position))


class AgeIgnored(Cache):
    """The age that the machine reports isn't added."""

    def apply(self, follower: int, poll: Any, feed: api.Feed, reply: Reply) -> None:
        super().apply(follower, poll, feed, _ageless(reply))

    def take(self, question: Any, bundle: Any, digest: bytes, result: Any, reply: Reply) -> Any:
        return super().take(question, bundle, digest, result, _ageless(reply))


class LateDirect(Verification):
    """A direct answer is accepted even if it took longer than the bound."""

    def __init__(self, *args: Any, bound_ms: int, **given: Any) -> None:
        super().__init__(*args, bound_ms=10**9, **given)


class RevocationsForgotten(InFlight):
    """Late answers aren't compared with the revocations from the feed."""

    def unknown_to(self, question: Any, position: int) -> Any:
        return iter(())


class FloorForgotten(InFlight):
    """An answer is accepted even if its position is before the known position at the time of the request."""

    def is_outdated(self, question: Any, position: int) -> bool:
        return False


class JournalIgnored(Cache):
    """Positions of one journal count as positions of another."""

    def _begin_again(self, journal: bytes) -> None:
        self._journal = journal


class GapsIgnored(Subscriptions):
    """A new key is followed from the current position of the feed."""

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


class EveryPageDated(Cache):
    """A page of the feed refreshes entries even if it isn't the last page."""

    def apply(self, follower: int, poll: Any, feed: api.Feed, reply: Reply) -> None:
        super().apply(follower, poll, api.Feed(feed.position, feed.revocations, more=False), reply)


class BranchesNotStored(Cache):
    """The revoked branches in an answer aren't stored."""

    def _keep(self, verified: Any, branches: Any, position: int, reply: Reply) -> None:
        super()._keep(verified, [], position, reply)


class DescendantsKept(Cache):
    """When a branch is revoked, its descendants stay cached: only the token with that tail is dropped."""

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
    """A locally verified descendant isn't compared with the revoked branches of its lineage."""

    def _find_ancestor(self, text: str) -> Any:
        lineage = self._with_head(text[self._head])
        if lineage is None:
            return super()._find_ancestor(text)
        branches, lineage.branches = lineage.branches, frozenset()
        try:
            return super()._find_ancestor(text)
        finally:
            lineage.branches = branches


def ignoring(kind: type) -> type[Cache]:
    """Return a cache class that ignores one kind of revocation."""

    class Ignoring(Cache):
        def _revoke(self, revocations: Iterable[api.Revocation]) -> None:
            super()._revoke([each for each in revocations if not isinstance(each, kind)])

    return Ignoring


class LineageDropped(Cache):
    """A denial drops every cached token of the lineage."""

    def _drop_denied(self, token: Any, reason: Any) -> None:
        lineage = self._entries.find(token.lineage)
        if lineage is not None:
            self._entries.drop(lineage)


class SubjectsIgnored(Cache):
    """A revocation of tokens issued before a time is applied without its subjects: only to a whole organization."""

    def _revoke(self, revocations: Iterable[api.Revocation]) -> None:
        kept = [replace(each, subjects=[]) if isinstance(each, api.IssuedBefore) else each for each in revocations]
        super()._revoke(kept)


class OwnRevocationsIgnored(Operations):
    """A client doesn't apply its own revocations to its cache: they arrive through the feed."""

    def _revoking(self, path: str, call: Any, targets: Any, request_id: bytes | None, part: int = 0) -> Any:
        result, _ = yield from self._exchange.ask(path, call, request_id=request_id, part=part)
        return result


class DenialOfLineage(Cache):
    """A denial is cached for the whole lineage, not for the exact bundle."""

    def find(self, bundle: Any, digest: bytes) -> Any:
        return super().find(bundle, bundle.root.lineage)

    def take(self, question: Any, bundle: Any, digest: bytes, result: Any, reply: Reply) -> Any:
        return super().take(question, bundle, bundle.root.lineage, result, reply)


class ResultShared(Verification):
    """A waiting caller takes the result of the shared request, and all tokens of a lineage share one request."""

    def _shared(self, bundle: Any, digest: bytes) -> Any:
        lineage = bundle.root.lineage
        other = self._single_flight.join(lineage)
        if other is not None:
            yield Join(other, self._timeout_ms)
            if not other.done():
                return (yield from self._ask({digest: bundle}))[digest]
            shared: Any = other.result()
            if shared is None:
                return (yield from self._ask({digest: bundle}))[digest]
            return shared
        result = None
        try:
            result = (yield from self._ask({digest: bundle}))[digest]
            return result
        finally:
            self._single_flight.finish(lineage, result)  # type: ignore[arg-type]  # the fault of this control


def _ageless(reply: Reply) -> Reply:
    answer = reply.answer
    return Reply(
        api.Answer(answer.journal, answer.position, 0, answer.result, answer.failure), reply.sent_ms, reply.position
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
    """The replaced parts, the harm that follows, and the first seed to try: this seed showed the harm before."""

    parts: Parts
    harm: set[str]
    first: int = 0


CONTROLS: Final[dict[str, Control]] = {
    "never stale": Control(Parts(cache=NeverStale), {STALE_ACCEPT}),
    "dated by arrival": Control(Parts(cache=DatedByArrival), {STALE_ACCEPT}, first=73),
    "the machine's age ignored": Control(Parts(cache=AgeIgnored), {STALE_ACCEPT}),
    "late direct answers accepted": Control(Parts(verification=LateDirect), {STALE_ACCEPT}, first=140),
    "late answers not compared with the feed": Control(
        Parts(before=_with("_in_flight", RevocationsForgotten)), {STALE_ACCEPT, UNDONE}, first=2_290
    ),
    "answers older than the known position": Control(
        Parts(before=_with("_in_flight", FloorForgotten)), {STALE_ACCEPT, UNDONE}, first=61
    ),
    "positions of another journal": Control(Parts(cache=JournalIgnored), {STALE_ACCEPT}, first=44),
    "every page of the feed dated": Control(Parts(cache=EveryPageDated), {STALE_ACCEPT}, first=256),
    "revoked branches not stored": Control(Parts(cache=BranchesNotStored), {STALE_ACCEPT, UNDONE}),
    "descendants of a revoked branch kept": Control(Parts(cache=DescendantsKept), {STALE_ACCEPT, UNDONE}),
    "walked tails not checked": Control(Parts(cache=BranchesNotLookedUp), {STALE_ACCEPT, UNDONE}),
    "lineages ignored": Control(Parts(cache=ignoring(api.Lineage)), {STALE_ACCEPT}, first=49),
    "issued-before ignored": Control(Parts(cache=ignoring(api.IssuedBefore)), {STALE_ACCEPT}),
    "subjects ignored": Control(Parts(cache=SubjectsIgnored), {STALE_ACCEPT}),
    "retired keys ignored": Control(Parts(cache=ignoring(api.KeyRetired)), {STALE_ACCEPT}, first=28),
    "own revocations ignored": Control(Parts(operations=OwnRevocationsIgnored), {UNDONE}),
    "a denial cached for the lineage": Control(Parts(cache=DenialOfLineage), {FALSE_DENIAL}),
    "a shared request that returns its result": Control(Parts(verification=ResultShared), {FALSE_DENIAL, STALE_ACCEPT}),
    "position and age read after the answer": Control(Parts(position_after=True), {STALE_ACCEPT, UNDONE}, first=540),
}
"""By name. A gap in the followed positions is too rare here: ``test_cache_staleness`` creates one."""
