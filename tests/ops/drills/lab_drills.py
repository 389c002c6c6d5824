"""Quick drills on real machines: with a short lease and bound, and little load before and after the fault."""

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
"""Half of the usual calls, most of them writes. The probability that a region makes none in 5 s is 1e-5."""
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
"""``primary-hung``, but the resumed machine gets calls of its region for 7 s, and then loses its disk."""
WITHOUT_STORE = find("primary-without-store")


class Trusting(OnLab):
    """A target whose callers believe every answer, as a program does that has just started.

    A client that runs for longer would refuse an answer that is too old, or from before a position that it has seen.
    """

    async def _client(self, url: str, timeout_ms: int = 30_000) -> AsyncClient:
        keys = self._lab.keys
        unlimited = {"cache_bytes": 0, "bound_ms": 10**9}
        client = Forgetful(url, keys.identity, signer=keys.signer, timeout_ms=timeout_ms, **unlimited)
        return await self._stack.enter_async_context(client)


class Forgetful(AsyncClient):
    """A client that remembers no position, and so sends none."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._operations._exchange._attempts._positions = _NoPositions()


class _NoPositions(dict[bytes, int]):
    def __setitem__(self, journal: bytes, position: int) -> None:
        """Drop the position."""


def run_drills(
    folder: Path,
    drills: Sequence[Drill],
    control: str | None = None,
    *,
    kind: type[OnLab] = OnLab,
    pace: Pace = PACE,
) -> list[tuple[Record, Verdict]]:
    """Run drills on one lab with the callers of ``kind``. If ``control`` is given, its rule is off in the machines."""

    async def run() -> list[tuple[Record, Verdict]]:
        program = {} if control is None else {"program": command_without(control)}
        lab = Lab(folder, REGIONS, CALLERS, isolated=True, settings=SETTINGS, **program)
        async with kind(lab, bound_ms=BOUND_MS) as target:
            results = []
            for drill in drills:
                record = await Running(drill, target, seed=7, tell=show, pace=pace).run()
                results.append((record, judge(record, Limits().objectives(drill.name, drill.limits))))
            return results

    return asyncio.run(run())


def show(event: Event) -> None:
    print(f"{event.at_ms / 1000:6.1f} s  {event.what}: {event.text}")  # noqa: T201  pytest shows this if the test fails


def command_without(control: str) -> list[str]:
    """Return a command for `tkdb serve` with one rule off. Test code does this, because production has no switch."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.regions.chaos.controls import main"
    return [sys.executable, "-c", f"{script}; main({control!r})", "serve", "--json"]


def missed(verdict: Verdict) -> set[str]:
    """Return the missed objectives, without those that depend on the load of this machine."""
    return {finding.objective for finding in verdict.findings if finding.objective in ALWAYS and not finding.met}
