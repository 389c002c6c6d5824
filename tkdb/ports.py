"""The interfaces between the parts of the authority, as Protocols."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from tkdb import api
from tkdb.signers import Signer

UNKNOWN_AGE_MS: Final = 2**53 - 1
"""The age of a machine's data if the machine doesn't know it: larger than any bound."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller, as the channel authenticated it, and the request as it was signed.

    ``signer`` is None for calls without a signer. ``signed_ms``, ``signature`` and ``body`` go into the journal, so
    that an audit can prove who sent the request.
    """

    signer: Signer | None
    path: str
    request_id: bytes
    signed_ms: int
    signature: bytes = field(repr=False)
    body: bytes = field(repr=False)  # it may contain a token


class Service(Protocol):
    """The authority's interface for the server."""

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
        """Return the machine to which the proxy should replay a request to ``path``: the primary, for writes
        elsewhere.

        None if this machine answers the request itself, or if no primary is known (``answer`` then reports that). A
        machine's name is 1 to 64 of ``A-Za-z0-9._-``.
        """

    def check_clock(self) -> None:
        """Return if this machine's clock can be trusted.

        Raises:
            Unavailable: it can't. The message gives the cause. Calls that depend on the time are better sent to another
                machine.
        """

    async def come_to(self, position: int) -> None:
        """Return once this machine serves ``position``. It waits about a second at most.

        Raises:
            Unavailable: it doesn't serve it by then.
        """

    async def answer(self, call: api.Call[api.R], caller: Caller) -> msgspec.Struct:
        """Return the result of ``call``. A long poll waits inside, and ends early after a call of ``drain``.

        Raises:
            NoPrimary: it is a write, and this machine isn't primary.
            StaleAuthority: this machine can't prove that its data is fresh enough.
            TkdbError: the call fails.
        """

    def age_ms(self) -> int:
        """Return the largest possible age of this machine's data, or ``UNKNOWN_AGE_MS``."""

    def ready(self) -> None:
        """Return if this machine can answer.

        Raises:
            Unavailable: it can't. The message gives the cause.
            StaleAuthority: it can't prove that its data is fresh enough.
        """

    def replicating(self) -> None:
        """Return if there is no problem among the machines that an operator should look at, even if this one can
        answer.

        Raises:
            Unavailable, StaleAuthority: there is a problem.
        """

    def drain(self) -> None:
        """End the long polls with what they have, now and from now on."""

    async def ended(self) -> None:
        """Return when the service was closed.

        Raises:
            TkdbError: this process can't continue. A new one may.
        """

    async def close(self) -> None:
        """Close the database. There are no calls afterwards."""
