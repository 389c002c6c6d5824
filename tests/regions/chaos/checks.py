"""The final checks: after all faults and writes have ended, every machine must answer correctly."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from tests.regions.chaos import monitor as monitoring
from tests.regions.chaos.callers import Population, Sender, now_ms
from tests.regions.chaos.machine import Machine
from tests.regions.chaos.monitor import HEAL_MS, Monitor, Row, Stop
from tests.regions.cluster import Cluster
from tkdb import api

_ASK_MS: Final = 5_000
_BATCH: Final = 100
_ALARMS: Final = ('"head refused"', '"journal damaged"', '"unforeseen"', '"unhandled"', "Traceback (most recent")

R = TypeVar("R")


class Checks:
    """Checks every machine for all acknowledged writes.

    Args:
        sender: the sender of requests to the machines.
        cluster: the cluster, whose operator audits the databases.
        machines: the machines by name.
        population: the organizations and tokens that must exist.
        monitor: the monitor that records violations.
    """

    def __init__(
        self,
        sender: Sender,
        cluster: Cluster,
        machines: Mapping[str, Machine],
        population: Population,
        monitor: Monitor,
    ) -> None:
        self._sender = sender
        self._cluster = cluster
        self._machines = machines
        self._population = population
        self._monitor = monitor

    async def run(self) -> None:
        """Check everything.

        Raises:
            Stop: a machine doesn't answer.
        """
        for machine in self._machines.values():
            await self._check_tokens(machine)
            await self._check_organizations(machine)
        self._monitor.check_journals({name: _rows(machine.database) for name, machine in self._machines.items()})
        for name, machine in self._machines.items():
            try:
                await asyncio.to_thread(self._cluster.run, "audit", "verify", str(machine.database))
            except AssertionError as error:
                self._monitor.flag(monitoring.UNAUDITED, f"{name}: {error}")
            for alarm in _alarms(machine.node.log):
                self._monitor.flag(monitoring.ALARM, f"{name}: {alarm}")

    async def _check_tokens(self, machine: Machine) -> None:
        cases = [*self._population.revoked, *self._population.live]
        for first in range(0, len(cases), _BATCH):
            batch = cases[first : first + _BATCH]
            verified = await self._call(machine, api.VERIFY, api.Verify([case.text for case in batch]))
            self._monitor.check_final_results(machine.name, batch, verified.results)

    async def _check_organizations(self, machine: Machine) -> None:
        generations: dict[str, int] = {}
        page = api.Organizations([], more=True)
        while page.more:
            after = page.organizations[-1].name if page.organizations else ""
            page = await self._call(machine, api.SIGN, api.ListOrganizations(after=after))
            generations |= {each.name: each.keys[0].generation for each in page.organizations}
        first = min(generations.values(), default=0)
        for name, rotations in self._population.organizations.items():
            if name not in generations:
                self._monitor.flag(monitoring.LOST, f"{machine.name} has lost the organization {name}")
                continue
            found = generations[name] - first
            if found != rotations:
                kind = monitoring.TWICE if found > rotations else monitoring.LOST
                self._monitor.flag(
                    kind,
                    f"{machine.name}: {name} has {found} rotations instead of {rotations}",
                )

    async def _call(self, machine: Machine, path: str, call: api.Call[R]) -> R:
        """Repeat the call, with the position of the last write, until there is a result."""
        position = max((write.position for write in self._monitor.writes), default=0)
        give_up_ms = now_ms() + HEAL_MS
        while True:
            reply = await self._sender.send(machine, path, call, timeout_ms=_ASK_MS, position=position)
            if reply.error is None:
                result: R = reply.result
                return result
            if now_ms() > give_up_ms:
                self._monitor.flag(monitoring.STUCK, f"{machine.name} still answers: {reply.error}")
                raise Stop
            await asyncio.sleep(0.2)


def _rows(database: Path) -> list[Row]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT seq, hash, epoch, request_id FROM journal ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [Row(*row) for row in rows]


def _alarms(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line[:300] for line in lines if any(alarm in line for alarm in _ALARMS)]
