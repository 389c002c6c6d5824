"""Real Fly as a target of drills: the machines of one app, changed through the Machines API after explicit consent.

A drill touches only machines of that app that ran when the drill began. If names are given, it touches only the named
machines. At most one machine is out at a time, and everything is restored at the end.

Calls come from the machine that runs the drill, through the app's address. Machines can be reached only through the
proxy, so the final check asks the machine that the proxy chooses.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Self

import msgspec

from tkdb import defaults, errors
from tkdb_client import AsyncClient, Macaroon
from tkdb_ops.drills.audit import ask
from tkdb_ops.drills.drill import Drill, Role, Step, Verb
from tkdb_ops.drills.fly_machines import FlyMachines
from tkdb_ops.drills.operator import ERRANDS
from tkdb_ops.drills.record import Audit, MachineRecord, Observation
from tkdb_ops.fly_api import FlyApi
from tkdb_ops.opening import AsyncResource

VERBS: Final = frozenset({Verb.KILL, Verb.STOP, Verb.START, Verb.CORDON, Verb.UNCORDON})

_READY_S: Final = 180.0
_LOOKS_S: Final = 1.0
_LIST_S: Final = 2.0


class Consent(msgspec.Struct, frozen=True):
    """The operator's consent to faults on the machines of ``app``; on ``only`` these machines, if any are named."""

    app: str
    only: tuple[str, ...] = ()


class OnFly(AsyncResource):
    """An app on Fly to run drills on.

    Args:
        consent: the operator's consent.
        fly: the app's machines in Fly's API.
        client: a client with a signer that may use every method.
        region: the region in which the drill runs.
        bound_ms: the published bound on staleness.
    """

    def __init__(
        self, consent: Consent, fly: FlyMachines, client: AsyncClient, *, region: str, bound_ms: int = defaults.BOUND_MS
    ) -> None:
        self.name = f"fly {consent.app}"
        self.bound_ms = bound_ms
        self.verbs = VERBS
        self.machines: tuple[MachineRecord, ...] = ()
        self.clients: dict[str, AsyncClient] = {region: client}
        self._consent = consent
        self._fly = fly
        self._client = client
        self._stopped: set[str] = set()
        self._cordoned: set[str] = set()
        self._states: dict[str, str] = {}
        self._listed_s = 0.0

    @classmethod
    def from_environment(cls, consent: Consent, token: str) -> Self:
        """Return a target from the environment and a token for Fly's API.

        ``TKDB_URL``, ``TKDB_AUTHORITY`` and ``TKDB_SIGNER`` are read as for every client. ``FlyApi.parse`` reads the
        API's URL.

        Raises:
            ConfigurationError: a value is missing, or can't be used.
        """
        fly = FlyMachines(FlyApi.parse(os.environ, token), consent.app)
        bound_ms = int(os.environ.get("TKDB_BOUND_MS") or defaults.BOUND_MS)
        client = AsyncClient(bound_ms=bound_ms)
        return cls(consent, fly, client, region=os.environ.get("FLY_REGION") or "here", bound_ms=bound_ms)

    async def ready(self) -> None:
        await self.put_back()
        give_up_s = time.monotonic() + _READY_S
        while True:
            with suppress(errors.Unavailable):
                sights = await self.sights(0)
                if {each.health for each in sights} == {"ok"} and any(each.role == "primary" for each in sights):
                    return
            if time.monotonic() > give_up_s:
                raise errors.Unavailable(
                    f"{self._consent.app} isn't healthy: every machine must run, and one must be primary",
                    hint="see `fly machine list` and `tkdb status`",
                )
            await asyncio.sleep(_LOOKS_S)

    async def sights(self, at_ms: int) -> list[Observation]:
        """Return Fly's state of each machine, together with the primary that the answering machine reports."""
        if time.monotonic() - self._listed_s > _LIST_S:
            self._listed_s = time.monotonic()
            self._states = {each.id: each.state for each in await self._fly.listed()}
        report = await self._client.status()
        cluster = report.cluster
        found = []
        for machine in self.machines:
            health = "ok" if self._states.get(machine.id) == "started" else "down"
            leads = cluster is not None and cluster.primary == machine.id and health == "ok"
            own = report if report.machine == machine.id else None
            found.append(
                Observation(
                    at_ms, machine.id, "faulty" if own and own.fault else health,
                    ("primary" if leads else "replica") if health == "ok" else "",
                    own.position if own else None,
                    cluster.epoch if cluster and leads else None,
                    own.age_ms if own else None,
                    own.fault if own else "",
                )
            )  # fmt: skip
        return found

    async def carry_out(self, step: Step, machines: Sequence[MachineRecord]) -> str:
        for machine in machines:
            self._check(machine.id, step.verb)
            await self._do(step.verb, machine.id)
        return f"{_SAID[step.verb]}: {', '.join(machine.id for machine in machines)}"

    async def put_back(self) -> None:
        """Start the stopped machines and uncordon the cordoned ones. Try all of them before an error is raised.

        Raises:
            Unavailable: a machine couldn't be restored. The hint contains the commands to do it by hand.
        """
        out = [(Verb.START, name) for name in sorted(self._stopped)]
        out += [(Verb.UNCORDON, name) for name in sorted(self._cordoned)]
        left = [(verb, name) for verb, name in out if not await self._mended(verb, name)]
        if left:
            by_hand = "; ".join(f"fly machine {verb} {name} --app {self._consent.app}" for verb, name in left)
            raise errors.Unavailable("not every machine could be restored", hint=by_hand)

    async def audit(
        self, dead: Mapping[int, Macaroon], organizations: Sequence[str], patience_s: float
    ) -> tuple[Audit, ...]:
        machine = "the answering machine"
        with suppress(errors.TkdbError):
            machine = (await self._client.status()).machine
        return (await ask(machine, self._client, dead, organizations, patience_s),)

    async def _open(self) -> None:
        await self._stack.enter_async_context(self._client)
        running = [each for each in await self._fly.listed() if each.state == "started"]
        self.machines = tuple(MachineRecord(each.id, each.region) for each in running)
        if strange := set(self._consent.only) - {each.id for each in running}:
            raise errors.ConfigurationError(
                f"{self._consent.app} runs no machine {', '.join(sorted(strange))}", hint="see `fly machine list`"
            )
        if len(running) < 2:
            raise errors.ConfigurationError(
                f"{self._consent.app} runs {len(running)} machine, and callers would be without it during a drill",
                hint="run drills on an app with at least two running machines",
            )
        self._stack.push_async_callback(self.put_back)

    def _check(self, name: str, verb: Verb) -> None:
        """Refuse an action that the consent doesn't cover.

        Raises:
            ConfigurationError: the machine may not be touched, or another machine is out.
        """
        if verb in (Verb.START, Verb.UNCORDON):
            return
        if self._consent.only and name not in self._consent.only:
            raise errors.ConfigurationError(
                f"the drill would {verb} {name}, which may not be touched", hint="add it to --only"
            )
        others = (self._stopped | self._cordoned) - {name}
        if others:
            raise errors.ConfigurationError(
                f"the drill would {verb} {name} while {', '.join(sorted(others))} is out",
                hint="use a drill that takes out one machine at a time",
            )

    async def _do(self, verb: Verb, name: str) -> None:
        match verb:
            case Verb.KILL | Verb.STOP:
                # Recorded before the request, so that the machine is started again whatever the request's outcome.
                self._stopped.add(name)
                await self._fly.stop(name, number="SIGKILL" if verb is Verb.KILL else "SIGTERM")
            case Verb.START:
                await self._fly.start(name)
                self._stopped.discard(name)
            case Verb.CORDON:
                self._cordoned.add(name)
                await self._fly.cordon(name)
            case _:
                await self._fly.uncordon(name)
                self._cordoned.discard(name)

    async def _mended(self, verb: Verb, name: str) -> bool:
        try:
            await self._do(verb, name)
        except errors.TkdbError:
            return False
        return True


_SAID: Final = {
    Verb.KILL: "killed, and not started again",
    Verb.STOP: "stopped",
    Verb.START: "started",
    Verb.CORDON: "cordoned",
    Verb.UNCORDON: "uncordoned",
}


def can(drill: Drill) -> bool:
    """Return True if a drill can run on Fly: its API can carry out the actions, with one machine out at a time."""
    steps = (*drill.fault, *drill.mend)
    return drill.verbs <= VERBS | ERRANDS and all(step.at is not Role.EVERY for step in steps)
