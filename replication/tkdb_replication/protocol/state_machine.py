"""The state machine with all rules of the head. Events in, actions out.

It decides and never acts: it has no I/O and no clock. ``now_ms`` is the machine's own monotonic clock, which must not
stop while the machine is suspended. ``docs/replication.md`` gives the reason for each rule.

>>> from tkdb.journal.seal import SealKey
>>> from tkdb_replication.protocol.events import TimePassed
>>> from tkdb_replication.protocol.head import Checkpoint, encode_head, first_head
>>> from tkdb_replication.bucket.objects import Found
>>> keys = HeadKeys([SealKey(bytes(32))])
>>> machine = StateMachine(ProtocolSettings(machine="m1"), keys, Volume(), owner=b"o" * 16, random=bytes)
>>> machine.on(TimePassed(), 0)
[Read(read=1, etag=None)]
>>> end = Checkpoint(1, b"h" * 32)
>>> head = first_head(
...     journal=b"j" * 16, attempt=b"a" * 16, owner=b"i" * 16, base="e0-00", place=end, epoch=0
... )
>>> found = Found(encode_head(head, keys), etag='"1"', date_ms=None)
>>> [type(action).__name__ for action in machine.on(ReadAnswered(1, found), 20)]
['CutBack']
>>> [type(action).__name__ for action in machine.on(JournalAt(2, end), 30)]
['Remember', 'Serve']
>>> machine.on(Served(end), 35)
[]
>>> machine.age_ms(40)
40
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import StrEnum

from tkdb.errors import BrokenHead, NoPrimary, TkdbError
from tkdb_replication.bucket.objects import Stored
from tkdb_replication.bucket.paths import fresh_base
from tkdb_replication.protocol import actions
from tkdb_replication.protocol.actions import Action
from tkdb_replication.protocol.candidacy import Candidacy
from tkdb_replication.protocol.epoch import WAIT, Epoch, deposed, let_go
from tkdb_replication.protocol.events import (
    Asked,
    CommitFailed,
    Committed,
    Event,
    HandOver,
    JournalAt,
    Promote,
    ReadAnswered,
    Repeated,
    Served,
    SwapAnswered,
    Synced,
    SyncFailed,
    Ticket,
)
from tkdb_replication.protocol.follower import Follower
from tkdb_replication.protocol.freshness import Freshness
from tkdb_replication.protocol.head import NOBODY, Checkpoint, Head, HeadKeys, encode_head
from tkdb_replication.protocol.publication import Publication
from tkdb_replication.protocol.reader import HeadReader, Known, Seen, Volume
from tkdb_replication.protocol.settings import NEVER_MS, ProtocolSettings
from tkdb_replication.protocol.swaps import Swaps


class Role(StrEnum):
    """The role of a machine. A candidate is a replica that is taking over."""

    REPLICA = "replica"
    CANDIDATE = "candidate"
    PRIMARY = "primary"


class StateMachine:
    """One machine. ``on`` takes each event and returns the actions that follow, in order.

    Args:
        settings: its rank and its times.
        keys: the keys that authenticate heads.
        volume: the facts on its disk.
        owner: 16 random bytes, new for each process: a restarted process never resumes.
        random: returns ``n`` random bytes.
    """

    def __init__(
        self,
        settings: ProtocolSettings,
        keys: HeadKeys,
        volume: Volume,
        *,
        owner: bytes,
        random: Callable[[int], bytes],
    ) -> None:
        self.settings = settings
        self.fault: BrokenHead | None = None
        """Why the bucket's head can't be believed; None while it can."""
        self.due_ms = -NEVER_MS
        """When ``TimePassed`` is due at the latest."""
        self._owner = owner
        self._keys = keys
        self._disk_owner = volume.owner
        self._random = random
        self._number = itertools.count(1).__next__
        self._reader = HeadReader(settings, keys, volume)
        self._freshness = Freshness()
        self._serving: Checkpoint | None = None
        self._follower = Follower(settings.poll_ms)
        self._candidacy = Candidacy(settings, owner=owner, former=volume.owner)
        self._swaps = Swaps()
        self._epoch: Epoch | None = None
        self._now_ms = -NEVER_MS
        self._actions: list[Action] = []

    # State that the code answering callers reads.

    @property
    def role(self) -> Role:
        """The role of this machine."""
        if self._epoch is None:
            return Role.REPLICA
        return Role.CANDIDATE if self._epoch.publication is None else Role.PRIMARY

    @property
    def head(self) -> Head | None:
        """The newest head that this machine has seen; None before the first."""
        return self._reader.known and self._reader.known.head

    @property
    def served(self) -> Checkpoint | None:
        """The served point, whose number is this machine's position; None while nothing is served."""
        return self._freshness.place

    @property
    def epoch(self) -> int:
        """The epoch of the entries that this machine commits.

        Raises:
            NoPrimary: it isn't primary.
        """
        return self._leading()[0]

    @property
    def primary(self) -> str | None:
        """The machine that takes writes, or None if none is known."""
        head = self.head
        if head is None or head.owner == NOBODY or self.unchanged_ms > head.lease_ms:
            return None
        leads_no_more = head.owner == self._owner and self.role is not Role.PRIMARY
        return None if leads_no_more else head.machine or None

    @property
    def unchanged_ms(self) -> int:
        """How long the head is known to be unchanged. If that is longer than its lease, the primary is silent."""
        return self._candidacy.lease.unchanged_ms

    def read_ms(self, now_ms: int) -> int:
        """Return the time since the last read or swap was sent that showed the head."""
        return self._candidacy.lease.read_ms(now_ms)

    def age_ms(self, now_ms: int) -> int | None:
        """Return the largest possible age of the served data, or None if it is unknown."""
        return self._freshness.age_ms(now_ms)

    def unsynced_ms(self, now_ms: int) -> int:
        """Return for how long this machine, as primary, has failed to update its backup; 0 for a replica."""
        return 0 if self._epoch is None else self._epoch.unsynced_ms(now_ms)

    def require_fresh(self, now_ms: int) -> int:
        """Return the age of the served data, in milliseconds.

        Raises:
            StaleAuthority: this machine can't prove that the age is within the bound.
        """
        return self._freshness.require(self.settings.bound_ms, now_ms)

    def require_writable(self, entries: int, size_bytes: int, now_ms: int) -> None:
        """Return if this machine may commit a batch of ``entries`` entries, of at most ``size_bytes`` bytes
        together.

        The call changes nothing. To build a batch, call it again for each write that you add. Report the outcome of the
        batch (``Committed`` or ``CommitFailed``) before you begin the next one.

        Raises:
            NoPrimary: it isn't primary, or is being moved.
            Overloaded: ``recent`` has no room for the batch: send fewer writes, or make the batch smaller.
            InvalidRequest: it is a single entry that could never be published.
        """
        _, publication = self._leading()
        publication.require_room(entries, size_bytes, now_ms)

    # Events in, actions out.

    def on(self, event: Event, now_ms: int) -> list[Action]:
        """Handle one event. Return the actions to carry out now, in order."""
        self._now_ms = now_ms
        self._actions = []
        self._take(event)
        self._go_on()
        self.due_ms = self._next_due_ms()
        return self._actions

    def _take(self, event: Event) -> None:
        match event:
            case ReadAnswered():
                self._on_read(event)
            case SwapAnswered():
                self._on_swap(event)
            case JournalAt():
                self._on_journal(event)
            case Served():
                self._on_served(event)
            case Synced() | SyncFailed():
                if self._epoch is not None:
                    self._epoch.synced(event)
            case Committed():
                self._on_committed(event)
            case CommitFailed():
                self._on_commit_failed(event)
            case Repeated():
                self._on_repeated(event)
            case Asked():
                self._reader.asked(self._now_ms)
            case HandOver():
                self._on_hand_over(event)
            case Promote():
                self._on_promote(event)

    def _go_on(self) -> None:
        """Do the tasks that are due because of the time, or because of the event."""
        swap = self._swaps.in_flight
        if swap is not None and self._now_ms >= swap.sent_ms + self.settings.answer_ms:
            self._doubt()
        if self._now_ms >= self._candidacy.due_ms:
            self._fail_promotion()
        if self._epoch is not None:
            self._lead(self._epoch)
        if self._epoch is None:
            self._follow()
        read = self._reader.read(self._number, self._now_ms, urgent=self._urgent())
        if read is not None:
            self._do(read)

    def _urgent(self) -> bool:
        """Return True if something waits for the next read of the head."""
        if self.fault is not None or self._swaps.doubt or self._candidacy.promotion is not None:
            return True
        head = self.head
        if self._epoch is not None or head is None:
            return False
        return not self._follower.at(head) or self._candidacy.is_near(head)

    # Reads of the head.

    def _on_read(self, event: ReadAnswered) -> None:
        try:
            seen = self._reader.answered(event)
        except BrokenHead as error:
            self._refuse(error)
            return
        if seen is not None:
            self.fault = None
            self._on_seen(seen)

    def _refuse(self, error: BrokenHead) -> None:
        if self.fault is None or self.fault.message != error.message:
            self._do(actions.Alarm(error))
        self.fault = error
        self._step_down()

    def _on_seen(self, seen: Seen) -> None:
        head, known = seen.known.head, self._reader.known
        if known is not None and head.attempt == known.head.attempt:
            self._swaps.doubt = False
        elif self._epoch is not None and self._swaps.ours(head):
            self._adopt(seen, self._epoch)
        else:
            self._step_down()
            self._swaps.forget()
            self._accept(seen.known)
        # Whether this machine read the head or swapped it in: it was the newest head when the request was sent.
        self._candidacy.lease.saw(head.attempt, sent_ms=seen.sent_ms, now_ms=self._now_ms)
        self._freshness.named(head.place, sent_ms=seen.sent_ms)

    def _accept(self, known: Known) -> None:
        self._candidacy.accept(known.head)
        self._reader.accept(known, self._now_ms)
        if known.head.place == self._serving:
            self._remember()

    def _remember(self) -> None:
        self._do(actions.Remember(self._reader.rev, self._reader.place, self._disk_owner))

    # A replica follows, and may take over.

    def _follow(self) -> None:
        head = self.head
        if head is None or self.fault is not None:
            return
        step = self._follower.step(self._number, head, self._reader.place, self._now_ms)
        if step is not None:
            self._do(step)
        if not self._swaps.settled:
            return
        if self._follower.at(head) and self._candidacy.may_take_over(head):
            self._take_over(head)
        elif head.owner == self._owner:
            self._send(let_go(head, self._random(16)))  # this process leads no longer

    def _on_journal(self, event: JournalAt) -> None:
        self._follower.done(event.step, event.place, self._now_ms)
        head, place = self.head, self._follower.place
        if head is not None and place is not None and head.after(place) is not None:
            self._serve(place)

    def _serve(self, place: Checkpoint) -> None:
        if place != self._serving:
            self._serving = place
            if place.seq < self._reader.place.seq:
                # A damaged journal was restored to a point before the last served one. It must be served again before
                # it counts.
                self._freshness.lose()
            else:
                self._reader.place = place
            self._remember()
            self._do(actions.Serve(place))

    def _on_served(self, event: Served) -> None:
        if self._serving is not None:
            self._freshness.served(event.place)

    def _serve_nothing(self) -> None:
        """Serve nothing: the journal may contain entries that no head names. It is cut back, and nothing is fresh
        before that."""
        self._serving = None
        self._freshness.lose()
        self._follower.doubt()

    def _take_over(self, head: Head) -> None:
        number = head.epoch + 1
        self._swaps.forget()  # A swap that released an earlier epoch may still succeed, and isn't one of this epoch.
        self._disk_owner = self._owner
        self._remember()
        self._epoch = Epoch(self.settings, number, self._path(number), self._owner, self._now_ms)
        self._do(actions.StartReplication(self._epoch.path))
        self._lead(self._epoch)

    def _path(self, epoch: int) -> str:
        return fresh_base(epoch, random_bytes=self._random)

    # A candidate and a primary lead an epoch.

    def _lead(self, epoch: Epoch) -> None:
        known = self._reader.known
        if known is None or self._now_ms >= epoch.give_up_at_ms:
            epoch.gives_way = True
            self._step_down()
            return
        if epoch.move is not None and self._now_ms >= epoch.move.until_ms:
            if epoch.gives_way or self._candidacy.leaving:
                self._step_down()
                return
            self._actions += epoch.give_up_move(epoch.move)
        self._swap(known, epoch)
        sync = epoch.sync(known.head, self._number, self._now_ms)
        if sync is not None:
            self._do(sync)

    def _swap(self, known: Known, epoch: Epoch) -> None:
        if not self._swaps.settled:
            return
        head = epoch.next_head(known.head, lambda: self._random(16), self._now_ms)
        if head is not None:
            self._send(head)

    def _send(self, head: Head) -> None:
        if self._reader.known is not None:
            self._swaps.sent(head, self._now_ms)
            self._do(actions.Swap(head.attempt, encode_head(head, self._keys), self._reader.known.etag))

    def _on_swap(self, event: SwapAnswered) -> None:
        swap = self._swaps.answered(event.attempt)
        if swap is None:
            return
        if isinstance(event.answer, Stored):
            self._on_seen(Seen(Known(swap.head, event.answer.etag), swap.sent_ms))
        else:
            self._doubt()

    def _doubt(self) -> None:
        self._swaps.lost()
        if self._swaps.tried == 1:
            self._reader.hurry()  # A store that keeps refusing is asked at the pace of polling.

    def _adopt(self, seen: Seen, epoch: Epoch) -> None:
        """Adopt a head that one of this machine's own swaps put."""
        head = seen.known.head
        self._swaps.forget()
        self._accept(seen.known)
        self._serve(head.place)
        self._actions += epoch.landed(head, self._now_ms)
        if self._candidacy.promotion is not None:
            self._do(actions.Acknowledge(self._candidacy.promoted(), head.seq))
        if head.owner == NOBODY:
            self._step_down()

    def _step_down(self) -> None:
        """Stop leading. Committed entries that no head names are cut back, unless a late swap still names them."""
        epoch = self._epoch
        if epoch is None:
            return
        self._epoch = None
        self._swaps.forget()
        self._candidacy.step_down(gives_way=epoch.gives_way)
        self._do(actions.StopReplication())
        self._fail_promotion()
        if epoch.publication is not None:
            self._serve_nothing()
        self._actions += epoch.ended()

    # Callers write, and operators move the primary.

    def _on_committed(self, event: Committed) -> None:
        if self._epoch is not None and self._epoch.publication is not None:
            self._epoch.publication.add(event.entries, event.ticket, self._now_ms)
            return
        # The machine was primary when the commit began. The entries are on the disk, and no head will name them.
        self._serve_nothing()
        self._do(deposed(event.ticket))

    def _on_commit_failed(self, event: CommitFailed) -> None:
        epoch = self._epoch
        if epoch is not None and epoch.publication is not None:
            epoch.commit_failed(event, epoch.publication, self._now_ms)
        elif event.doubtful:
            self._serve_nothing()

    def _on_repeated(self, event: Repeated) -> None:
        publication = None if self._epoch is None else self._epoch.publication
        served = self._freshness.place
        if publication is not None and event.seq > publication.named_seq:
            publication.wait(event.seq, event.ticket)
        elif publication is not None or (served is not None and event.seq <= served.seq):
            self._do(actions.Acknowledge(event.ticket, event.seq))
        else:
            self._do(deposed(event.ticket))

    def _on_hand_over(self, event: HandOver) -> None:
        epoch, leaving = self._epoch, not event.machine
        if leaving:
            self._candidacy.leave()
        if epoch is not None and epoch.publication is not None:
            self._actions += epoch.hand_over(event, epoch.publication, self._now_ms)
        elif leaving:
            self._step_down()
            self._fail_promotion()
            self._do(actions.Acknowledge(event.ticket, self._reader.place.seq))
        else:
            self._fail(event.ticket, NoPrimary("this machine isn't primary", hint=WAIT))

    def _on_promote(self, event: Promote) -> None:
        head = self.head
        if self.role is Role.PRIMARY and head is not None and not self._candidacy.leaving:
            self._do(actions.Acknowledge(event.ticket, head.seq))
            return
        try:
            self._candidacy.promote(event.ticket, self._now_ms)
        except NoPrimary as error:
            self._fail(event.ticket, error)
        else:
            self._reader.hurry()

    def _fail_promotion(self) -> None:
        if self._candidacy.promotion is not None:
            self._fail(self._candidacy.promoted(), NoPrimary("this machine could not take over in time", hint=WAIT))

    # Helpers.

    def _leading(self) -> tuple[int, Publication]:
        epoch = self._epoch
        if epoch is None or epoch.publication is None:
            raise NoPrimary("this machine isn't primary", hint=WAIT)
        if epoch.move is not None:
            raise NoPrimary("the primary is being moved", hint=WAIT)
        return epoch.number, epoch.publication

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _fail(self, ticket: Ticket, error: TkdbError) -> None:
        self._do(actions.Fail(ticket, error))

    def _next_due_ms(self) -> int:
        head, epoch, swap = self.head, self._epoch, self._swaps.in_flight
        due_ms = min(self._reader.due_ms(urgent=self._urgent()), self._candidacy.due_ms)
        if swap is not None:
            due_ms = min(due_ms, swap.sent_ms + self.settings.answer_ms)
        if epoch is None:
            retry_ms = self._follower.due_ms(head) if head is not None and self.fault is None else NEVER_MS
            return min(due_ms, retry_ms)
        return min(due_ms, epoch.due_ms(swaps=self._swaps.settled))
