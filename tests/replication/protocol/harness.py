"""A state machine whose clock a test sets, and whose actions the test answers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any, TypeVar

import msgspec

from tkdb.errors import OutcomeUnknown
from tkdb.journal.additions import Purged
from tkdb.journal.entry import START, Entry, link
from tkdb.journal.seal import ChainKey, SealKey
from tkdb_replication.bucket.objects import Conflict, Found, Missing, NotModified, Stored, Unknown
from tkdb_replication.protocol import actions, events
from tkdb_replication.protocol.actions import Action
from tkdb_replication.protocol.events import Event
from tkdb_replication.protocol.head import BEGINNING, Checkpoint, Head, HeadKeys, decode_head, encode_head, first_head
from tkdb_replication.protocol.reader import Volume
from tkdb_replication.protocol.settings import ProtocolSettings
from tkdb_replication.protocol.state_machine import Role, StateMachine

KEYS = HeadKeys([SealKey(b"\x01" * 32)])
CHAIN_KEY = ChainKey(bytes(32))
JOURNAL = b"j" * 16
FORMER_OWNER = b"f" * 16

A = TypeVar("A")


def entries(number: int, *, epoch: int = 0, body: bytes = b"", after: Entry | None = None) -> list[Entry]:
    """Return ``number`` entries, each linked to the previous one. Another ``body`` gives other hashes."""
    made = [] if after is None else [after]
    for _ in range(number):
        head = made[-1].head if made else START
        made.append(link(head, CHAIN_KEY, now_ms=1, epoch=epoch, made=Purged(), body=body))
    return made if after is None else made[1:]


def place(entry: Entry) -> Checkpoint:
    return Checkpoint(entry.seq, entry.hash)


def head_of(journal: list[Entry], *, recent: int = 0, owner: bytes = b"x" * 16, **changes: Any) -> Head:
    """Return a head at the end of ``journal``."""
    end = place(journal[-1]) if journal else BEGINNING
    head = first_head(journal=JOURNAL, attempt=b"a" * 16, owner=owner, base="e0-00", place=end, epoch=0, machine="m9")
    return msgspec.structs.replace(head, recent=tuple(journal[len(journal) - recent :]), **changes)


class Harness:
    """A state machine, its clock, and all actions that it has returned."""

    def __init__(self, volume: Volume | None = None, **settings: Any) -> None:
        self.settings = ProtocolSettings(**{"machine": "m1", "region": "ams", **settings})
        self.machine = StateMachine(
            self.settings, KEYS, volume or Volume(), owner=b"o" * 16, random=Random(1).randbytes
        )
        self.now_ms = 1_000_000
        self.done: list[Action] = []
        self.serves_at_once = True
        self._etags: Iterator[str] = (f'"{number}"' for number in count(1))
        self.send(events.TimePassed())

    def send(self, event: Event, *, after_ms: int = 0) -> list[Action]:
        """Pass an event to the machine, and return its actions."""
        self.now_ms += after_ms
        done = self.machine.on(event, self.now_ms)
        self.done += done
        for action in list(done):
            if isinstance(action, actions.Serve) and self.serves_at_once:
                done += self.send(events.Served(action.place))
        return done

    def wait(self, ms: int) -> list[Action]:
        """Let time pass, and wake the machine whenever it is due. Answer nothing."""
        end_ms, done = self.now_ms + ms, []
        while self.machine.due_ms <= end_ms:
            self.now_ms = max(self.now_ms, self.machine.due_ms)
            done += self.send(events.TimePassed())
        self.now_ms = end_ms
        return done

    def last(self, kind: type[A]) -> A:
        """Return the last action of that kind."""
        return next(action for action in reversed(self.done) if isinstance(action, kind))

    def all(self, kind: type[A]) -> list[A]:
        """Return every action of that kind."""
        return [action for action in self.done if isinstance(action, kind)]

    def answer_read(self, head: Head | Missing | NotModified | Unknown, *, after_ms: int = 0) -> list[Action]:
        """Answer the last read."""
        answer = Found(encode_head(head, KEYS), next(self._etags), None) if isinstance(head, Head) else head
        return self.send(events.ReadAnswered(self.last(actions.Read).read, answer), after_ms=after_ms)

    def answer_next_read(self, head: Head | Missing | NotModified | Unknown) -> list[Action]:
        """Let time pass until the next read, and answer it."""
        before = self.last(actions.Read)
        while self.last(actions.Read) is before:
            self.send(events.TimePassed(), after_ms=max(1, self.machine.due_ms - self.now_ms))
        return self.answer_read(head)

    def journal_at(self, where: Checkpoint | None) -> list[Action]:
        """End the last step on the journal at ``where``, or let it fail if that is None."""
        steps = [
            action
            for action in self.done
            if isinstance(action, actions.CutBack | actions.Apply | actions.RestoreBackup)
        ]
        return self.send(events.JournalAt(steps[-1].step, where))

    def follow(self, head: Head) -> None:
        """Make the machine a replica at ``head``."""
        self.answer_read(head)
        self.journal_at(head.place)

    def answer_sync(self, *, txid: int = 1, replicated_txid: int = 1) -> list[Action]:
        """Answer the last sync as Litestream does."""
        return self.send(events.Synced(self.last(actions.Sync).sync, txid, replicated_txid))

    def answer_swap(self, answer: Stored | Conflict | Unknown | None = None) -> list[Action]:
        """Answer the last swap. Default: success."""
        answer = answer or Stored(next(self._etags), None)
        return self.send(events.SwapAnswered(self.last(actions.Swap).attempt, answer))

    def renew(self) -> list[Action]:
        """Let time pass until the next swap, and let it succeed. Answer reads before it as unchanged."""
        before = self.last(actions.Swap)
        while self.last(actions.Swap) is before:
            self.send(events.TimePassed(), after_ms=max(1, self.machine.due_ms - self.now_ms))
            self.answer_read(NotModified(None))
        return self.answer_swap()

    def commit(self, ticket: str, *batch: Entry) -> list[Action]:
        """Commit a batch, which must have room."""
        self.machine.require_writable(len(batch), 500 * len(batch), self.now_ms)
        return self.send(events.Committed(ticket, batch))


def primary(journal: list[Entry], **settings: Any) -> Harness:
    """Return a machine that has just become primary of epoch 1, at the end of ``journal``."""
    harness = Harness(Volume(journal=JOURNAL, owner=FORMER_OWNER), **settings)
    harness.follow(head_of(journal, owner=FORMER_OWNER))
    harness.answer_sync()
    harness.answer_swap()
    assert harness.machine.role is Role.PRIMARY
    return harness


def last_head(harness: Harness) -> Head:
    return decode_head(harness.last(actions.Swap).body, KEYS)


def unknown_tickets(done: list[Action]) -> list[object]:
    """Return the tickets that fail with an unknown outcome."""
    return [
        action.ticket
        for action in done
        if isinstance(action, actions.Fail) and isinstance(action.error, OutcomeUnknown)
    ]


def publish(harness: Harness, *new: Entry) -> list[Action]:
    """Commit entries, and publish each by its own swap."""
    done: list[Action] = []
    for entry in new:
        done += harness.commit(f"w{entry.seq}", entry)
        done += harness.answer_swap()
    return done


def taken_over(head: Head) -> Head:
    """Return the next head if another machine takes over."""
    return msgspec.structs.replace(head, rev=head.rev + 1, attempt=b"z" * 16, epoch=head.epoch + 1, owner=b"z" * 16)
