"""One machine in the test's hands: its clock is turned, and each of its actions is answered as the test likes."""

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
FORMER = b"f" * 16

A = TypeVar("A")


def entries(number: int, *, epoch: int = 0, word: bytes = b"", after: Entry | None = None) -> list[Entry]:
    """So many entries, one after the other; other words, other hashes."""
    made = [] if after is None else [after]
    for _ in range(number):
        head = made[-1].head if made else START
        made.append(link(head, CHAIN_KEY, now_ms=1, epoch=epoch, made=Purged(), body=word))
    return made if after is None else made[1:]


def place(entry: Entry) -> Checkpoint:
    return Checkpoint(entry.seq, entry.hash)


def head_of(journal: list[Entry], *, recent: int = 0, owner: bytes = b"x" * 16, **changes: Any) -> Head:
    """A head at the end of ``journal``."""
    end = place(journal[-1]) if journal else BEGINNING
    head = first_head(journal=JOURNAL, attempt=b"a" * 16, owner=owner, base="e0-00", place=end, epoch=0, machine="m9")
    return msgspec.structs.replace(head, recent=tuple(journal[len(journal) - recent :]), **changes)


class Driven:
    """A machine, and what it has asked for and not been told."""

    def __init__(self, volume: Volume | None = None, **settings: Any) -> None:
        self.settings = ProtocolSettings(**{"machine": "m1", "region": "ams", **settings})
        self.machine = StateMachine(
            self.settings, KEYS, volume or Volume(), owner=b"o" * 16, random=Random(1).randbytes
        )
        self.now_ms = 1_000_000
        self.done: list[Action] = []
        self.serves_at_once = True
        self._etags: Iterator[str] = (f'"{number}"' for number in count(1))
        self.tell(events.TimePassed())

    def tell(self, event: Event, *, after_ms: int = 0) -> list[Action]:
        """Tell an event; return what the machine does."""
        self.now_ms += after_ms
        done = self.machine.on(event, self.now_ms)
        self.done += done
        for action in list(done):
            if isinstance(action, actions.Serve) and self.serves_at_once:
                done += self.tell(events.Served(action.place))
        return done

    def wait(self, ms: int) -> list[Action]:
        """Let time pass, and tell it when it is due; nothing is answered."""
        end_ms, done = self.now_ms + ms, []
        while self.machine.due_ms <= end_ms:
            self.now_ms = max(self.now_ms, self.machine.due_ms)
            done += self.tell(events.TimePassed())
        self.now_ms = end_ms
        return done

    def last(self, kind: type[A]) -> A:
        """The last action of that kind."""
        return next(action for action in reversed(self.done) if isinstance(action, kind))

    def all(self, kind: type[A]) -> list[A]:
        """Every action of that kind."""
        return [action for action in self.done if isinstance(action, kind)]

    def shown(self, head: Head | Missing | NotModified | Unknown, *, after_ms: int = 0) -> list[Action]:
        """Answer the last read."""
        answer = Found(encode_head(head, KEYS), next(self._etags), None) if isinstance(head, Head) else head
        return self.tell(events.ReadAnswered(self.last(actions.Read).read, answer), after_ms=after_ms)

    def read_again(self, head: Head | Missing | NotModified | Unknown) -> list[Action]:
        """Let the next read be sent, and answer that."""
        before = self.last(actions.Read)
        while self.last(actions.Read) is before:
            self.tell(events.TimePassed(), after_ms=max(1, self.machine.due_ms - self.now_ms))
        return self.shown(head)

    def journal_at(self, where: Checkpoint | None) -> list[Action]:
        """The last step on the journal is done."""
        steps = [
            action
            for action in self.done
            if isinstance(action, actions.CutBack | actions.Apply | actions.RestoreBackup)
        ]
        return self.tell(events.JournalAt(steps[-1].step, where))

    def follows(self, head: Head) -> None:
        """Make it a replica that is at ``head``."""
        self.shown(head)
        self.journal_at(head.place)

    def synced(self, *, txid: int = 1, replicated_txid: int = 1) -> list[Action]:
        """Litestream answers the last sync."""
        return self.tell(events.Synced(self.last(actions.Sync).sync, txid, replicated_txid))

    def swapped(self, answer: Stored | Conflict | Unknown | None = None) -> list[Action]:
        """The last swap is answered: by success, where nothing else is given."""
        answer = answer or Stored(next(self._etags), None)
        return self.tell(events.SwapAnswered(self.last(actions.Swap).attempt, answer))

    def renews(self) -> list[Action]:
        """Let the next swap be sent, and succeed. Reads are answered meanwhile: nothing has changed."""
        before = self.last(actions.Swap)
        while self.last(actions.Swap) is before:
            self.tell(events.TimePassed(), after_ms=max(1, self.machine.due_ms - self.now_ms))
            self.shown(NotModified(None))
        return self.swapped()

    def commits(self, ticket: str, *batch: Entry) -> list[Action]:
        """A batch is committed."""
        self.machine.require_writable(len(batch), 500 * len(batch), self.now_ms)
        return self.tell(events.Committed(ticket, batch))


def primary(journal: list[Entry], **settings: Any) -> Driven:
    """A machine that has just become primary, of epoch 1, at the end of ``journal``."""
    driven = Driven(Volume(journal=JOURNAL, owner=FORMER), **settings)
    driven.follows(head_of(journal, owner=FORMER))
    driven.synced()
    driven.swapped()
    assert driven.machine.role is Role.PRIMARY
    return driven


def last_head(driven: Driven) -> Head:
    return decode_head(driven.last(actions.Swap).body, KEYS)


def unknown(done: list[Action]) -> list[object]:
    """Who is told that the outcome isn't known."""
    return [
        action.ticket
        for action in done
        if isinstance(action, actions.Fail) and isinstance(action.error, OutcomeUnknown)
    ]


def publish(driven: Driven, *new: Entry) -> list[Action]:
    """Commit entries, one swap for each."""
    done: list[Action] = []
    for entry in new:
        done += driven.commits(f"w{entry.seq}", entry)
        done += driven.swapped()
    return done


def foreign(head: Head) -> Head:
    """The head after another machine took over."""
    return msgspec.structs.replace(head, rev=head.rev + 1, attempt=b"z" * 16, epoch=head.epoch + 1, owner=b"z" * 16)
