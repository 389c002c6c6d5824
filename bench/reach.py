"""A bench of how soon a revocation reaches the apps that have the token in their caches. It also measures how long an
app accepts a cached token when it gets no more data.

It runs in a lab (docs/flycast.md): machines of tkdb in iad, ams and syd behind the stand-in for flycast, and an app in
each of these regions and in sin. Each app has a client with a cache that follows the feed.

- ``refused p50``, ``refused p99``: every app has a token in its cache, and the token is revoked. The time is from the
  acknowledgement to the first refusal by each app; each app tries all the time. n counts each app in each round.
  ``accepts after the bound`` counts the refusals that are later than the published bound. It must be 0.
- ``last accept``: the time from the fault to the last time that a cached token was accepted. n is the fault. In ``feed
  cut``, the app in sin is cut off from all others, and the token is revoked during the cut. In ``authority gone``,
  every machine is killed. After the last accept the token is refused as stale. ``refused otherwise`` counts the apps
  that gave another reason. It must be 0.

Run ``python -m bench.reach [--json] [--quick]``, as root. It takes about four minutes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

from bench.rows import Row, arguments, emit
from bench.writes import percentiles
from tkdb_client import AsyncClient, Macaroon, errors
from tkdb_ops.flycast import namespaces
from tkdb_ops.lab.folder import claimed
from tkdb_ops.lab.lab import Lab

REGIONS: Final = ("iad", "ams", "syd")
CUT: Final = "sin"
APPS: Final = (CUT, *REGIONS)
BOUND_S: Final = 5.0
ROUNDS, QUICK_ROUNDS = 200, 2
AT_ONCE: Final = 10  # the number of tokens that are minted and cached at a time
AGAIN_S: Final = 0.005
WATCH_S: Final = 2 * BOUND_S
STEADY: Final = {"TKDB_LEASE_MS": "60000"}  # keeps the primary, because a change of it isn't measured here


class Watched(NamedTuple):
    """The outcome for a token at one app: when it was last accepted, and why it was refused later."""

    accepted_s: float
    refusals: frozenset[type[errors.TkdbError]]


class Apps:
    """The apps of a lab, and the operator, who mints and revokes tokens."""

    def __init__(self, operator: AsyncClient, clients: dict[str, AsyncClient]) -> None:
        self._operator = operator
        self.clients = clients

    async def known(self) -> Macaroon:
        """Return a new token that every app has in its cache."""
        token = await self._operator.mint("acme")
        await asyncio.gather(*(client.verify(token) for client in self.clients.values()))
        return token

    async def revoked(self, token: Macaroon, looking: Sequence[Awaitable[float]]) -> list[float]:
        """Revoke a token while apps wait for its refusal. Return how long after the acknowledgement each saw it, in
        ms."""
        tasks = [asyncio.ensure_future(each) for each in looking]
        await self._operator.revoke(token)
        acknowledged_s = time.monotonic()
        return [1000 * max(0.0, refused_s - acknowledged_s) for refused_s in await asyncio.gather(*tasks)]


async def rows(folder: Path, rounds: int) -> list[Row]:
    """Measure all rows, in one lab."""
    with claimed(folder) as here:
        async with Lab(here, REGIONS, APPS, isolated=True, settings=STEADY) as lab, AsyncExitStack() as stack:
            operator = await stack.enter_async_context(await lab.client(CUT))
            await operator.create_organization("acme")
            clients = {
                region: await stack.enter_async_context(
                    AsyncClient(await lab.flycast.door(region), lab.keys.identity, when_stale="refuse")
                )
                for region in APPS
            }
            apps = Apps(operator, clients)
            found = await _refused(apps, rounds)
            operator = await stack.enter_async_context(await lab.client(REGIONS[0]))
            found += await _feed_cut(lab, Apps(operator, {CUT: clients[CUT]}))
            return found + await _authority_gone(lab, apps)


async def _refused(apps: Apps, rounds: int) -> list[Row]:
    took_ms: list[float] = []
    for begun in range(0, rounds, AT_ONCE):
        for token in await asyncio.gather(*(apps.known() for _ in range(min(AT_ONCE, rounds - begun)))):
            looking = [_first_refusal_s(client, token) for client in apps.clients.values()]
            took_ms += await apps.revoked(token, looking)
    late = sum(each > 1000 * BOUND_S for each in took_ms)
    return [*percentiles("refused", took_ms, "tkdb"), Row("accepts after the bound", len(took_ms), "tkdb", late, "")]


async def _feed_cut(lab: Lab, apps: Apps) -> list[Row]:
    token = await apps.known()
    watching = asyncio.create_task(_watched(apps.clients[CUT], token))
    await asyncio.sleep(0)
    began_s = time.monotonic()
    await lab.flycast.backbone.isolate(CUT)
    await apps.revoked(token, [])
    acknowledged_s = time.monotonic()
    watched = await watching
    await lab.flycast.backbone.heal()
    late = int(watched.accepted_s - acknowledged_s > BOUND_S)
    return [*_last_accept("feed cut", began_s, [watched]), Row("accepts after the bound", "feed cut", "tkdb", late, "")]


async def _authority_gone(lab: Lab, apps: Apps) -> list[Row]:
    await asyncio.gather(*(client.status() for client in apps.clients.values()))
    token = await apps.known()
    watching = [asyncio.create_task(_watched(client, token)) for client in apps.clients.values()]
    await asyncio.sleep(0)
    began_s = time.monotonic()
    await asyncio.gather(*(machine.kill() for machine in lab.flycast.machines.values()))
    return _last_accept("authority gone", began_s, await asyncio.gather(*watching))


def _last_accept(fault: str, began_s: float, watched: Sequence[Watched]) -> list[Row]:
    last_s = max(each.accepted_s for each in watched) - began_s
    otherwise = sum(each.refusals != {errors.StaleAuthority} for each in watched)
    return [
        Row("last accept", fault, "tkdb", round(1000 * last_s), "ms"),
        Row("refused otherwise", fault, "tkdb", otherwise, ""),
    ]


async def _first_refusal_s(client: AsyncClient, token: Macaroon) -> float:
    while True:
        try:
            await client.verify(token)
        except errors.RevokedToken:
            return time.monotonic()
        await asyncio.sleep(AGAIN_S)


async def _watched(client: AsyncClient, token: Macaroon) -> Watched:
    """Verify a token repeatedly for ``WATCH_S``. The time of a check is the start of its call."""
    accepted_s, refusals = 0.0, set()
    ends_s = time.monotonic() + WATCH_S
    while time.monotonic() < ends_s:
        began_s = time.monotonic()
        try:
            await client.verify(token)
        except errors.TkdbError as error:
            refusals.add(type(error))
        else:
            accepted_s = began_s
        await asyncio.sleep(AGAIN_S)
    return Watched(accepted_s, frozenset(refusals))


def main() -> None:
    """Measure, and print."""
    parser = arguments("Measure how soon a revocation reaches the caches of apps.")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to check that the bench runs")
    options = parser.parse_args()
    if (why := namespaces.unfit()) is not None:
        parser.error(f"regions can't be isolated here: {why}")
    with tempfile.TemporaryDirectory(prefix="tkdb-bench-") as folder:
        found = asyncio.run(rows(Path(folder, "lab"), QUICK_ROUNDS if options.quick else ROUNDS))
    emit(found, "A revoked token, in the caches of apps in four regions", options.json)


if __name__ == "__main__":
    main()
