"""What an operator does while a drill runs: by the authority's own methods, so it needs no machine to be broken."""

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
"""How many of a mass revocation's tokens are watched as any other revocation is."""
_AGAIN_S: Final = 0.1
_GOOD_S: Final = 86_400
_SPOILT_S: Final = 60


class Operator:
    """Runs them for one drill.

    Args:
        region: where the operator is.
        client: that region's.
        load: whose organization it is about.
        draw: randomness.
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
        """Do it, and return what was done, in words."""
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
        """Cut short how long an organization's tokens may live: not that of the load, whose mints would be refused."""
        await _insist(lambda: self._client.create_organization(self._victim, max_lifetime_s=_GOOD_S))
        self._kept = set(self._load.organizations)
        self._good_seq = (await _insist(self._client.status)).position
        await _insist(lambda: self._client.configure_organization(self._victim, max_lifetime_s=_SPOILT_S))
        return f"{self._victim}'s tokens may live {_SPOILT_S} s at most from now on, and not {_GOOD_S:,} s: a bad write"

    async def _restore(self) -> str:
        """Go back to before the bad write. Organizations that were made since go with it, as they should."""
        restored = await _insist(lambda: self._client.restore(seq=self._good_seq))
        asked = {each.organization for each in self._load.writes if each.organization}
        left = {each.name: each async for each in self._client.list_organizations()}
        undone = asked - set(left) - self._kept
        self._load.undone |= undone
        if left[self._victim].max_lifetime_s != _GOOD_S:
            raise errors.StoreError("the restore did not undo the bad write", hint="see `tkdb audit verify`")
        return (
            f"restored to entry {restored.seq}: tokens may live as before; {len(undone)} later organizations are gone"
        )


async def _insist(do: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat until it is done. What may have been done already does no harm when it is done again."""
    while True:
        try:
            return await do()
        except errors.Conflict:
            return None  # it was done, and the answer lost
        except (errors.Unavailable, errors.StaleAuthority):
            await asyncio.sleep(_AGAIN_S)
