"""Negative controls: real machines with one rule switched off, to see that chaos finds what the rule is there against.

    python -m tests.regions.chaos.controls "412 taken as success" serve --json

runs ``tkdb`` with that rule switched off. Production has no switch: this exchanges the machine's class before it
starts. Most are the simulation's own controls; each says in what weather its harm is looked for.
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
    """Acknowledged, and shown, once it is on the primary's own disk: the head is for others to follow."""

    def _on_committed(self, event: Committed) -> None:
        super()._on_committed(event)
        if self.role is Role.PRIMARY:
            last = event.entries[-1]
            self._do(Serve(Checkpoint(last.seq, last.hash)))  # the next write stands on what is shown
            self._do(Acknowledge(event.ticket, last.seq))

    def _serve(self, place: Checkpoint) -> None:
        publication = self._epoch and self._epoch.publication
        if publication and place.seq < publication.end.seq:
            self._freshness.served(place)  # it has been shown, and more
        else:
            super()._serve(place)


class _SwapsToRenew(Epoch):
    def next_head(self, head: Head, attempt: Callable[[], bytes], now_ms: int) -> Head | None:
        renews = self.publication is None or self.move is not None or now_ms >= self._renew_at_ms
        return super().next_head(head, attempt, now_ms) if renews else None


class AcknowledgesAtSync(StateMachine):
    """Acknowledged once Litestream has it; the head is swapped only to renew the lease."""

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
    # Whoever makes an organization is told of it as it is served, and it isn't yet.
    return not any(b"organization" in entry.body for entry in entries)


class _NeverStalls(Epoch):
    @property
    def give_up_at_ms(self) -> int:
        return super().give_up_at_ms if self.publication is None else NEVER_MS


class NoFence(simulated.ConflictIsSuccess):
    """A primary doesn't mind that another leads: 412 is success, and heads that aren't its own are passed over.

    Two more rules would catch it in its place, sooner or later, so they are off as well: a primary whose writes have
    waited a whole lease stops, and a head that lacks what was served here, or whose rev has gone back, is refused.
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
    """Which machine runs in production's stead, and which faults it meets.

    ``hurried``: more is written, so that entries leave ``recent`` soon.
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
    """Return what runs ``tkdb serve`` with that rule switched off."""
    return [sys.executable, "-m", "tests.regions.chaos.controls", control, "serve", "--json"]


def main(control: str) -> None:
    """Run ``tkdb`` with that rule switched off."""
    from tkdb.cli import main as tkdb

    vars(node)["StateMachine"] = CONTROLS[control].machine  # from outside: production has no switch
    tkdb()


if __name__ == "__main__":
    main(sys.argv.pop(1))
