"""The record of a drill: calls, writes, the machines' reports, and the drill's actions. Pure.

Times are milliseconds since the drill began, from the clock of the machine that runs the drill. The clocks of the
authority's machines aren't used.

>>> call = CallRecord(1_200, "sin", CallKind.VERIFY, 95, CallOutcome.DENIED, token=7)
>>> call.end_ms, call.kind.reads, call.failed
(1295, True, False)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

import msgspec

DELAY_P99_MS: Final = 100
DELAY_LONGEST_MS: Final = 1_000
"""The largest delays with which times can be measured. The shortest limit in time is 1 s, and the next is 2 s."""


class CallKind(StrEnum):
    """The kind of a call."""

    MINT = "mint"
    VERIFY = "verify"
    """Verify a token that this caller has verified before: it may be in the caller's cache."""
    FIRST = "verify anew"
    """Verify a token that this caller has never seen: the authority is asked."""
    REVOKE = "revoke"
    CREATE = "create"
    """Create an organization."""
    LOOK = "look"
    """Ask which machine answers this caller."""

    @property
    def reads(self) -> bool:
        """True if any region can answer this kind of call."""
        return self in (CallKind.MINT, CallKind.VERIFY, CallKind.FIRST)

    @property
    def verifies(self) -> bool:
        """True if this kind of call accepts or denies a token."""
        return self in (CallKind.VERIFY, CallKind.FIRST)

    @property
    def writes(self) -> bool:
        """True if only the primary can answer this kind of call."""
        return self in (CallKind.REVOKE, CallKind.CREATE)


class CallOutcome(StrEnum):
    """The outcome of a call, after all of the client's retries."""

    OK = "ok"
    DENIED = "denied"
    STALE = "stale"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "outcome unknown"
    REFUSED = "refused"


class CallRecord(msgspec.Struct, frozen=True, array_like=True):
    """One call: its start, region, kind, duration and outcome.

    Attributes:
        token: the number of the call's token; -1 if the call has no token.
        by: the machine that answered; only known for looks.
        why: the error's message, if there was an error.
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
        """The end of the call."""
        return self.at_ms + self.took_ms

    @property
    def failed(self) -> bool:
        """True if the caller got no answer. A denial is an answer; an error because the machines are stale is none."""
        return self.outcome not in (CallOutcome.OK, CallOutcome.DENIED)


class WriteRecord(msgspec.Struct, frozen=True, array_like=True):
    """A write that was repeated until it was acknowledged: the revocation of a token, or a new organization.

    Attributes:
        asked_ms: the start of the first attempt.
        region: the caller's region.
        acknowledged_ms: the time when it was acknowledged; None if it never was.
        token: the number of the token that it revokes; -1 for an organization.
        organization: the name of the organization that it creates; empty for a revocation.
        undone: True if a restore to a point in time has undone it, as expected.
    """

    asked_ms: int
    region: str
    acknowledged_ms: int | None
    token: int = -1
    organization: str = ""
    undone: bool = False


class Event(msgspec.Struct, frozen=True, array_like=True):
    """An action of the drill, or an observation. The text is for people."""

    at_ms: int
    what: Literal["phase", "fault", "heal", "seen"]
    text: str


class Blind(msgspec.Struct, frozen=True, array_like=True):
    """A time span in which ``callers`` could reach no machine that could read the object store."""

    from_ms: int
    to_ms: int
    callers: tuple[str, ...]


class Observation(msgspec.Struct, frozen=True, array_like=True):
    """A machine's report about itself. ``health`` is ok, faulty (``fault`` has the reason), silent or down."""

    at_ms: int
    machine: str
    health: str
    role: str = ""
    seq: int | None = None
    epoch: int | None = None
    age_ms: int | None = None
    fault: str = ""


class Audit(msgspec.Struct, frozen=True):
    """The final check of one machine. No failure is excused here.

    Attributes:
        accepted: the tokens, by number, that it accepts although their revocation was acknowledged.
        missing: the acknowledged organizations that it doesn't have.
        checked: the number of acknowledged writes that it was asked about.
        sound: True if its journal passes ``tkdb audit verify``; None if the journal can't be audited.
        said: the reason why the audit fails, or why the machine couldn't be asked.
    """

    machine: str
    accepted: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    checked: int = 0
    sound: bool | None = None
    said: str = ""


class Delay(msgspec.Struct, frozen=True):
    """How late the machine that ran the drill woke a thread which only sleeps: 99 % of the samples, and the longest.

    >>> Delay(3_000, 12, 400).is_too_long, Delay(3_000, 120, 400).is_too_long, Delay(3_000, 12, 1_500).is_too_long
    (False, True, True)
    """

    samples: int = 0
    p99_ms: int = 0
    longest_ms: int = 0

    @property
    def is_too_long(self) -> bool:
        """True if the machine was so busy that its own delay, and not the authority's, may have missed a limit in time.

        A call takes several steps in several processes, and each of them waits for a core.
        """
        return self.p99_ms > DELAY_P99_MS or self.longest_ms > DELAY_LONGEST_MS

    def __str__(self) -> str:
        return (
            f"1 % of {self.samples:,} samples were at least {self.p99_ms:,} ms late, the latest {self.longest_ms:,} ms"
        )


class MachineRecord(msgspec.Struct, frozen=True):
    """A machine and its region."""

    id: str
    region: str


class Record(msgspec.Struct, frozen=True):
    """One run of a drill.

    Attributes:
        drill: the drill's name.
        target: the target: ``lab``, or ``fly`` and the app's name.
        seed: the seed of the load and of the drill's random choices.
        began: the date and time of the start, ISO 8601, UTC.
        versions: the versions of the software that was used, by name.
        bound_ms: the published bound on staleness.
        machines: all machines.
        callers: the regions that calls came from.
        fault_ms: when the fault began.
        healed_ms: when every fault had been undone.
        settled_ms: when writes were acknowledged and every machine was healthy again.
        end_ms: when the load ended.
        again: the command that runs the drill again.
        undone: the steps that the drill couldn't carry out, such as a machine that didn't come back.
        delay: the scheduling delay of the machine that ran the drill.
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
    delay: Delay = Delay()
    calls: tuple[CallRecord, ...] = ()
    writes: tuple[WriteRecord, ...] = ()
    events: tuple[Event, ...] = ()
    blind: tuple[Blind, ...] = ()
    sights: tuple[Observation, ...] = ()
    audits: tuple[Audit, ...] = ()
