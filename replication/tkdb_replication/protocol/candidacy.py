"""The candidacy: whether this machine may take over now.

It may when the head has stood unchanged for long enough, when its turn has come, or when the operator promotes it. A
machine whose takeover or writes failed lets others go first, for a lease. One that is being shut down never may.

>>> from tkdb_replication.protocol.head import BEGINNING, first_head
>>> head = first_head(journal=b"j" * 16, attempt=b"a" * 16, owner=b"o" * 16, base="e0-00", place=BEGINNING, epoch=0)
>>> candidacy = Candidacy(Settings(machine="m1"), owner=b"p" * 16, former=b"")
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
from tkdb_replication.protocol.lease import Lease, patience_ms
from tkdb_replication.protocol.settings import NEVER_MS, Settings

_ANOTHER: Final = "promote another machine"
_WAIT: Final = "wait until that has ended"


class Promotion(NamedTuple):
    """Who waits for this machine to take over, and until when."""

    ticket: Ticket
    until_ms: int


class Candidacy:
    """What speaks for this machine's taking over, and what against it.

    Args:
        settings: its place in the order.
        owner: its process.
        former: the process whose life this machine's own disk shows to have ended; empty for none.
    """

    def __init__(self, settings: Settings, *, owner: bytes, former: bytes) -> None:
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
        """Return whether this machine, which is at ``head``, may take over."""
        if self.leaving or self.promotion is not None:
            return not self.leaving
        return self._waits_ms(head) <= 0

    def is_near(self, head: Head) -> bool:
        """Return whether this machine's turn would come before an idle one looks again."""
        return not self.leaving and self._waits_ms(head) <= self._settings.idle_poll_ms

    def accept(self, head: Head) -> None:
        """This is the newest head from now on. Once another machine has led, this one need not let others go first."""
        if head.owner not in (self._owner, NOBODY):
            self._handicap_ms = 0

    def step_down(self, *, gives_way: bool) -> None:
        """This machine doesn't lead any more. ``gives_way``: because it can't, so that others go first, for a lease."""
        self.lease = Lease()
        if gives_way:
            self._handicap_ms = self._settings.lease_ms

    def leave(self) -> None:
        """This machine is being shut down: it never takes over again."""
        self.leaving = True

    def promote(self, ticket: Ticket, now_ms: int) -> None:
        """The operator makes this machine primary, within a lease.

        Raises:
            NoPrimary: it is being shut down, or promoted already.
        """
        if self.leaving:
            raise NoPrimary("this machine is being shut down", hint=_ANOTHER)
        if self.promotion is not None:
            raise NoPrimary("this machine is being promoted already", hint=_WAIT)
        self.promotion = Promotion(ticket, now_ms + self._settings.lease_ms)

    def promoted(self) -> Ticket | None:
        """The promotion has ended; return who waited for it, None for nobody."""
        promotion, self.promotion = self.promotion, None
        return promotion and promotion.ticket

    def _waits_ms(self, head: Head) -> int:
        """For how much longer ``head`` must be seen to stand unchanged before it is this machine's turn."""
        patience = patience_ms(head, self._settings, self._former)
        return NEVER_MS if patience is None else patience + self._handicap_ms - self.lease.unchanged_ms

    @property
    def due_ms(self) -> int:
        """When the promotion is given up; never while there is none."""
        return NEVER_MS if self.promotion is None else self.promotion.until_ms
