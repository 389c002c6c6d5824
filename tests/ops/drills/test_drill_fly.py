"""Drills on Fly touch only machines that the operator consented to, and always restore them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import quick
from tests.fake_fly import APP, TOKEN, FakeFly, machine
from tkdb import api, errors
from tkdb_client import AsyncClient
from tkdb_ops.drills.catalogue import DRILLS, find
from tkdb_ops.drills.drill import Drill, Role, Step, Verb, wait
from tkdb_ops.drills.fly_machines import FlyMachine, FlyMachines
from tkdb_ops.drills.fly_target import Consent, OnFly, can
from tkdb_ops.drills.run import Pace, Running
from tkdb_ops.fly_api import FlyApi

REGIONS = {"m1": "iad", "m2": "ams", "m3": "syd", "idle": "gru"}


@pytest.fixture
def fly() -> Iterator[FakeFly]:
    with FakeFly() as fly:
        fly.machines = [machine(name, region) for name, region in REGIONS.items()]
        fly.update("idle", state="stopped")
        yield fly
    assert fly.unexpected == []


class Authority(AsyncClient):
    """A client that needs no authority: tests set the machine that answers, and the primary."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", "tkdb=" + KEY)
        self.answers, self.primary = "m3", "m1"

    async def status(self) -> api.StatusReport:
        cluster = api.Cluster(7, 100, 12, self.primary, REGIONS[self.primary], 9_000, 100, 100, 5_000)
        role = "primary" if self.answers == self.primary else "replica"
        return api.StatusReport(
            "tkdb", "0.1.0", role, REGIONS[self.answers], self.answers, 1_000, 12, 100, cluster=cluster  # type: ignore[arg-type]
        )  # fmt: skip


KEY = "tkdbpub_vmxTPawo0K6nK126BIS2eBGG9QeDuSc8k5elFXU59WA2l5rst"


def machines(fly: FakeFly, *, app: str = APP, token: str = TOKEN) -> FlyMachines:
    return FlyMachines(FlyApi.parse({"FLY_API_HOSTNAME": fly.url}, token), app, pace_s=0.01)


def with_target(fly: FakeFly, act: Callable[[OnFly], Coroutine[Any, Any, None]], *only: str) -> None:
    """Run ``act`` with the app as a target for drills."""

    async def run() -> None:
        async with OnFly(Consent(APP, only), machines(fly), Authority(), region="sin") as target:
            await act(target)

    asyncio.run(run())


def named(target: OnFly, *names: str) -> list[Any]:
    return [each for each in target.machines if each.id in names]


class TestApi:
    def ask(self, fly: FakeFly, act: Callable[[FlyMachines], Coroutine[Any, Any, Any]], *, token: str = TOKEN) -> Any:
        return asyncio.run(act(machines(fly, token=token)))

    def test_machines_are_listed_with_their_state_and_region(self, fly: FakeFly) -> None:
        found = self.ask(fly, lambda app: app.listed())
        assert found[0] == FlyMachine("m1", "started", "iad")

    @pytest.mark.parametrize("token", [TOKEN, f"FlyV1 {TOKEN}", f"Bearer {TOKEN}"])
    def test_tokens_are_sent_as_flyctl_sends_them(self, fly: FakeFly, token: str) -> None:
        assert len(self.ask(fly, lambda app: app.listed(), token=token)) == 4
        assert {authorization for _, authorization in fly.requests} == {f"FlyV1 {TOKEN}"}

    def test_a_refused_token_is_reported_and_not_shown(self, fly: FakeFly) -> None:
        with pytest.raises(errors.ConfigurationError, match="401") as caught:
            self.ask(fly, lambda app: app.listed(), token="fm2_wrong")
        assert "fm2_wrong" not in str(caught.value)

    def test_stop_and_start_return_once_the_state_is_reached(self, fly: FakeFly) -> None:
        self.ask(fly, lambda app: app.stop("m1"))
        assert (fly.states["m1"], fly.bodies) == ("stopped", [{"signal": "SIGTERM", "timeout": "30s"}])
        self.ask(fly, lambda app: app.start("m1"))
        self.ask(fly, lambda app: app.start("m1"))
        assert fly.actions == [("m1", "stop"), ("m1", "start")]

    @pytest.mark.parametrize("status", [429, 503, 412])
    def test_a_transient_refusal_is_tried_again(self, fly: FakeFly, status: int) -> None:
        fly.refusals = [status, status]
        self.ask(fly, lambda app: app.cordon("m1"))
        assert fly.actions == [("m1", "cordon")] * 3

    def test_a_busy_api_is_unavailable_after_some_attempts(self, fly: FakeFly) -> None:
        fly.refusals = [503] * 10
        with pytest.raises(errors.Unavailable, match="503"):
            self.ask(fly, lambda app: app.cordon("m1"))

    @pytest.mark.parametrize("name", ["", "a/b", "../x", "m1?x", "-m"])
    def test_an_invalid_name_causes_no_request(self, fly: FakeFly, name: str) -> None:
        with pytest.raises(errors.ConfigurationError):
            self.ask(fly, lambda app: app.cordon(name))
        with pytest.raises(errors.ConfigurationError):
            machines(fly, app=name)
        assert fly.actions == []


class TestLimits:
    def test_only_running_machines_are_drilled_on(self, fly: FakeFly) -> None:
        async def act(target: OnFly) -> None:
            assert [each.id for each in target.machines] == ["m1", "m2", "m3"]

        with_target(fly, act)
        assert fly.actions == []

    def test_a_machine_that_was_not_named_is_not_touched(self, fly: FakeFly) -> None:
        async def act(target: OnFly) -> None:
            with pytest.raises(errors.ConfigurationError, match="may not be touched"):
                await target.carry_out(Step(Verb.KILL, Role.NEAREST), named(target, "m3"))
            await target.carry_out(Step(Verb.STOP, Role.PRIMARY), named(target, "m1"))

        with_target(fly, act, "m1")
        assert fly.actions == [("m1", "stop"), ("m1", "start")]

    def test_only_one_machine_is_broken_at_a_time(self, fly: FakeFly) -> None:
        async def act(target: OnFly) -> None:
            await target.carry_out(Step(Verb.CORDON, Role.NEAREST), named(target, "m3"))
            with pytest.raises(errors.ConfigurationError, match="one machine at a time"):
                await target.carry_out(Step(Verb.KILL, Role.PRIMARY), named(target, "m1"))

        with_target(fly, act)
        assert fly.actions == [("m3", "cordon"), ("m3", "uncordon")]

    def test_a_named_machine_must_be_running(self, fly: FakeFly) -> None:
        async def act(target: OnFly) -> None:
            raise AssertionError

        with pytest.raises(errors.ConfigurationError, match="runs no machine idle"):
            with_target(fly, act, "m1", "idle")

    def test_a_single_machine_is_never_broken(self, fly: FakeFly) -> None:
        fly.update("m2", state="stopped")
        fly.update("m3", state="stopped")

        async def act(target: OnFly) -> None:
            raise AssertionError

        with pytest.raises(errors.ConfigurationError, match="callers would be without it"):
            with_target(fly, act)

    def test_drills_that_need_every_machine_or_more_than_the_api_are_not_offered(self) -> None:
        offered = {drill.name for drill in DRILLS if can(drill)}
        assert offered >= {"primary-killed", "nearest-lost", "nearest-cordoned", "rolling-deploy", "restored"}
        assert not offered & {"all-down", "cold-start", "split-brain", "disk-full", "machine-hung"}

    def test_an_unsupported_drill_is_refused_before_a_machine_is_touched(self, fly: FakeFly) -> None:
        async def act(target: OnFly) -> None:
            with pytest.raises(errors.ConfigurationError, match="split-brain can't be run on fly acme-tkdb"):
                Running(find("split-brain"), target, seed=1, tell=lambda event: None)

        with_target(fly, act)


class TestRestoring:
    def test_a_machine_is_restored_after_an_error(self, fly: FakeFly) -> None:
        async def act(target: OnFly) -> None:
            await target.carry_out(Step(Verb.KILL, Role.NEAREST), named(target, "m3"))
            raise errors.Unavailable("the drill broke")

        with pytest.raises(errors.Unavailable, match="the drill broke"):
            with_target(fly, act)
        assert (fly.states["m3"], fly.bodies[0]["signal"]) == ("started", "SIGKILL")

    def test_a_machine_is_restored_after_a_lost_answer(self, fly: FakeFly) -> None:
        def lose_answer(machine: str, action: str, body: dict[str, Any]) -> None:
            if action == "stop":
                fly.update(machine, state="stopped")
                raise ConnectionAbortedError

        fly.act = lose_answer

        async def act(target: OnFly) -> None:
            with pytest.raises(errors.Unavailable):
                await target.carry_out(Step(Verb.STOP, Role.NEAREST), named(target, "m3"))

        with_target(fly, act)
        assert fly.states["m3"] == "started"

    def test_an_error_gives_the_command_if_a_machine_can_not_be_restored(self, fly: FakeFly) -> None:
        async def act(target: OnFly) -> None:
            await target.carry_out(Step(Verb.STOP, Role.NEAREST), named(target, "m3"))
            fly.refusals = [403] * 100

        with pytest.raises(errors.Unavailable, match="fly machine start m3 --app acme-tkdb"):
            with_target(fly, act)

    def test_a_cancelled_drill_restores_every_machine(self, fly: FakeFly) -> None:
        class WithoutLoad(Running):
            """A run without load, because there is no authority."""

            def _new_load(self) -> Any:
                return NoLoad()

        drill = Drill("gone", "…", "….", fault=(Step(Verb.KILL, Role.NEAREST), wait(600_000)))

        async def act(target: OnFly) -> None:
            running = WithoutLoad(drill, target, seed=1, tell=lambda event: None, pace=Pace(0, 0))
            task = asyncio.create_task(running.run())
            while fly.states["m3"] != "stopped":  # noqa: ASYNC110  the server runs in another thread
                await asyncio.sleep(0.01)
            task.cancel()
            task.cancel()  # An impatient operator cancels twice.
            with pytest.raises(asyncio.CancelledError):
                await task
            assert fly.states["m3"] == "started"

        with_target(fly, act)
        assert fly.actions == [("m3", "stop"), ("m3", "start")]


class NoLoad:
    """A load that makes no calls."""

    calls: tuple[()] = ()
    writes: tuple[()] = ()
    organization = "none"
    acknowledged_ms = -1
    held_back = 0

    async def prepare(self) -> None: ...

    def start(self) -> None: ...

    async def stop(self) -> None: ...


ENV = {"FLY_API_TOKEN": TOKEN, "TKDB_URL": "http://127.0.0.1:9", "TKDB_AUTHORITY": "tkdb=" + KEY}


class TestCommand:
    @pytest.mark.parametrize(
        "options", [(), ("--app", APP), ("--app", APP, "--i-consent-to-break", "other"), ("--i-consent-to-break", APP)]
    )
    def test_without_consent_no_request_is_sent_to_fly(self, fly: FakeFly, options: tuple[str, ...]) -> None:
        ran = quick("drill", "run", "nearest-lost", "--target", "fly", *options, env=ENV)
        assert (ran.code, "--i-consent-to-break" in ran.err) == (2, True)
        assert fly.actions == []

    def test_without_a_token_the_error_names_the_variable(self) -> None:
        env = ENV | {"FLY_API_TOKEN": ""}
        options = ("--app", APP, "--i-consent-to-break", APP)
        ran = quick("drill", "run", "nearest-lost", "--target", "fly", *options, env=env)
        assert (ran.code, "FLY_API_TOKEN" in ran.err) == (2, True)

    @pytest.mark.parametrize("variable", ["FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL"])
    def test_the_token_is_never_sent_in_the_clear(self, variable: str) -> None:
        env = ENV | {variable: "http://api.example.com"}
        options = ("--app", APP, "--i-consent-to-break", APP)
        ran = quick("drill", "run", "nearest-lost", "--target", "fly", *options, env=env)
        assert (ran.code, "unencrypted" in ran.err, TOKEN in ran.err + ran.out) == (2, True, False)

    def test_the_token_may_come_from_a_file(self, fly: FakeFly, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(TOKEN)
        env = ENV | {"FLY_API_TOKEN": "", "FLY_API_TOKEN_FILE": str(tmp_path / "token"), "FLY_API_HOSTNAME": fly.url}
        for name in ("m2", "m3"):
            fly.update(name, state="stopped")
        options = ("--app", APP, "--i-consent-to-break", APP)
        ran = quick("drill", "run", "nearest-lost", "--target", "fly", *options, env=env)
        assert (ran.code, "callers would be without it" in ran.err) == (2, True)
        assert [authorization for _, authorization in fly.requests] == [f"FlyV1 {TOKEN}"]
