"""The final check of a machine: does it have every acknowledged write? No failure is excused here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from tkdb import api, errors
from tkdb_client import AsyncClient, Macaroon
from tkdb_ops.drills.record import Audit

T = TypeVar("T")

_AGAIN_S: Final = 0.2


async def ask(
    machine: str, client: AsyncClient, dead: Mapping[int, Macaroon], organizations: Sequence[str], patience_s: float
) -> Audit:
    """Ask a machine about revoked tokens, by number, and about organizations.

    If the machine doesn't answer in time, everything counts as missing, and the result contains the reason.

    Args:
        machine: the machine's name.
        client: a client of that machine, with a signer that may list organizations.
        dead: the tokens with an acknowledged revocation.
        organizations: the names of the acknowledged organizations.
        patience_s: how long the machine may take to answer, for the tokens and again for the organizations.
    """
    checked = len(dead) + len(organizations)
    try:
        accepted = await _insist(lambda: _accepted(client, dead), patience_s)
        known = await _insist(lambda: _known(client), patience_s)
    except errors.TkdbError as error:
        return Audit(machine, tuple(dead), tuple(organizations), checked, said=f"it doesn't answer: {error.message}")
    return Audit(machine, accepted, tuple(name for name in organizations if name not in known), checked)


async def _accepted(client: AsyncClient, dead: Mapping[int, Macaroon]) -> tuple[int, ...]:
    """Return the tokens that aren't denied as revoked. Any other denial doesn't prove that the revocation is known."""
    numbers, accepted = list(dead), list[int]()
    for first in range(0, len(numbers), api.MAX_BUNDLES):
        some = numbers[first : first + api.MAX_BUNDLES]
        results = await client.verify_many([dead[number] for number in some])
        stale = next((each for each in results if isinstance(each, errors.StaleAuthority)), None)
        if stale is not None:
            raise stale
        accepted += [
            number
            for number, result in zip(some, results, strict=True)
            if not isinstance(result, errors.RevokedToken | errors.UnknownKey)
        ]
    return tuple(accepted)


async def _known(client: AsyncClient) -> set[str]:
    return {organization.name async for organization in client.list_organizations()}


async def _insist(do: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Repeat ``do`` until it is answered.

    Raises:
        Unavailable: there is no answer in time.
    """
    give_up_s = time.monotonic() + patience_s
    while True:
        try:
            return await do()
        except errors.Unavailable:
            if time.monotonic() > give_up_s:
                raise
            await asyncio.sleep(_AGAIN_S)
