"""Negative controls: real machines with one rule switched off, to see that chaos finds what the rule is there against.

    python -m tests.regions.chaos.controls "412 taken as success" serve --json

runs ``tkdb`` with that rule switched off. Production has no switch: this exchanges the machine's class before it
starts. Most are the simulation's own controls; each says in what weather its harm is looked for.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from tests.regions.chaos.schedule import Kind
from tests.replication.simulation import controls as simulated
from tkdb_replication import node
from tkdb_replication.actions import Acknowledge
from tkdb_replication.events import Committed
from tkdb_replication.machine import Machine
from tkdb_replication.reader import Seen


class AcknowledgesAtCommit(Machine):
    """Acknowledged once it is on the primary's own disk."""

    def _on_committed(self, event: Committed) -> None:
        super()._on_committed(event)
        # An organization's caller is told of it as it is served, and it isn't yet.
        if self._epoch is not None and not any(b"organization" in entry.body for entry in event.entries):
            self._do(Acknowledge(event.ticket, event.entries[-1].seq))


class NoFence(simulated.ConflictIsSuccess):
    """A primary doesn't mind that another leads: 412 is success, and heads that aren't its own are passed over."""

    def _on_seen(self, seen: Seen) -> None:
        known, head = self._reader.known, seen.known.head
        foreign = known is not None and head.attempt != known.head.attempt and not self._swaps.ours(head)
        if self._epoch is None or self._epoch.publication is None or not foreign:
            super()._on_seen(seen)
        else:
            self._swaps.doubt = False


@dataclass(frozen=True)
class Control:
    """Which machine runs in production's stead, and which faults it meets."""

    machine: type[Machine]
    kinds: frozenset[Kind]


_DEPOSED: Final = frozenset({Kind.PAUSE, Kind.FREEZE, Kind.STALL, Kind.CUT, Kind.LOSE_ANSWER, Kind.PROMOTE})
_DISKS: Final = frozenset({Kind.LOSE_DISK, Kind.ALL_DISKS, Kind.UNSYNCED_DISKS, Kind.TAKEOVER_DISKS})

CONTROLS: Final = {
    "no fence": Control(NoFence, _DEPOSED),
    "412 taken as success": Control(simulated.ConflictIsSuccess, _DEPOSED),
    "acknowledged at the commit": Control(AcknowledgesAtCommit, _DEPOSED | _DISKS),
    "no swap at acknowledgement": Control(simulated.AcknowledgesAtSync, _DEPOSED),
    "a repeated request answered at once": Control(simulated.AnswersRepeatsAtOnce, _DEPOSED | _DISKS),
    "entries leave recent unsynced": Control(simulated.LeavesUnsynced, frozenset({Kind.UNSYNCED_DISKS})),
    "takeover without a sync": Control(simulated.TakesOverUnsynced, frozenset({Kind.TAKEOVER_DISKS})),
    "no freshness check": Control(simulated.NoFreshness, frozenset({Kind.STALL, Kind.CUT, Kind.PAUSE})),
    "freshness by seq alone, no cut-back": Control(simulated.SeqAlone, _DEPOSED | {Kind.KILL}),
    "one path for all epochs": Control(simulated.OnePath, _DISKS | {Kind.PAUSE, Kind.PROMOTE, Kind.HAND_OVER}),
}


def command(control: str) -> list[str]:
    """Return what runs ``tkdb serve`` with that rule switched off."""
    return [sys.executable, "-m", "tests.regions.chaos.controls", control, "serve", "--json"]


def main(control: str) -> None:
    """Run ``tkdb`` with that rule switched off."""
    from tkdb.cli import main as tkdb

    vars(node)["Machine"] = CONTROLS[control].machine  # from outside: production has no switch
    tkdb()


if __name__ == "__main__":
    main(sys.argv.pop(1))
