"""The candidacy: whether this machine may take over now.

It may take over when the head has been unchanged for long enough, when a handover names it, or when the operator
promotes it. A machine whose takeover, writes or syncs failed lets other machines go first, for one lease. A machine
that is shutting down may never take over.

>>> from tkdb_replication.protocol.head import BEGINNING, first_head
>>> head = first_head(journal=b"j" * 16, attempt=b"a" * 16, owner=b"o" * 16, base="e0-00", place=BEGINNING, epoch=0)
>>> candidacy = Candidacy(ProtocolSettings(machine="m1"), owner=b"p" * 16, former=b"")
>>> candidacy.may_take_over(head)
False
>>> candidacy.promote("ticket", now_ms=0)
>>> candidacy.may_take_over(head)
True
>>> candidacy.leave()
>>> candidacy.may_take_over(head)
False
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tkdb.errors import NoPrimary
from tkdb_replication.protocol.events import Ticket
from tkdb_replication.protocol.head import NOBODY, Head
from tkdb_replication.protocol.lease import Lease, wait_ms
from tkdb_replication.protocol.settings import NEVER_MS, ProtocolSettings

_ANOTHER: Final = "promote another machine"
_WAIT: Final = "wait until the promotion has ended"


class Promotion(NamedTuple):
    """The ticket that waits for this machine to take over, and the time limit."""

    ticket: Ticket
    until_ms: int


class Candidacy:
    """The reasons for and against a takeover by this machine.

    Args:
        settings: this machine's settings, with its rank.
        owner: the id of its process.
        former: a process that has ended, as this machine's own disk shows; empty if there is none.
    """

    def __init__(self, settings: ProtocolSettings, *, owner: bytes, former: bytes) -> None:
        self.lease = Lease()
        """The head, as it is watched."""
        self.promotion: Promotion | None = None
        """What the operator asked for, while that is under way."""
        self.leaving = False
        """Whether this machine is being shut down."""
        self._settings = settings
        self._owner = owner
        self._former = former
        self._handicap_ms = 0

    def may_take_over(self, head: Head) -> bool:
        """Return True if this machine, whose journal is at ``head``, may take over."""
        if self.leaving or self.promotion is not None:
            return not self.leaving
        return self._waits_ms(head) <= 0

    def is_near(self, head: Head) -> bool:
        """Return True if this machine may take over before an idle machine would read the head again."""
        return not self.leaving and self._waits_ms(head) <= self._settings.idle_poll_ms

    def accept(self, head: Head) -> None:
        """Record the newest head. After another machine has led, this machine no longer lets others go first."""
        if head.owner not in (self._owner, NOBODY):
            self._handicap_ms = 0

    def step_down(self, *, gives_way: bool) -> None:
        """Record that this machine leads no longer. ``gives_way``: it can't lead, so it lets others go first for one
        lease."""
        self.lease = Lease()
        if gives_way:
            self._handicap_ms = self._settings.lease_ms

    def leave(self) -> None:
        """Record that this machine is shutting down: it never takes over again."""
        self.leaving = True

    def promote(self, ticket: Ticket, now_ms: int) -> None:
        """Record that the operator promotes this machine, within one lease.

        Raises:
            NoPrimary: the machine is shutting down, or is already being promoted.
        """
        if self.leaving:
            raise NoPrimary("this machine is being shut down", hint=_ANOTHER)
        if self.promotion is not None:
            raise NoPrimary("this machine is already being promoted", hint=_WAIT)
        self.promotion = Promotion(ticket, now_ms + self._settings.lease_ms)

    def promoted(self) -> Ticket | None:
        """Record that the promotion has ended. Return the ticket that waited for it, or None."""
        promotion, self.promotion = self.promotion, None
        return promotion and promotion.ticket

    def _waits_ms(self, head: Head) -> int:
        """Return for how much longer ``head`` must be unchanged before this machine may take over."""
        patience = wait_ms(head, self._settings, self._former)
        return NEVER_MS if patience is None else patience + self._handicap_ms - self.lease.unchanged_ms

    @property
    def due_ms(self) -> int:
        """The time at which the promotion is given up; never while there is none."""
        return NEVER_MS if self.promotion is None else self.promotion.until_ms
