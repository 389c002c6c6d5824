"""The driver: it gives the state machine its events, and carries out its actions. It has no rules of its own.

One task passes events to the state machine and begins its actions, in order. An action that takes time continues in the
background, and its outcome comes back as an event. A second task does the steps on the journal, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from tkdb import errors, logs
from tkdb.authority.clock import Clock
from tkdb.journal.entry import Entry
from tkdb_replication.bucket.objects import Objects, Unknown
from tkdb_replication.bucket.paths import HEAD_KEY
from tkdb_replication.node.incident import Incident
from tkdb_replication.node.journal_steps import Steps
from tkdb_replication.node.replicator import Replicator
from tkdb_replication.node.volume_file import VolumeFile
from tkdb_replication.protocol import actions, events
from tkdb_replication.protocol.actions import Action
from tkdb_replication.protocol.events import Event
from tkdb_replication.protocol.head import Checkpoint
from tkdb_replication.protocol.reader import Volume
from tkdb_replication.protocol.state_machine import StateMachine

ASKED_EVERY_MS: Final = 1_000
"""The shortest pause between two ``Asked`` events. The state machine remembers an event for longer than this."""
REMEMBER_AGAIN_S: Final = 0.25

_Step = actions.CutBack | actions.Apply | actions.RestoreBackup


class Driver:
    """Runs one state machine. It is also the authority's publisher.

    Args:
        machine: the rules.
        objects: the bucket.
        steps: change the journal, and show it.
        replicator: starts and stops Litestream.
        volume: the file with the facts that the machine must keep.
        clock: the machine's clocks.
    """

    def __init__(
        self,
        machine: StateMachine,
        objects: Objects,
        steps: Steps,
        replicator: Replicator,
        volume: VolumeFile,
        clock: Clock,
    ) -> None:
        self.machine = machine
        self.shown: Checkpoint | None = None
        """The last place that was shown because a head names it; None before the first."""
        self._objects = objects
        self._steps = steps
        self._replicator = replicator
        self._volume = volume
        self._clock = clock
        self._events: deque[Event] = deque()
        self._told = asyncio.Event()
        self._work: asyncio.Queue[_Step | actions.Serve | actions.Acknowledge] = asyncio.Queue()
        self._news = asyncio.Event()
        self._asked_ms = -ASKED_EVERY_MS
        self._tickets: set[asyncio.Future[None]] = set()
        self._leaving = False
        self._unread = Incident("head unread", "head read again", monotonic_ms=clock.monotonic_ms)
        self._unwritten = Incident("head unwritten", "head written again", monotonic_ms=clock.monotonic_ms)
        self._unsynced = Incident("not synced", "synced again", monotonic_ms=clock.monotonic_ms)
        self._not_done = ""
        self._beside: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start both tasks."""
        self._tasks = [
            asyncio.create_task(self._drive(), name="driver"),
            asyncio.create_task(self._do_steps(), name="steps"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._abandon)

    async def ended(self) -> None:
        """Return when the driver was stopped.

        Raises:
            TkdbError: it can't continue. A restart may help.
            Exception: a bug in tkdb.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with suppress(asyncio.CancelledError):
                task.result()

    async def stop(self) -> None:
        """Stop both tasks."""
        for task in (*self._tasks, *self._beside):
            task.cancel()
        await asyncio.wait([*self._tasks, *self._beside])
        await self._replicator.stop()

    # Requests of callers, operators and the writer.

    @property
    def trouble(self) -> str:
        """The reason why this machine can't follow the head, if one is known; otherwise empty."""
        return "; ".join(filter(None, (self._unread.why, self._not_done)))

    def asked(self) -> None:
        """Record that a caller sent a request that needs fresh data."""
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._asked_ms >= ASKED_EVERY_MS:
            self._asked_ms = now_ms
            self._tell(events.Asked())

    async def wait_news(self, timeout_ms: int) -> None:
        """Return when the machine may know or show something new, or after ``timeout_ms``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._news.wait()

    def leave(self) -> Awaitable[None]:
        """Stop leading for good: this machine is shutting down. Ends when another machine may lead."""
        self._leaving = True
        return self._told_with(lambda ticket: events.HandOver(ticket, ""))

    def hand_over(self, machine: str) -> Awaitable[None]:
        """Move the primary from here to ``machine``.

        Raises:
            NoPrimary: (awaited) this machine isn't primary, or is already being moved.
            OutcomeUnknown: (awaited) the outcome of the move is unknown.
        """
        return self._told_with(lambda ticket: events.HandOver(ticket, machine))

    def take_over(self) -> Awaitable[None]:
        """Make this machine primary now.

        Raises:
            NoPrimary: (awaited) it could not take over in time.
        """
        return self._told_with(events.Promote)

    # The authority's publisher.

    def epoch(self) -> int:
        """As ``Publisher``."""
        if self._has_ended:
            raise errors.NoPrimary("this machine has stopped", hint="ask another")
        return self.machine.epoch

    def require_room(self, entries: int, size_bytes: int) -> None:
        """As ``Publisher``."""
        self.machine.require_writable(entries, size_bytes, self._clock.monotonic_ms())

    def committed(self, entries: Sequence[Entry]) -> Awaitable[None]:
        """As ``Publisher``."""
        return self._told_with(lambda ticket: events.Committed(ticket, tuple(entries)))

    def repeated(self, seq: int) -> Awaitable[None]:
        """As ``Publisher``."""
        return self._told_with(lambda ticket: events.Repeated(ticket, seq))

    def commit_failed(self, *, doubtful: bool) -> None:
        """As ``Publisher``."""
        self._tell(events.CommitFailed(doubtful))

    # Events in, actions out.

    def _told_with(self, event: Callable[[asyncio.Future[None]], Event]) -> asyncio.Future[None]:
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tickets.add(ticket)
        ticket.add_done_callback(self._tickets.discard)
        self._tell(event(ticket))
        if self._has_ended:
            _fail(ticket, _stopped())
        return ticket

    @property
    def _has_ended(self) -> bool:
        return any(task.done() for task in self._tasks)

    def _abandon(self, _: asyncio.Task[None]) -> None:
        """Fail all waiting callers: events or steps have ended, so no other code would answer them."""
        for ticket in list(self._tickets):
            _fail(ticket, _stopped())

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._told.set()

    async def _drive(self) -> None:
        while True:
            if not self._events:
                wait_ms = self.machine.due_ms - self._clock.monotonic_ms()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(wait_ms, 0) / 1000):
                        await self._told.wait()
                self._told.clear()
            event = self._events.popleft() if self._events else events.TimePassed()
            for action in self.machine.on(event, self._clock.monotonic_ms()):
                await self._begin(action)
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def _begin(self, action: Action) -> None:
        match action:
            case actions.Read():
                self._go(self._read(action))
            case actions.Swap():
                self._go(self._swap(action))
            case actions.Sync():
                self._go(self._sync(action))
            case actions.Remember():
                await self._remember(action)
            case actions.StartReplication(path):
                await self._replicator.start(path)
            case actions.StopReplication():
                await self._replicator.stop()
            case actions.Fail(asyncio.Future() as ticket, error):
                _fail(ticket, error)
            case actions.Alarm(error):
                logs.event(logging.ERROR, "head refused", why=str(error))
            case (
                actions.CutBack() | actions.Apply() | actions.RestoreBackup() | actions.Serve() | actions.Acknowledge()
            ):
                self._work.put_nowait(action)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._ended_beside)

    def _ended_beside(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logs.failure("unforeseen", error)

    async def _read(self, action: actions.Read) -> None:
        timeout_ms = self.machine.settings.answer_ms
        answer = await self._objects.get(HEAD_KEY, if_none_match=action.etag, timeout_ms=timeout_ms)
        if isinstance(answer, Unknown):
            self._unread.seen(answer.message)
        else:
            self._unread.over()
            if answer.date_ms is not None:
                # The header has whole seconds, and the answer may have been delayed while the machine waited for it.
                self._clock.heard_ms(answer.date_ms, within_ms=timeout_ms + 1_000)
        self._tell(events.ReadAnswered(action.read, answer))

    async def _swap(self, action: actions.Swap) -> None:
        timeout_ms = self.machine.settings.answer_ms
        answer = await self._objects.put(HEAD_KEY, action.body, if_match=action.etag, timeout_ms=timeout_ms)
        if isinstance(answer, Unknown):
            self._unwritten.seen(answer.message)
        else:
            self._unwritten.over()
        self._tell(events.SwapAnswered(action.attempt, answer))

    async def _sync(self, action: actions.Sync) -> None:
        try:
            synced = await self._replicator.sync(timeout_ms=self.machine.settings.sync_ms)
        except errors.TkdbError as error:
            self._unsynced.seen(error.message)
            self._tell(events.SyncFailed(action.sync))
        else:
            self._unsynced.over()
            self._tell(events.Synced(action.sync, synced.txid, synced.replicated_txid))

    async def _remember(self, action: actions.Remember) -> None:
        """Write to the disk, and continue only then. If it takes long, this machine becomes stale, and another
        takes over.

        Raises:
            StoreUnwritable: the file can't be written, and this machine is shutting down.
        """
        head = self.machine.head
        journal = None if head is None else head.journal
        volume = Volume(journal=journal, rev=action.rev, place=action.place, owner=action.owner)
        said = False
        while True:
            try:
                return await asyncio.to_thread(self._volume.write, volume)
            except errors.StoreUnwritable as error:
                if self._leaving:
                    raise
                if not said:
                    logs.event(logging.ERROR, "volume unwritable", why=error.message)
                said = True
                await asyncio.sleep(REMEMBER_AGAIN_S)

    # The steps on the journal.

    async def _do_steps(self) -> None:
        while True:
            match await self._work.get():
                case actions.Serve(place):
                    await self._steps.serve(place)
                    self.shown, self._not_done = place, ""
                    self._tell(events.Served(place))
                case actions.Acknowledge(ticket):
                    if isinstance(ticket, asyncio.Future) and not ticket.done():
                        ticket.set_result(None)
                case step:
                    self._tell(events.JournalAt(step.step, await self._step(step)))

    async def _step(self, step: _Step) -> Checkpoint | None:
        try:
            match step:
                case actions.CutBack(_, places):
                    return await self._steps.cut_back(places)
                case actions.Apply(_, entries):
                    return await self._steps.apply(entries)
                case actions.RestoreBackup(_, base, places, through):
                    place = await self._steps.restore(base, places, through)
                    logs.event(logging.INFO, "restored", base=base, position=place.seq)
                    return place
        except errors.TkdbError as error:
            self._not_done = error.message
            logs.event(logging.WARNING, "step failed", step=type(step).__name__, why=error.message)
            return None


def _fail(ticket: asyncio.Future[None], error: errors.TkdbError) -> None:
    if not ticket.done():
        ticket.set_exception(error)
        ticket.exception()  # the caller may have gone


def _stopped() -> errors.OutcomeUnknown:
    return errors.OutcomeUnknown("this machine has stopped", hint="repeat the request with its request id")
