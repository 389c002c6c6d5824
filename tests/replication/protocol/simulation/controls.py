"""Negative controls: the same machines with one rule switched off, or in a world that breaks one assumption.

The simulation must find each of them. Otherwise, it couldn't find the fault that the rule prevents. A control changes
the machine from outside, because production constructs only ``StateMachine`` itself and has no switch. It replaces the
class of one part of a machine, so that everything else stays as production made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tkdb.errors import BrokenHead
from tkdb.journal.entry import Entry
from tkdb_replication.bucket.objects import Conflict, Stored
from tkdb_replication.protocol.actions import Acknowledge, Apply, CutBack, RestoreBackup, StartReplication
from tkdb_replication.protocol.epoch import Epoch
from tkdb_replication.protocol.events import Committed, JournalAt, ReadAnswered, Repeated, SwapAnswered, Synced
from tkdb_replication.protocol.follower import Follower
from tkdb_replication.protocol.freshness import Freshness
from tkdb_replication.protocol.head import Checkpoint, Head
from tkdb_replication.protocol.publication import Publication
from tkdb_replication.protocol.reader import HeadReader, Seen
from tkdb_replication.protocol.settings import NEVER_MS
from tkdb_replication.protocol.state_machine import StateMachine


class AcknowledgesAtSync(StateMachine):
    """Acknowledges a write once Litestream has uploaded it, without a swap."""

    def _take(self, event: Any) -> None:
        super()._take(event)
        publication = self._epoch and self._epoch.publication
        if publication and isinstance(event, Synced):
            for seq, ticket in publication._waiting:
                if seq <= publication._synced_seq:
                    self._do(Acknowledge(ticket, seq))


class _FreshBySeq(Freshness):
    def _is_at(self, place: Checkpoint) -> bool:
        return self.place is not None and self.place.seq >= place.seq


class _FollowsBySeq(Follower):
    def at(self, head: Head) -> bool:
        return self.place is not None and self.place.seq >= head.seq and self._step is None

    def due_ms(self, head: Head) -> int:
        arrived = self.place is not None and self.place.seq >= head.seq
        return NEVER_MS if arrived or self._step is not None else self._retry_at_ms

    def step(
        self, number: Callable[[], int], head: Head, through: Checkpoint, now_ms: int
    ) -> CutBack | Apply | RestoreBackup | None:
        step = super().step(number, head, through, now_ms)
        return CutBack(step.step, ()) if isinstance(step, CutBack) else step


class ComparesSeqOnly(StateMachine):
    """Compares only the numbers of entries, not their hashes, and never cuts a journal back."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._freshness.__class__ = _FreshBySeq
        self._follower.__class__ = _FollowsBySeq

    def _on_journal(self, event: JournalAt) -> None:
        self._follower.done(event.step, event.place, self._now_ms)
        if self._follower.place is not None:
            self._serve(self._follower.place)


class DatedByArrival(StateMachine):
    """Counts the age from the arrival of an answer, not from the sending of its request."""

    def _on_seen(self, seen: Seen) -> None:
        super()._on_seen(seen)
        self._freshness.named(seen.known.head.place, sent_ms=self._now_ms)


class NoFreshness(StateMachine):
    """Answers at any age."""

    def require_fresh(self, now_ms: int) -> int:
        return 0


class _SameBytes(Epoch):
    def _stamp(self, head: Head, attempt: Callable[[], bytes]) -> dict[str, Any]:
        return {}


class _AcceptsAll(HeadReader):
    def _is_old(self, head: Head, sent_ms: int) -> bool:
        return False


class SameBytes(StateMachine):
    """Adds nothing unique to a head when it swaps, so equal content has equal bytes and an equal ETag."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._reader.__class__ = _AcceptsAll

    def _take_over(self, head: Head) -> None:
        super()._take_over(head)
        if self._epoch is not None:
            self._epoch.__class__ = _SameBytes

    def _on_seen(self, seen: Seen) -> None:
        known = self._reader.known
        if known is not None and seen.known.etag != known.etag and not self._swaps.ours(seen.known.head):
            self._step_down()  # without a new rev and attempt, only the content distinguishes heads
            self._accept(seen.known)
        super()._on_seen(seen)


class AcceptsOldHeads(StateMachine):
    """Accepts a head although it has seen a later one."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._reader.__class__ = _AcceptsAll


class _AcceptsLateAnswers(_AcceptsAll):
    def answered(self, event: ReadAnswered) -> Seen | None:
        sent = self.__dict__.setdefault("sent", {})
        current = self._in_flight
        if current is not None:
            sent[current.read] = current
        self._in_flight = sent.get(event.read)
        try:
            return super().answered(event)
        finally:
            self._in_flight = None if current is None or current.read == event.read else current


class AcceptsLateAnswers(StateMachine):
    """Accepts an answer to a read at any time, even if it has seen a later head."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._reader.__class__ = _AcceptsLateAnswers


class _SkipsOldHeads(HeadReader):
    def _is_old(self, head: Head, sent_ms: int) -> bool:
        try:
            return super()._is_old(head, sent_ms)
        except BrokenHead:
            return True


class SkipsOldHeads(StateMachine):
    """Ignores a head that has gone back, instead of raising an alarm."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._reader.__class__ = _SkipsOldHeads


class ConflictIsSuccess(StateMachine):
    """Treats 412 as the answer to a repetition of its own successful swap."""

    def _on_swap(self, event: SwapAnswered) -> None:
        known = self._reader.known
        if known is not None and isinstance(event.answer, Conflict):
            event = SwapAnswered(event.attempt, Stored(known.etag, None))
        super()._on_swap(event)


class _TwoSteps(Epoch):
    def next_head(self, head: Head, attempt: Callable[[], bytes], now_ms: int) -> Head | None:
        candidate, stored = self.publication is None, self.in_store
        self.in_store = stored or candidate
        changed = super().next_head(head, attempt, now_ms)
        self.in_store = stored
        return changed and msgspec.structs.replace(changed, base=head.base if candidate or not stored else self.path)


class TakesOverInTwoSteps(StateMachine):
    """Becomes primary by one swap, and moves the base to its own path by a second one."""

    def _take_over(self, head: Head) -> None:
        super()._take_over(head)
        if self._epoch is not None:
            self._epoch.__class__ = _TwoSteps


class OnePath(StateMachine):
    """Uses the same path for Litestream in all epochs."""

    def _path(self, epoch: int) -> str:
        return "e0-first"


class Resumes(StateMachine):
    """Continues as primary if the head has its identity. All machines share one identity."""

    def _follow(self) -> None:
        head = self.head
        if head is not None and head.owner == self._owner and self._follower.at(head):
            self._epoch = Epoch(self.settings, head.epoch, head.base, self._owner, self._now_ms)
            self._epoch.publication = Publication(self.settings, head.recent, head.place, self._now_ms)
            self._do(StartReplication(head.base))
        else:
            super()._follow()


class _LeavesAnyTime(Publication):
    def recent(self, now_ms: int) -> tuple[Entry, ...]:
        self._synced_seq = self.named_seq
        return super().recent(now_ms)


class LeavesUnsynced(StateMachine):
    """Removes an entry from ``recent`` although Litestream isn't known to have uploaded it."""

    def _adopt(self, seen: Seen, epoch: Epoch) -> None:
        super()._adopt(seen, epoch)
        if epoch.publication is not None:
            epoch.publication.__class__ = _LeavesAnyTime


class AcceptsStalledSyncs(StateMachine):
    """Counts a sync whose own numbers show that the object store doesn't have everything."""

    def _take(self, event: Any) -> None:
        super()._take(Synced(event.sync, event.txid, event.txid) if isinstance(event, Synced) else event)


class CreditsLaterCommits(StateMachine):
    """Counts a sync also for entries that were committed after its request."""

    def _take(self, event: Any) -> None:
        super()._take(event)
        publication = self._epoch and self._epoch.publication
        if publication and isinstance(event, Synced) and event.txid <= event.replicated_txid:
            publication.synced(publication.end.seq)


class TakesOverUnsynced(StateMachine):
    """Takes over before its own path contains anything."""

    def _take_over(self, head: Head) -> None:
        super()._take_over(head)
        if self._epoch is not None:
            self._epoch.in_store = True


class ForgetsVolume(StateMachine):
    """Doesn't keep the highest rev and the served position on disk."""

    def _remember(self) -> None:
        pass


class ServedTooEarly(StateMachine):
    """Counts a position as served before it is served."""

    def _serve(self, place: Checkpoint) -> None:
        super()._serve(place)
        self._freshness.served(place)


class ServesUnnamed(StateMachine):
    """Serves its committed entries before a head names them."""

    def _on_committed(self, event: Committed) -> None:
        super()._on_committed(event)
        self._serve(Checkpoint(event.entries[-1].seq, event.entries[-1].hash))


class AnswersRepeatsAtOnce(StateMachine):
    """Acknowledges a repeated request as soon as its entry is on the disk."""

    def _on_repeated(self, event: Repeated) -> None:
        self._do(Acknowledge(event.ticket, event.seq))


@dataclass(frozen=True)
class Control:
    """The rule that is switched off, and the assumptions that the world breaks.

    ``stormy``: no schedule is calm, because the harm needs several faults at once.
    """

    machine: type[StateMachine] = StateMachine
    shared_identity: bool = False
    eventual_reads: bool = False
    clocks_stop: bool = False
    recovery_in_two_steps: bool = False
    doubt_is_success: bool = False
    bucket_goes_back: bool = False
    stormy: bool = False


SAFE: Final = Control()

CONTROLS: Final = {
    "no swap at acknowledgement": Control(AcknowledgesAtSync),
    "freshness by seq alone, no cut-back": Control(ComparesSeqOnly),
    "freshness dated by arrival": Control(DatedByArrival, stormy=True),
    "no freshness check": Control(NoFreshness),
    "eventual reads of the store": Control(SkipsOldHeads, eventual_reads=True),
    "a clock that stops": Control(clocks_stop=True),
    "identical head bytes": Control(SameBytes),
    "old heads not ignored": Control(AcceptsOldHeads, bucket_goes_back=True),
    "late answers not dropped": Control(AcceptsLateAnswers),
    "412 taken as success": Control(ConflictIsSuccess),
    "takeover in two steps": Control(TakesOverInTwoSteps, stormy=True),
    "recovery in two steps": Control(recovery_in_two_steps=True),
    "a commit in doubt taken as success": Control(doubt_is_success=True, stormy=True),
    "one path for all epochs": Control(OnePath, stormy=True),
    "a shared identity that resumes": Control(Resumes, shared_identity=True),
    "entries leave recent unsynced": Control(LeavesUnsynced),
    "a stalled sync believed": Control(AcceptsStalledSyncs),
    "a sync credited with later commits": Control(CreditsLaterCommits),
    "takeover without a sync": Control(TakesOverUnsynced),
    "observations not kept on disk": Control(ForgetsVolume, bucket_goes_back=True),
    "freshness before it is served": Control(ServedTooEarly),
    "the primary serves entries that no head names": Control(ServesUnnamed),
    "a repeated request answered at once": Control(AnswersRepeatsAtOnce),
}
