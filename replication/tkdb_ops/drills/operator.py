"""The operator's actions in a drill. They use only the authority's own methods, so they inject no fault."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from tkdb import api, errors
from tkdb_client import AsyncClient
from tkdb_ops.drills.drill import Step, Verb
from tkdb_ops.drills.load import Load

ERRANDS: Final = frozenset({Verb.ROTATE, Verb.REVOKE_MANY, Verb.SPOIL, Verb.RESTORE})

_SAMPLE: Final = 10
"""The number of tokens of a mass revocation that are watched like any other revoked token."""
_AGAIN_S: Final = 0.1
_GOOD_S: Final = 86_400
_SPOILT_S: Final = 60


class Operator:
    """The operator's actions in one drill.

    Args:
        region: the operator's region.
        client: the client of that region.
        load: the load, whose organization the actions affect.
        draw: the source of random choices.
    """

    def __init__(self, region: str, client: AsyncClient, load: Load, draw: random.Random) -> None:
        self._region = region
        self._client = client
        self._load = load
        self._draw = draw
        self._good_seq = 0
        self._kept: set[str] = set()
        self._victim = f"{load.organization}-spoilt"

    async def run(self, step: Step) -> str:
        """Carry out a step, and return a description of the result."""
        organization = self._load.organization
        match step.verb:
            case Verb.ROTATE:
                rotated = await _insist(lambda: self._client.rotate_key(organization))
                return f"{organization} signs under key {rotated.keys[0].generation}"
            case Verb.REVOKE_MANY:
                return await self._revoke_many(step.amount)
            case Verb.SPOIL:
                return await self._spoil()
            case _:
                return await self._restore()

    async def _revoke_many(self, count: int) -> str:
        sample = await self._load.mint_some(self._region, _SAMPLE)
        like = sample[0].macaroon
        made = (api.Lineage(like.kid, like.nonce[:6] + self._draw.randbytes(10)) for _ in range(count - len(sample)))
        sampled = [api.Lineage(token.macaroon.kid, token.macaroon.nonce) for token in sample]
        targets = [*made, *sampled]
        batches = [targets[first : first + api.MAX_TARGETS] for first in range(0, count, api.MAX_TARGETS)]
        for batch in batches[:-1]:
            await _insist(partial(self._client.revoke_many, batch))
        await self._load.revoke_also(
            self._region, sample, partial(_insist, partial(self._client.revoke_many, batches[-1]))
        )
        return f"{count:,} lineages are revoked"

    async def _spoil(self) -> str:
        """Reduce the maximum lifetime of a separate organization's tokens: the load's mints would be refused."""
        await _insist(lambda: self._client.create_organization(self._victim, max_lifetime_s=_GOOD_S))
        self._kept = set(self._load.organizations)
        self._good_seq = (await _insist(self._client.status)).position
        await _insist(lambda: self._client.configure_organization(self._victim, max_lifetime_s=_SPOILT_S))
        return f"a bad write: tokens of {self._victim} may now live {_SPOILT_S} s at most, and not {_GOOD_S:,} s"

    async def _restore(self) -> str:
        """Restore the state before the bad write. This also removes later organizations, as expected."""
        restored = await _insist(lambda: self._client.restore(seq=self._good_seq))
        asked = {each.organization for each in self._load.writes if each.organization}
        left = {each.name: each async for each in self._client.list_organizations()}
        undone = asked - set(left) - self._kept
        self._load.undone |= undone
        if left[self._victim].max_lifetime_s != _GOOD_S:
            raise errors.StoreError("the restore did not undo the bad write", hint="see `tkdb audit verify`")
        return (
            f"restored to entry {restored.seq}: the bad write is undone, and {len(undone)} later organizations are gone"
        )


async def _insist(do: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat ``do`` until it is acknowledged. It must be safe to repeat an action that already took effect."""
    while True:
        try:
            return await do()
        except errors.Conflict:
            return None  # An earlier attempt took effect, and its answer was lost.
        except errors.Unavailable:
            await asyncio.sleep(_AGAIN_S)
