"""What a drill can be run on: an authority of several regions that can be broken, and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tkdb_client import AsyncClient, Macaroon
from tkdb_ops.drills.drill import Step, Verb
from tkdb_ops.drills.record import Audit, MachineRecord, Observation


class Target(Protocol):
    """An authority to drill on. It is open while it is used."""

    @property
    def name(self) -> str:
        """``lab``; or ``fly`` and which app."""

    @property
    def bound_ms(self) -> int:
        """The published bound on staleness."""

    @property
    def machines(self) -> tuple[MachineRecord, ...]:
        """All machines."""

    @property
    def verbs(self) -> frozenset[Verb]:
        """What can be done to it."""

    @property
    def clients(self) -> Mapping[str, AsyncClient]:
        """A client of a signer that may do everything, in each region that calls come from."""

    async def ready(self) -> None:
        """Bring every machine up, and the primary to where it belongs.

        Raises:
            Unavailable: that can't be done.
        """

    async def sights(self, at_ms: int) -> list[Observation]:
        """Ask every machine how it is."""

    async def carry_out(self, step: Step, machines: Sequence[MachineRecord]) -> str:
        """Do one step to some machines; return what was done, in words.

        Raises:
            TkdbError: it can't be done.
        """

    async def put_back(self) -> None:
        """End whatever is still broken. It does nothing that isn't needed, and may be called again."""

    async def audit(
        self, dead: Mapping[int, Macaroon], organizations: Sequence[str], patience_s: float
    ) -> tuple[Audit, ...]:
        """Ask each machine about all that was acknowledged: tokens that are revoked, by number, and organizations.

        ``patience_s`` is how long each may take to get to where it can answer.
        """
