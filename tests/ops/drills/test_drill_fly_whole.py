"""A complete drill on Fly: a fake of its API stops and starts real machines behind the stand-in's proxies."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fake_fly import APP, TOKEN, FakeFly
from tests.fake_fly import machine as listed
from tests.ops.drills.lab_drills import BOUND_MS, PACE, SETTINGS, missed, show
from tkdb_client import AsyncClient
from tkdb_ops.drills.catalogue import find
from tkdb_ops.drills.fly_machines import FlyMachines
from tkdb_ops.drills.fly_target import Consent, OnFly
from tkdb_ops.drills.objectives import Objectives
from tkdb_ops.drills.record import Record
from tkdb_ops.drills.run import Running
from tkdb_ops.drills.verdict import Verdict, judge
from tkdb_ops.fly_api import FlyApi
from tkdb_ops.lab.lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run_drill(folder: Path, name: str) -> tuple[Record, Verdict, FakeFly]:
    async def run() -> tuple[Record, Verdict, FakeFly]:
        lab = Lab(folder, ("iad", "ams", "syd"), ("sin",), isolated=True, settings=SETTINGS)
        async with lab:
            loop = asyncio.get_running_loop()

            def act(machine: str, action: str, body: dict[str, Any]) -> None:
                one = lab.machine(machine)
                do = {"start": one.start, "stop": one.kill if body.get("signal") == "SIGKILL" else one.stop}[action]
                asyncio.run_coroutine_threadsafe(do(), loop).result(60)

            machines = lab.flycast.machines
            with FakeFly() as fly:
                fly.machines = [listed(each.id, each.slot.region) for each in machines.values()]
                fly.act = act
                app = FlyMachines(FlyApi.parse({"FLY_API_HOSTNAME": fly.url}, TOKEN), APP, pace_s=0.05)
                client = AsyncClient(lab.url, lab.keys.identity, signer=lab.keys.signer)
                async with OnFly(Consent(APP), app, client, region="sin", bound_ms=BOUND_MS) as target:
                    record = await Running(find(name), target, seed=3, tell=show, pace=PACE).run()
                return record, judge(record, Objectives()), fly

    return asyncio.run(run())


def test_another_machine_takes_over_from_a_killed_primary_and_all_is_restored(folder: Path) -> None:
    record, verdict, fly = run_drill(folder, "primary-killed")
    assert missed(verdict) == set()
    assert fly.actions == [("tkdb-iad-1", "stop"), ("tkdb-iad-1", "start")]
    assert fly.bodies[0]["signal"] == signal.SIGKILL.name
    assert set(fly.states.values()) == {"started"}
    assert verdict.figures.took_over_ms is not None
    assert record.delay.samples > 0
    assert record.audits[0].checked > 0
