"""Drills on real machines, quicker than a user's: a short lease and bound, little load before and after."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.end_to_end.node import ROOT
from tkdb_client import AsyncClient
from tkdb_replication.drills.catalogue import find
from tkdb_replication.drills.drill import Drill, Place, Step, Verb, wait
from tkdb_replication.drills.judge import Verdict, judge
from tkdb_replication.drills.objectives import ALWAYS, Limits
from tkdb_replication.drills.on_lab import CALLERS, REGIONS, OnLab
from tkdb_replication.drills.record import Event, Record
from tkdb_replication.drills.run import Pace, Running
from tkdb_replication.lab.lab import Lab

BOUND_MS = 3_000
SETTINGS = {"TKDB_LEASE_MS": "3000", "TKDB_BOUND_MS": str(BOUND_MS), "TKDB_DRAIN_MS": "500"}
PACE = Pace(before_s=3, after_s=3)
STORE_DOWN = msgspec.structs.replace(
    find("store-down"), fault=(Step(Verb.STALL_STORE, Place.EVERY), wait(3 * BOUND_MS))
)  # fmt: skip


class Trusting(OnLab):
    """Callers whose clients believe whatever a machine says, however old: they would refuse it themselves."""

    async def _client(self, url: str, timeout_ms: int = 30_000) -> AsyncClient:
        believing = {"cache_bytes": 0, "bound_ms": 10**9}
        keys = self._lab.keys
        client = AsyncClient(url, keys.identity, signer=keys.signer, timeout_ms=timeout_ms, **believing)
        return await self._stack.enter_async_context(client)


def drilled(folder: Path, drills: Sequence[Drill], control: str | None = None) -> list[tuple[Record, Verdict]]:
    """Run drills on one lab; with ``control``, on machines with that rule switched off, and by trusting callers."""

    async def done() -> list[tuple[Record, Verdict]]:
        program = {} if control is None else {"program": without(control)}
        lab = Lab(folder, REGIONS, CALLERS, isolated=True, settings=SETTINGS, **program)
        kind = OnLab if control is None else Trusting
        async with kind(lab, bound_ms=BOUND_MS) as target:
            ended = []
            for drill in drills:
                record = await Running(drill, target, seed=7, tell=show, pace=PACE).run()
                ended.append((record, judge(record, Limits().of(drill.name, drill.limits))))
            return ended

    return asyncio.run(done())


def show(event: Event) -> None:
    print(f"{event.at_ms / 1000:6.1f} s  {event.what}: {event.text}")  # noqa: T201  seen where a test fails


def without(control: str) -> list[str]:
    """What runs `tkdb serve` with one rule switched off: from outside, as production has no switch."""
    found = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.regions.chaos.controls import main"
    return [sys.executable, "-c", f"{found}; main({control!r})", "serve", "--json"]


def missed(verdict: Verdict) -> set[str]:
    """What was missed of that which doesn't depend on how busy this machine is."""
    return {finding.objective for finding in verdict.findings if finding.objective in ALWAYS and not finding.met}
