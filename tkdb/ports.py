"""What the parts of the authority ask of each other, as Protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from tkdb import api
from tkdb.signers import Signer


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

    async def answer(self, call: api.Call[api.R], caller: Caller) -> msgspec.Struct:
        """Return the result of ``call``. A long poll waits inside, and ends early once ``drain`` was called.

        Raises:
            TkdbError: the call fails.
        """

    def age_ms(self) -> int:
        """Return how old this machine's knowledge may be at most."""

    def ready(self) -> None:
        """Return if this machine can answer.

        Raises:
            Unavailable: it can't, and why.
            StaleAuthority: it can't show that it is fresh enough.
        """

    def drain(self) -> None:
        """End the long polls with what they have, now and from now on."""

    async def close(self) -> None:
        """Let go of the database. Nothing is asked afterwards."""
