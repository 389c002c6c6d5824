"""The target of a drill: a multi-region authority into which faults can be injected, and which can be restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tkdb_client import AsyncClient, Macaroon
from tkdb_ops.drills.drill import Step, Verb
from tkdb_ops.drills.record import Audit, MachineRecord, Observation


class Target(Protocol):
    """An authority to run drills on. It must be open while it is used."""

    @property
    def name(self) -> str:
        """``lab``; or ``fly`` and the app's name."""

    @property
    def bound_ms(self) -> int:
        """The published bound on staleness."""

    @property
    def machines(self) -> tuple[MachineRecord, ...]:
        """All machines."""

    @property
    def verbs(self) -> frozenset[Verb]:
        """The actions that the target can carry out."""

    @property
    def clients(self) -> Mapping[str, AsyncClient]:
        """A client in each region that calls come from. Its signer may use every method."""

    async def ready(self) -> None:
        """Start every machine, and make the intended machine primary.

        Raises:
            Unavailable: the authority doesn't become healthy.
        """

    async def sights(self, at_ms: int) -> list[Observation]:
        """Return the status of every machine."""

    async def carry_out(self, step: Step, machines: Sequence[MachineRecord]) -> str:
        """Carry out one step on some machines, and describe the result in words.

        Raises:
            TkdbError: the step can't be carried out.
        """

    async def put_back(self) -> None:
        """Undo all faults that remain. It is safe to call this again: it changes nothing that is healthy."""

    async def audit(
        self, dead: Mapping[int, Macaroon], organizations: Sequence[str], patience_s: float
    ) -> tuple[Audit, ...]:
        """Ask each machine about every acknowledged write: revoked tokens, by number, and organizations.

        A machine may need some time until it can answer; ``patience_s`` is the limit for each.
        """
