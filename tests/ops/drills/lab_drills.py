"""Drills on real machines, quicker than a user's: a short lease and bound, little load before and after."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.end_to_end.node import ROOT
from tkdb_client import AsyncClient
from tkdb_ops.drills.catalogue import find
from tkdb_ops.drills.drill import Drill, Role, Step, Verb, wait
from tkdb_ops.drills.lab_target import CALLERS, REGIONS, OnLab
from tkdb_ops.drills.load import Rates
from tkdb_ops.drills.objectives import ALWAYS, Limits
from tkdb_ops.drills.record import Event, Record
from tkdb_ops.drills.run import Pace, Running
from tkdb_ops.drills.verdict import Verdict, judge
from tkdb_ops.lab.lab import Lab

BOUND_MS = 3_000
SETTINGS = {"TKDB_LEASE_MS": "3000", "TKDB_BOUND_MS": str(BOUND_MS), "TKDB_DRAIN_MS": "500"}
PACE = Pace(before_s=3, after_s=3)
WRITING = Pace(before_s=2, after_s=1, rates=Rates(mint=0.5, verify=1, first=0.5, revoke=0.3, create=2, look=0.5))
"""Half of the usual calls, and most of them writes: that none from some region meets 5 s has a chance of 1e-5."""
STORE_DOWN = msgspec.structs.replace(
    find("store-down"), fault=(Step(Verb.STALL_STORE, Role.EVERY), wait(3 * BOUND_MS))
)  # fmt: skip


_HUNG = find("primary-hung")
DEPOSED = msgspec.structs.replace(
    _HUNG,
    mend=(
        *(*_HUNG.mend, wait(7_000)),
        *(Step(verb, Role.PRIMARY) for verb in (Verb.KILL, Verb.LOSE_DISK, Verb.START)),
    ),
)
"""As ``primary-hung``; the machine that wakes is called by its region for a while, and then lost with its disk."""
WITHOUT_STORE = find("primary-without-store")


class Trusting(OnLab):
    """Callers that believe whatever a machine says, as programs that have just started do: their clients would refuse
    what is too old, and what comes from before the position that they have seen."""

    async def _client(self, url: str, timeout_ms: int = 30_000) -> AsyncClient:
        keys = self._lab.keys
        believing = {"cache_bytes": 0, "bound_ms": 10**9}
        client = Forgetful(url, keys.identity, signer=keys.signer, timeout_ms=timeout_ms, **believing)
        return await self._stack.enter_async_context(client)


class Forgetful(AsyncClient):
    """A client that keeps no position, so that it sends none."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._operations._exchange._attempts._positions = _Nothing()


class _Nothing(dict[bytes, int]):
    def __setitem__(self, journal: bytes, position: int) -> None:
        """Keep nothing."""


def drilled(
    folder: Path,
    drills: Sequence[Drill],
    control: str | None = None,
    *,
    kind: type[OnLab] = OnLab,
    pace: Pace = PACE,
) -> list[tuple[Record, Verdict]]:
    """Run drills on one lab, by the callers of ``kind``; with ``control``, on machines with that rule switched off."""

    async def done() -> list[tuple[Record, Verdict]]:
        program = {} if control is None else {"program": without(control)}
        lab = Lab(folder, REGIONS, CALLERS, isolated=True, settings=SETTINGS, **program)
        async with kind(lab, bound_ms=BOUND_MS) as target:
            ended = []
            for drill in drills:
                record = await Running(drill, target, seed=7, tell=show, pace=pace).run()
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
