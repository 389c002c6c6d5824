"""A drill: what is broken, how it is mended, and what is to be reached, as data. Pure.

Its steps name places, not machines: which machine is primary, or nearest to the first caller, is found out when the
fault begins, and stays so for the whole drill.

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
    """Where something is done."""

    NONE = ""
    PRIMARY = "primary"
    """The machine that is primary when the fault begins."""
    NEAREST = "nearest"
    """The machine that answers the first region of callers; never the primary where there is another."""
    OTHER = "other"
    """A replica that isn't the nearest one, where there is one."""
    EVERY = "every"


class Verb(StrEnum):
    """What is done. Each undoes itself at the end, whatever happens."""

    WAIT = "wait"
    """``amount``: ms."""
    TAKEOVER = "await a takeover"
    """Until another machine than the primary leads; ``amount``: ms at most."""
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
    """Its region from all others, and from the object store."""
    CUT_STORE = "cut off from the store"
    STALL_STORE = "stall the store for"
    SLOW_STORE = "slow the store for"
    """``amount``: ms more for each way there or back."""
    HEAL = "heal"
    """All ways, between regions and to the store."""
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
    """``amount``: how many lineages."""
    SPOIL = "make a bad write"
    RESTORE = "restore to the point before it"


class Step(msgspec.Struct, frozen=True):
    """One step."""

    verb: Verb
    at: Role = Role.NONE
    amount: int = 0

    @property
    def text(self) -> str:
        """It, in words."""
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
    """Return a step that lets time pass."""
    return Step(Verb.WAIT, amount=amount_ms)


class Drill(msgspec.Struct, frozen=True):
    """One drill.

    Attributes:
        name: as it is called on the command line.
        title: it, in some words.
        shows: what it is to show.
        fault: what breaks, in order.
        mend: what puts it back. Whatever is still broken then is put back, too.
        limits: objectives of its own, where its fault makes things take longer than usual.
        blinds: the place whose callers it leaves without any machine that reads the object store, if any.
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
        """What a target has to be able to do."""
        steps = frozenset(step.verb for step in (*self.fault, *self.mend))
        return steps - {Verb.WAIT, Verb.TAKEOVER}

    @property
    def fault_s(self) -> float:
        """How long the fault lasts at least, in seconds."""
        return sum(step.amount for step in self.fault if step.verb is Verb.WAIT) / 1000
