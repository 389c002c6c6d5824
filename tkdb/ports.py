"""What the parts of the authority ask of each other, as Protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from tkdb import api
from tkdb.signers import Signer

UNKNOWN_AGE_MS: Final = 2**53 - 1
"""The age of what a machine knows, where it doesn't know that: older than any bound."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the channel has authenticated it, and the request as it was signed.

    ``signer`` is None where no signer is needed. ``signed_ms``, ``signature`` and ``body`` go into the journal, so
    that an audit can prove who asked.
    """

    signer: Signer | None
    path: str
    request_id: bytes
    signed_ms: int
    signature: bytes
    body: bytes


class Service(Protocol):
    """What the server needs of the authority."""

    @property
    def name(self) -> str:
        """The authority's name."""

    @property
    def journal(self) -> bytes:
        """The journal's id, 16 bytes."""

    @property
    def position(self) -> int:
        """The sequence number of the last entry that this machine serves."""

    def replay_to(self, path: str) -> str | None:
        """Return the machine that a proxy should replay requests to ``path`` to: the primary, for writes on another.

        None where this machine answers them itself; also where nobody is known to be primary: ``answer`` says so.
        A machine's name is 1 to 64 of ``A-Za-z0-9._-``.
        """

    def check_clock(self) -> None:
        """Return if this machine's clock can be believed.

        Raises:
            Unavailable: it can't, and why: what hangs on the time is better asked of another machine.
        """

    async def come_to(self, position: int) -> None:
        """Return once this machine serves ``position``; it waits a moment, about a second at most.

        Raises:
            Unavailable: it hasn't come to it.
        """

    async def answer(self, call: api.Call[api.R], caller: Caller) -> msgspec.Struct:
        """Return the result of ``call``. A long poll waits inside, and ends early once ``drain`` was called.

        Raises:
            NoPrimary: it is a write, and this machine isn't primary.
            StaleAuthority: this machine can't show that it is fresh enough.
            TkdbError: the call fails.
        """

    def age_ms(self) -> int:
        """Return how old this machine's knowledge may be at most; ``UNKNOWN_AGE_MS`` where it doesn't know."""

    def ready(self) -> None:
        """Return if this machine can answer.

        Raises:
            Unavailable: it can't, and why.
            StaleAuthority: it can't show that it is fresh enough.
        """

    def replicating(self) -> None:
        """Return if nothing is wrong among the machines that somebody should look at, though this one may answer.

        Raises:
            Unavailable, StaleAuthority: what is wrong.
        """

    def drain(self) -> None:
        """End the long polls with what they have, now and from now on."""

    async def ended(self) -> None:
        """Return when it was closed.

        Raises:
            TkdbError: this process can't go on; a new one may.
        """

    async def close(self) -> None:
        """Let go of the database. Nothing is asked afterwards."""
