"""A host: one machine's process, disk, clock and Litestream, around the production state machine.

It carries out the machine's actions. Its process can stop between any two of them, for a while or for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import msgspec

from tests.replication.protocol.simulation.controls import SAFE
from tests.replication.protocol.simulation.journal import EMPTY, RECOVER, Node, carry_out
from tkdb.errors import BrokenJournal, StaleAuthority, TkdbError
from tkdb.journal.entry import Entry
from tkdb_replication.bucket.objects import Stored
from tkdb_replication.protocol import actions, events
from tkdb_replication.protocol.actions import Action
from tkdb_replication.protocol.events import Event
from tkdb_replication.protocol.head import Checkpoint
from tkdb_replication.protocol.reader import Volume
from tkdb_replication.protocol.state_machine import Role, StateMachine

if TYPE_CHECKING:
    from tests.replication.protocol.simulation.world import World

Todo = Callable[[], None]
Back = Callable[[Event, int], None]


def _cut_back(journal: Node, places: tuple[Checkpoint, ...]) -> Node | None:
    """Return the node of the last of ``places`` that is on ``journal``, or None if none is."""
    return next((journal.path[place.seq] for place in reversed(places) if journal.names(place)), None)


class Litestream:
    """The child process that replicates a host's journal into ``path``."""

    def __init__(self, path: str, first_txid: int) -> None:
        self.path = path
        self.txid = first_txid


class Host:
    """One host. ``life`` counts its processes, and work for an earlier process is dropped."""

    def __init__(self, world: World, number: int, volume: Volume, journal: Node) -> None:
        self.world = world
        self.number = number
        self.volume = volume
        self.journal = journal
        self.shown = EMPTY
        self.life = 0
        self.up = False
        self.paused_until_ms = -1
        self.stopped_ms = 0
        self._disk_fails_until_ms = -1
        self._disk_leaves_doubt = self._volume_fails = False
        self.rate = 1.0 + (world.random() - 0.5) * 2 * world.drift
        self.offset_ms = int(world.random() * 10_000)
        self.start()

    # The process.

    def start(self) -> None:
        self.life += 1
        self.up = True
        self.process = object()
        self.served: Node = EMPTY
        self._end = self.journal  # as the writer knows it; after a commit in doubt the disk may contain more
        self.litestream: Litestream | None = None
        self._inbox: deque[Todo] = deque()
        self._events: deque[Event] = deque()
        self._todo: deque[Action] = deque()
        self._driving = False
        self._busy_until_ms = -1
        self._disk: deque[Callable[[Todo], None]] = deque()
        self._disk_busy = False
        self._serving_until_ms = 0
        self._wake_at_ms: float = float("inf")
        world = self.world
        owner = bytes(15) + b"s" if world.control.shared_identity else world.bytes(16)
        self.machine: StateMachine = world.control.machine(
            world.settings(self.number), world.keys, self.volume, owner=owner, random=world.bytes
        )
        world.note(f"m{self.number} starts, journal {self.journal}, rev {self.volume.rev}")
        self.on(events.TimePassed())

    def crash(self, *, disk_lost: bool) -> None:
        self.world.note(f"m{self.number} crashes{', its disk is lost' if disk_lost else ''}")
        self.world.crashes += 1
        self.up = False
        self.life += 1
        self.litestream = None
        if disk_lost and not self.world.rolls_back:
            self.shown = EMPTY
            self.volume, self.journal = Volume(), EMPTY
        self.world.at(self.world.now_ms + self.world.spread(80), self.revive)

    def shut_down(self) -> None:
        """Shut the machine down as an operator does."""
        self.on(events.HandOver((), ""))
        self.soon(self.world.spread(60), lambda: self.crash(disk_lost=False))

    def revive(self) -> None:
        if not self.up:
            self.start()

    def pause(self, ms: int) -> None:
        world = self.world
        world.note(f"m{self.number} stops for {ms} ms")
        if world.clocks_stop:
            self.stopped_ms += max(0, world.now_ms + ms - max(self.paused_until_ms, world.now_ms))
        self.paused_until_ms = max(self.paused_until_ms, world.now_ms + ms)
        world.at(self.paused_until_ms, self._resume)

    def _resume(self) -> None:
        if self.up:
            self._drive()
        while self._inbox and self.up and self.world.now_ms >= self.paused_until_ms:
            self._inbox.popleft()()

    def clock_ms(self) -> int:
        return self.offset_ms + int((self.world.now_ms - self.stopped_ms) * self.rate)

    def soon(self, delay_ms: int, todo: Todo) -> None:
        """Run ``todo`` in this process later, or never if the process ends first."""
        life = self.life

        def arrive() -> None:
            if self.up and self.life == life:
                self._inbox.append(todo)
                self._resume()

        self.world.at(self.world.now_ms + delay_ms, arrive)

    # Events in, actions out.

    def on(self, event: Event) -> None:
        """Pass an event to the driver, which handles one event at a time."""
        self._events.append(event)
        self._drive()

    def _drive(self) -> None:
        if self._driving:
            return
        world, life = self.world, self.life
        self._driving = True
        while self.life == life and world.now_ms >= max(self.paused_until_ms, self._busy_until_ms):
            if self._todo:
                self._begin()
            elif self._events:
                self._take(self._events.popleft())
            else:
                break
        if self.life == life:
            self._driving = False
            self._wake()

    def _take(self, event: Event) -> None:
        world = self.world
        world.steps += 1
        try:
            todo = self.machine.on(event, self.clock_ms())
        except BrokenJournal:
            if world.control is SAFE:
                raise
            self.crash(disk_lost=False)  # without a rule, a machine can reach an impossible state
            return
        if world.control is SAFE:
            assert self.machine.due_ms > self.clock_ms(), "the machine would be woken again and again"
        if world.is_logged and (todo or not isinstance(event, events.TimePassed)):
            world.note(f"m{self.number} {self.machine.role} {event} -> {todo}")
        self._todo.extend(todo)

    def _begin(self) -> None:
        """Begin the next action. The driver waits for some of them, while the writer and the steps continue."""
        world = self.world
        if world.fault_occurs():
            if world.random() < 0.5:
                self.crash(disk_lost=world.random() < 0.4)
            else:
                self.pause(world.long_ms())
            return
        if isinstance(self._todo[0], actions.Remember) and self._volume_fails and self._disk_fails():
            self._wait_ms(10)  # before it tries again
            return
        action = self._todo.popleft()
        _HANDLERS[type(action)](self, action)
        if isinstance(action, _WAITED_FOR) and world.random() < 0.2:
            self._wait_ms(world.disk_ms())

    def _wait_ms(self, ms: int) -> None:
        self._busy_until_ms = self.world.now_ms + ms
        self.soon(ms, self._drive)

    def _wake(self) -> None:
        wait_ms = max(1, int((self.machine.due_ms - self.clock_ms()) / self.rate) + 1)
        at_ms = self.world.now_ms + wait_ms
        if at_ms < self._wake_at_ms:
            self._wake_at_ms = at_ms
            self.soon(wait_ms, self._woken)

    def _woken(self) -> None:
        if self._wake_at_ms > self.world.now_ms:
            return  # an earlier wake-up was scheduled, and has run
        self._wake_at_ms = float("inf")
        if self.clock_ms() >= self.machine.due_ms:
            self.on(events.TimePassed())
        else:
            self._wake()

    # The head.

    def _read(self, action: actions.Read) -> None:
        world = self.world

        def at_store() -> None:
            answer = world.bucket.get(action.etag, world.staleness_ms(), world.now_ms)
            world.answer(events.ReadAnswered(action.read, answer), back)

        back = self._answer_handler()
        world.send(at_store)

    def _swap(self, action: actions.Swap) -> None:
        world, process = self.world, self.process

        def at_store() -> None:
            old = world.bucket.node
            answer = world.bucket.swap(action.body, action.etag, world.now_ms)
            if isinstance(answer, Stored):
                world.note(f"the head is rev {world.bucket.head.rev} of m{self.number} at {world.bucket.node}")
                world.checker.check_swap(old, world.bucket.node, world.bucket.head, process)
            world.answer(events.SwapAnswered(action.attempt, answer), back)

        back = self._answer_handler()
        world.send(at_store)
        if world.random() < world.duplicates:
            world.at(world.now_ms + world.long_ms(), at_store)

    def _answer_handler(self) -> Back:
        life = self.life

        def back(event: Event, delay_ms: int) -> None:
            if self.life == life:
                self.soon(delay_ms, lambda: self.on(event))

        return back

    # The disk. It does one thing at a time, in order, as the writers' turn and the driver ensure.

    def fail_disk(self, ms: int) -> None:
        self.world.note(f"the disk of m{self.number} fails for {ms} ms")
        self._disk_fails_until_ms = self.world.now_ms + ms
        self._disk_leaves_doubt = self.world.random() < 0.5
        self._volume_fails = self.world.random() < 0.3

    def _disk_fails(self) -> bool:
        return self.world.bad_disks > 0 and self.world.now_ms < self._disk_fails_until_ms

    def _remember(self, action: actions.Remember) -> None:
        self.volume = msgspec.structs.replace(self.volume, rev=action.rev, place=action.place, owner=action.owner)

    def _step(self, action: actions.CutBack | actions.Apply | actions.RestoreBackup) -> None:
        self._queue(lambda on_end: self._begin_step(action, on_end))

    def _queue(self, work: Callable[[Todo], None]) -> None:
        self._disk.append(work)
        if not self._disk_busy:
            self._next_work()

    def _next_work(self) -> None:
        self._disk_busy = bool(self._disk)
        if self._disk_busy:
            self._disk.popleft()(self._next_work)

    def _begin_step(self, action: actions.CutBack | actions.Apply | actions.RestoreBackup, on_end: Todo) -> None:
        def end() -> None:
            before = self.journal
            place = self._do_step(action)
            if self.journal is not before and self._disk_fails():
                place = None
                self.journal = self.journal if self._fails_after_writing() else before
            self._end = self._end if place is None else self.journal
            if self.world.fault_occurs():
                self.crash(disk_lost=False)
                return
            on_end()
            self.on(events.JournalAt(action.step, place))

        self.soon(self.world.restore_ms() if isinstance(action, actions.RestoreBackup) else self.world.disk_ms(), end)

    def _do_step(self, action: actions.CutBack | actions.Apply | actions.RestoreBackup) -> Checkpoint | None:
        match action:
            case actions.Apply():
                return self._append(action.entries)
            case actions.CutBack():
                self.journal = _cut_back(self.journal, action.places) or self.journal
            case actions.RestoreBackup():
                self.world.restores += 1
                latest = self.world.bucket.latest(action.base)
                restored = latest and _cut_back(latest, action.places)
                if restored is None or not (restored.names(action.through) or action.through.seq > restored.seq):
                    return None
                self.journal = restored
        self.volume = msgspec.structs.replace(self.volume, journal=b"j" * 16)
        return self.journal.place

    def _fails_after_writing(self) -> bool:
        return self._disk_leaves_doubt and self.world.random() < 0.5

    def _append(self, entries: tuple[Entry, ...]) -> Checkpoint | None:
        for entry in entries:
            if entry.previous != self.journal.hash:
                return None
            self.journal = self.world.nodes[entry.hash]
        return self.journal.place

    def _serve(self, action: actions.Serve) -> None:
        """Refold, which may take long, and then show the result. Refolds run one after the other."""
        wait_ms = max(0, self._serving_until_ms - self.world.now_ms) + self.world.refold_ms()
        self._serving_until_ms = self.world.now_ms + wait_ms
        self.soon(wait_ms, lambda: self._show(action.place))

    def _show(self, place: Checkpoint) -> None:
        self.served = self.world.nodes[place.hash]
        self.world.checker.check_served(self.served, self.shown)
        self.shown = self.served
        self.on(events.Served(place))

    # Writes.

    def write(self, requests: dict[int, bytes]) -> None:
        """Take requests from callers. They may share a batch."""
        self._queue(lambda on_end: self._begin_commit(requests, on_end))

    def _begin_commit(self, requests: dict[int, bytes], on_end: Todo) -> None:
        life, batch, repeated = self.life, list[Node](), list[Node]()
        for request, kind in requests.items():
            found = self.journal.find(request)
            if found is not None:
                repeated.append(found)
            elif not self._decide(request, kind, batch):
                break
        for node in repeated:
            if self.life == life:
                self.on(events.Repeated(((node.request, node.seq),), node.seq))
        if self.life == life and batch:
            self.soon(self.world.disk_ms(), lambda: self._commit(batch, on_end))
        elif self.life == life:
            on_end()

    def _decide(self, request: int, kind: bytes, batch: list[Node]) -> bool:
        """Add a request to the batch. Return False if it has no room."""
        size = len(batch) + (2 if kind == RECOVER else 1)
        try:
            self.machine.require_writable(size, 500 * size, self.clock_ms())
        except TkdbError:
            return False
        parent = batch[-1] if batch else self._end
        back_to = self._end.path[self.world.pick(self._end.seq) + 1]
        batch += carry_out(request, kind, parent, back_to, now_ms=self.world.now_ms, epoch=self.machine.epoch)
        return True

    def _commit(self, batch: list[Node], on_end: Todo) -> None:
        world, life, fails = self.world, self.life, self._disk_fails()
        follows = batch[0].path[-2] is self.journal  # if not, the database has another entry of that number
        world.nodes.update((node.hash, node) for node in batch)
        if follows and (not fails or self._fails_after_writing()):
            self.journal = batch[-1]
        if world.fault_occurs():
            self.crash(disk_lost=False)
            return
        doubtful = follows and self._disk_leaves_doubt
        if not follows or (fails and not (doubtful and world.control.doubt_is_success)):
            self.on(events.CommitFailed(doubtful))
        else:
            self._end = batch[-1]
            for part in [[node] for node in batch] if world.control.recovery_in_two_steps else [batch]:
                if self.life == life:
                    self._report_commit(part)
        if self.life == life:
            on_end()

    def _report_commit(self, batch: list[Node]) -> None:
        self.world.checker.record_batch(batch)
        ticket = tuple((node.request, node.seq) for node in batch if node.request is not None)
        self.on(events.Committed(ticket, tuple(node.entry for node in batch if node.entry)))

    def _acknowledge(self, action: actions.Acknowledge) -> None:
        """Acknowledge the requests of ``ticket``, which pairs each with the number of its entry."""
        for request, seq in cast("tuple[tuple[int, int], ...]", action.ticket):
            self.world.acknowledged(self, request, seq)

    def _fail(self, _: actions.Fail) -> None:
        """Do nothing. The caller may repeat the request."""

    # Litestream. It continues to run while its host's process is paused.

    def _start_replication(self, action: actions.StartReplication) -> None:
        self.litestream = Litestream(action.path, max(self.world.bucket.paths[action.path], default=0))

    def _stop_replication(self, _: actions.StopReplication) -> None:
        self.litestream = None

    def _sync(self, action: actions.Sync) -> None:
        litestream, back = self.litestream, self._answer_handler()
        self.world.at(self.world.now_ms + self.world.disk_ms(), lambda: self.capture(litestream, action.sync, back))

    def capture(self, litestream: Litestream | None, sync: int | None = None, back: Back | None = None) -> None:
        """Let Litestream upload the present journal. For a ``sync``, it answers after the upload."""
        world = self.world
        if litestream is None or litestream is not self.litestream:
            return
        litestream.txid += 1
        txid, captured = litestream.txid, self.journal
        if sync is not None and back is not None and world.random() < world.stalls:
            world.answer(events.Synced(sync, txid, txid - 1), back)
            sync = None

        def upload() -> None:
            # Unconditional: the store doesn't check that the sender is alive, or is still primary.
            world.bucket.paths[litestream.path][txid] = captured
            if litestream.path == world.bucket.head.base:
                world.checker.check_base(world.bucket.head)
            if sync is not None and back is not None:
                world.answer(events.Synced(sync, txid, txid), back)

        world.send(upload)

    def _alarm(self, action: actions.Alarm) -> None:
        self.world.alarm(self, action.error)

    # Readers.

    def read(self, sent_ms: int, position: int, target: int | None) -> None:
        """Answer a reader. ``target`` is its own revocation, whose position it sends."""
        if self.machine.role is not Role.PRIMARY or self.world.random() < 0.2:
            self.on(events.Asked())
        if not self.up or self.world.now_ms < self.paused_until_ms:
            return
        try:
            age_ms = self.machine.require_fresh(self.clock_ms())
        except StaleAuthority:
            return
        served, place = self.served, self.machine.served
        if target is not None and place is not None and place.seq >= position:
            self.world.checker.check_own_revocation(served, target)
        self.world.reply(served, age_ms, sent_ms)


_WAITED_FOR: Final = (actions.Remember, actions.StartReplication, actions.StopReplication)

_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    actions.Read: Host._read,
    actions.Swap: Host._swap,
    actions.Remember: Host._remember,
    actions.CutBack: Host._step,
    actions.Apply: Host._step,
    actions.RestoreBackup: Host._step,
    actions.Serve: Host._serve,
    actions.StartReplication: Host._start_replication,
    actions.StopReplication: Host._stop_replication,
    actions.Sync: Host._sync,
    actions.Acknowledge: Host._acknowledge,
    actions.Fail: Host._fail,
    actions.Alarm: Host._alarm,
}
