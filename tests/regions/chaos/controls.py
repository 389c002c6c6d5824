"""Negative controls: real machines with one rule switched off, which show that chaos finds the harm the rule prevents.

    python -m tests.regions.chaos.controls "412 taken as success" serve --json

runs ``tkdb`` with this rule switched off. Production has no switch, so this program replaces the class of the state
machine before it starts. Most controls come from the simulation. Each names the faults under which its harm can occur.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.regions.chaos.schedule import Kind
from tests.replication.protocol.simulation import controls as simulated
from tkdb.errors import BrokenHead
from tkdb.journal.entry import Entry
from tkdb_replication.node import node
from tkdb_replication.protocol.actions import Acknowledge, Serve
from tkdb_replication.protocol.epoch import Epoch
from tkdb_replication.protocol.events import Committed, Synced
from tkdb_replication.protocol.head import Checkpoint, Head
from tkdb_replication.protocol.reader import Seen
from tkdb_replication.protocol.settings import NEVER_MS
from tkdb_replication.protocol.state_machine import Role, StateMachine


class AcknowledgesAtCommit(StateMachine):
    """Acknowledges and serves a write once it is on the primary's disk. The head only lets other machines follow."""

    def _on_committed(self, event: Committed) -> None:
        super()._on_committed(event)
        if self.role is Role.PRIMARY:
            last = event.entries[-1]
            self._do(Serve(Checkpoint(last.seq, last.hash)))  # the next write builds on the served data
            self._do(Acknowledge(event.ticket, last.seq))

    def _serve(self, place: Checkpoint) -> None:
        publication = self._epoch and self._epoch.publication
        if publication and place.seq < publication.end.seq:
            self._freshness.served(place)  # the machine already serves this place and later ones
        else:
            super()._serve(place)


class _SwapsToRenew(Epoch):
    def next_head(self, head: Head, attempt: Callable[[], bytes], now_ms: int) -> Head | None:
        renews = self.publication is None or self.move is not None or now_ms >= self._renew_at_ms
        return super().next_head(head, attempt, now_ms) if renews else None


class AcknowledgesAtSync(StateMachine):
    """Acknowledges a write once Litestream has uploaded it. The head is swapped only to renew the lease."""

    def _take_over(self, head: Head) -> None:
        super()._take_over(head)
        if self._epoch is not None:
            self._epoch.__class__ = _SwapsToRenew

    def _take(self, event: Any) -> None:
        super()._take(event)
        publication = self._epoch and self._epoch.publication
        if publication and isinstance(event, Synced):
            for seq, ticket in publication._waiting:
                entries = [item.entry for item in publication._items if publication.named_seq < item.entry.seq <= seq]
                if seq <= publication._synced_seq and _needs_no_result(entries):
                    self._do(Acknowledge(ticket, seq))


def _needs_no_result(entries: Sequence[Entry]) -> bool:
    # The answer to a new organization is read from the served data, which doesn't contain it yet.
    return not any(b"organization" in entry.body for entry in entries)


class _NeverStalls(Epoch):
    @property
    def give_up_at_ms(self) -> int:
        return super().give_up_at_ms if self.publication is None else NEVER_MS


class NoFence(simulated.ConflictIsSuccess):
    """Ignores another primary: 412 counts as success, and heads of other machines are skipped.

    Two more rules would sooner or later stop this primary, so they are off too. The first: a primary stops if its
    writes have waited for a whole lease. The second: a machine refuses a head if its rev went back, or if it lacks
    entries that the machine served.
    """

    def _take_over(self, head: Head) -> None:
        super()._take_over(head)
        if self._epoch is not None:
            self._epoch.__class__ = _NeverStalls

    def _on_seen(self, seen: Seen) -> None:
        known, head = self._reader.known, seen.known.head
        foreign = known is not None and head.attempt != known.head.attempt and not self._swaps.ours(head)
        if foreign and self.role is Role.PRIMARY:
            self._swaps.doubt = False
        else:
            super()._on_seen(seen)

    def _refuse(self, error: BrokenHead) -> None:
        if self.role is Role.PRIMARY:
            self._swaps.doubt = False
        else:
            super()._refuse(error)


@dataclass(frozen=True)
class Control:
    """The state machine that replaces production's, and the faults of its storms.

    If ``hurried``, callers write more, so that entries leave ``recent`` soon.
    """

    machine: type[StateMachine]
    kinds: frozenset[Kind]
    hurried: bool = False


_DEPOSED: Final = frozenset({Kind.PAUSE, Kind.FREEZE, Kind.STALL, Kind.CUT, Kind.LOSE_ANSWER, Kind.PROMOTE})

CONTROLS: Final = {
    "no fence": Control(NoFence, _DEPOSED),
    "acknowledged at the commit": Control(AcknowledgesAtCommit, _DEPOSED | {Kind.KILL, Kind.LOSE_DISK}),
    "acknowledged at the sync": Control(AcknowledgesAtSync, _DEPOSED | {Kind.KILL}),
    "entries leave recent unsynced": Control(simulated.LeavesUnsynced, frozenset({Kind.UNSYNCED_DISKS}), hurried=True),
    "takeover without a sync": Control(simulated.TakesOverUnsynced, frozenset({Kind.STALLED_TAKEOVER_DISKS})),
    "no freshness check": Control(simulated.NoFreshness, frozenset({Kind.STALL, Kind.CUT, Kind.PAUSE})),
}


def command(control: str) -> list[str]:
    """Return the command that runs ``tkdb serve`` with this rule switched off."""
    return [sys.executable, "-m", "tests.regions.chaos.controls", control, "serve", "--json"]


def main(control: str) -> None:
    """Run ``tkdb`` with this rule switched off."""
    from tkdb.cli import main as tkdb

    vars(node)["StateMachine"] = CONTROLS[control].machine  # from outside: production has no switch
    tkdb()


if __name__ == "__main__":
    main(sys.argv.pop(1))
