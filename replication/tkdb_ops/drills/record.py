"""What is written down while a drill runs: calls, writes, what machines said of themselves, and what was done. Pure.

Times are milliseconds since the drill began, by the clock of who drills: no machine's clock is believed.

>>> call = CallRecord(1_200, "sin", CallKind.VERIFY, 95, CallOutcome.DENIED, token=7)
>>> call.end_ms, call.kind.reads, call.failed
(1295, True, False)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec


class CallKind(StrEnum):
    """What a call asks for."""

    MINT = "mint"
    VERIFY = "verify"
    """A token that this caller has verified before: its cache may know it."""
    FIRST = "verify anew"
    """A token that this caller has never seen: the authority is asked."""
    REVOKE = "revoke"
    CREATE = "create"
    """An organization."""
    LOOK = "look"
    """Who answers this caller."""

    @property
    def reads(self) -> bool:
        """Whether any region can answer it."""
        return self in (CallKind.MINT, CallKind.VERIFY, CallKind.FIRST)

    @property
    def verifies(self) -> bool:
        """Whether it accepts a token, or denies it."""
        return self in (CallKind.VERIFY, CallKind.FIRST)

    @property
    def writes(self) -> bool:
        """Whether only the primary can do it."""
        return self in (CallKind.REVOKE, CallKind.CREATE)


class CallOutcome(StrEnum):
    """What came of a call, after all that the client did for it."""

    OK = "ok"
    DENIED = "denied"
    STALE = "stale"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "outcome unknown"
    REFUSED = "refused"


class CallRecord(msgspec.Struct, frozen=True, array_like=True):
    """One call: when it began, from which region, how long it took, and what came of it.

    Attributes:
        token: the number of the token that it is about; -1 where it is about none.
        by: the machine that answered; only looks know it.
        why: what an error said.
    """

    at_ms: int
    region: str
    kind: CallKind
    took_ms: int
    outcome: CallOutcome
    token: int = -1
    by: str = ""
    why: str = ""

    @property
    def end_ms(self) -> int:
        """When it ended."""
        return self.at_ms + self.took_ms

    @property
    def failed(self) -> bool:
        """Whether the caller was left without an answer. A denial is one; that nobody is fresh enough is none."""
        return self.outcome not in (CallOutcome.OK, CallOutcome.DENIED)


class WriteRecord(msgspec.Struct, frozen=True, array_like=True):
    """A write that was repeated until it was acknowledged: the revocation of a token, or a new organization.

    Attributes:
        asked_ms: when it was first asked for.
        region: from where.
        acknowledged_ms: when somebody said that it is done; None where nobody did.
        token: the number of the token that it revokes; -1 for an organization.
        organization: the name of the organization that it makes; empty for a revocation.
        undone: a recovery to a point in time has undone it, as it should.
    """

    asked_ms: int
    region: str
    acknowledged_ms: int | None
    token: int = -1
    organization: str = ""
    undone: bool = False


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something that was done, or seen: the words are for people."""

    at_ms: int
    what: Literal["phase", "fault", "heal", "seen"]
    text: str


class Blind(msgspec.Struct, frozen=True, array_like=True):
    """A time in which ``callers`` reached no machine that could read the object store."""

    from_ms: int
    to_ms: int
    callers: tuple[str, ...]


class Observation(msgspec.Struct, frozen=True, array_like=True):
    """What a machine said of itself: ``health`` is ok, faulty (why: ``fault``), silent or down."""

    at_ms: int
    machine: str
    health: str
    role: str = ""
    seq: int | None = None
    epoch: int | None = None
    age_ms: int | None = None
    fault: str = ""


class Audit(msgspec.Struct, frozen=True):
    """What a machine knew at the end, when nothing was excused any more.

    Attributes:
        accepted: the tokens, by number, that it accepts although their revocation was acknowledged.
        missing: the organizations, acknowledged, that it doesn't know.
        checked: how many it was asked about.
        sound: whether its journal passes ``tkdb audit verify``; None where that can't be looked at.
        said: why it doesn't, or why it couldn't be asked.
    """

    machine: str
    accepted: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    checked: int = 0
    sound: bool | None = None
    said: str = ""


class MachineRecord(msgspec.Struct, frozen=True):
    """A machine, and where it stands."""

    id: str
    region: str


class Record(msgspec.Struct, frozen=True):
    """One run of a drill.

    Attributes:
        drill: its name.
        target: where it ran: ``lab``, or ``fly`` and the app's name.
        seed: what the load and the choices follow from.
        began: the time of day, ISO 8601, UTC.
        versions: of what was drilled with, by name.
        bound_ms: the published bound on staleness.
        machines: all of them.
        callers: the regions that calls came from.
        fault_ms: when the fault began.
        healed_ms: when all that was broken had been put back.
        settled_ms: when writes were acknowledged and every machine was well again.
        end_ms: when the load ended.
        again: the command that runs it again.
        undone: what the drill was to do and couldn't: a machine that didn't come back, a write that wasn't undone.
    """

    drill: str
    target: str
    seed: int
    began: str
    versions: dict[str, str]
    bound_ms: int
    machines: tuple[MachineRecord, ...]
    callers: tuple[str, ...]
    fault_ms: int
    healed_ms: int
    settled_ms: int
    end_ms: int
    again: str = ""
    undone: tuple[str, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    writes: tuple[WriteRecord, ...] = ()
    events: tuple[Event, ...] = ()
    blind: tuple[Blind, ...] = ()
    sights: tuple[Observation, ...] = ()
    audits: tuple[Audit, ...] = ()
