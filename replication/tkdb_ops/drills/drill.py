"""A drill as data: the fault, the repair, and the objectives. Pure.

The steps name places, not machines. When the fault begins, the drill determines the machine that is primary, and the
machine that is nearest to the first caller. These don't change for the whole drill.

>>> drill = Drill("gone", "A machine is gone", "…", fault=(Step(Verb.KILL, Role.NEAREST), wait(3_000)))
>>> drill.verbs, drill.fault_s
(frozenset({<Verb.KILL: 'kill'>}), 3.0)
>>> [step.text for step in drill.fault]
['kill nearest', 'wait 3 s']
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Role(StrEnum):
    """The machines that a step affects."""

    NONE = ""
    PRIMARY = "primary"
    """The machine that is primary when the fault begins."""
    NEAREST = "nearest"
    """The machine that answers the first region of callers; never the primary if there is another machine."""
    OTHER = "other"
    """A replica that isn't the nearest machine, if there is one."""
    EVERY = "every"


class Verb(StrEnum):
    """The action of a step. At the end, a target undoes every fault, whatever happens."""

    WAIT = "wait"
    """``amount``: ms."""
    TAKEOVER = "await a takeover"
    """Wait until a machine other than the old primary is primary; ``amount``: ms at most."""
    KILL = "kill"
    STOP = "stop"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CORDON = "cordon"
    UNCORDON = "uncordon"
    LOSE_PROXY = "lose the proxy of"
    START_PROXY = "start the proxy of"
    ISOLATE = "isolate"
    """Cut the machine's region off from all other regions, and from the object store."""
    CUT_STORE = "cut off from the store"
    STALL_STORE = "stall the store for"
    SLOW_STORE = "slow the store for"
    """``amount``: additional ms for each direction."""
    HEAL = "heal"
    """Restore all network paths, between regions and to the store."""
    KILL_LITESTREAM = "kill Litestream on"
    DAMAGE = "damage the database of"
    LOSE_DISK = "lose the disk of"
    FILL_DISK = "fill the disk of"
    FREE_DISK = "free the disk of"
    SHIFT_CLOCK = "set the clock apart for"
    """``amount``: ms."""
    ROTATE = "rotate keys"
    RESEAL = "roll out a new sealing secret and reseal"
    REVOKE_MANY = "revoke"
    """``amount``: the number of lineages."""
    SPOIL = "make a bad write"
    RESTORE = "restore to the point before it"


class Step(msgspec.Struct, frozen=True):
    """One step: an action, the machines that it affects, and an amount."""

    verb: Verb
    at: Role = Role.NONE
    amount: int = 0

    @property
    def text(self) -> str:
        """The step in words."""
        match self.verb:
            case Verb.WAIT | Verb.TAKEOVER:
                amount = f"{self.amount / 1000:g} s"
                return f"wait {amount}" if self.verb is Verb.WAIT else f"{self.verb}, {amount} at most"
            case Verb.REVOKE_MANY:
                return f"revoke {self.amount:,} lineages"
            case Verb.SLOW_STORE | Verb.SHIFT_CLOCK:
                return f"{self.verb} {self.at}, by {self.amount / 1000:g} s"
        return f"{self.verb} {self.at}".strip()


def wait(amount_ms: int) -> Step:
    """Return a step that waits for ``amount_ms``."""
    return Step(Verb.WAIT, amount=amount_ms)


class Drill(msgspec.Struct, frozen=True):
    """One drill.

    Attributes:
        name: its name on the command line.
        title: the fault in a few words.
        shows: the expected result.
        fault: the steps that inject the fault, in order.
        mend: the steps that repair it. Afterwards, the target restores anything that is still broken.
        limits: the drill's own objectives, if its fault makes something take longer than usual.
        blinds: the place whose callers can reach no machine that reads the object store during the fault, if any.
    """

    name: str
    title: str
    shows: str
    fault: tuple[Step, ...]
    mend: tuple[Step, ...] = ()
    limits: Mapping[str, int] = {}
    blinds: Role = Role.NONE

    @property
    def verbs(self) -> frozenset[Verb]:
        """The actions that a target must be able to carry out."""
        steps = frozenset(step.verb for step in (*self.fault, *self.mend))
        return steps - {Verb.WAIT, Verb.TAKEOVER}

    @property
    def fault_s(self) -> float:
        """The minimum duration of the fault, in seconds."""
        return sum(step.amount for step in self.fault if step.verb is Verb.WAIT) / 1000
