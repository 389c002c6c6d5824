"""A machine with a wrong clock neither mints nor dates, but continues to verify and to revoke named targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.authority.world import SKEW_MS, World, lineage, run
from tkdb import api, errors

HOUR_MS = 3_600_000


@pytest.mark.parametrize("step_ms", [SKEW_MS + 1, HOUR_MS, -SKEW_MS - 1, -HOUR_MS])
def test_a_clock_jump_stops_minting_and_dating_but_not_verification(step_ms: int) -> None:
    async def test(world: World) -> None:
        token, revoked = await world.mint(), await world.mint()
        await world.revoke(lineage(revoked))
        world.advance(2 * HOUR_MS)
        position = world.position
        world.step_clock(step_ms)
        for call in (
            api.Mint("acme"),
            api.Revoke([api.Before("acme")]),
            api.RotateKey("acme"),
        ):
            with pytest.raises(errors.Unavailable, match=rf"clock jumped by {step_ms / 1000:.0f} s") as caught:
                await world.ask(call)
            assert "restart" in caught.value.hint
        assert world.position == position
        assert (await world.outcome(token), await world.outcome(revoked)) == ("valid", "revoked")
        world.authority.ready()
        # Once the clock is right again, the machine trusts it again.
        world.step_clock(-step_ms)
        await world.ask(api.RotateKey("acme"))

    run(test)


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
def test_named_targets_can_be_revoked_after_a_clock_jump(step_ms: int) -> None:
    async def test(world: World) -> None:
        world.advance(2 * HOUR_MS)
        leaked, stolen = await world.mint(), await world.mint()
        world.step_clock(step_ms)
        await world.revoke(lineage(leaked))
        await world.ask(api.RevokeOwn(stolen.text), None)
        assert (await world.outcome(leaked), await world.outcome(stolen)) == ("revoked", "revoked")
        times = [entry.time_ms for entry in await world.authority._served.database.entries(0, 100)]
        assert times == sorted(times)
        assert times[-1] == world.wall_ms - step_ms

    run(test)


def test_small_clock_steps_in_quick_succession_count_as_a_jump() -> None:
    async def test(world: World) -> None:
        world.step_clock(SKEW_MS * 3 // 4)
        await world.mint()
        world.step_clock(SKEW_MS * 3 // 4)
        with pytest.raises(errors.Unavailable, match="clock jumped by 30 s"):
            await world.mint()

    run(test)


def test_small_clock_corrections_over_time_never_count_as_a_jump() -> None:
    async def test(world: World) -> None:
        for _ in range(40):
            world.advance(60_000)
            world.step_clock(-1_000)
            await world.mint()
        for _ in range(40):
            world.advance(60_000)
            world.step_clock(1_000)
            await world.ask(api.RotateKey("acme"))

    run(test)


def test_a_machine_whose_clock_is_behind_the_journal_refuses_writes_until_it_catches_up(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        world.advance(HOUR_MS)
        await world.ask(api.RotateKey("acme"))
        world.step_clock(-HOUR_MS)
        await world.restart()
        for call in (api.Mint("acme"), api.RotateKey("acme")):
            with pytest.raises(errors.Unavailable, match="3600 s behind the journal") as caught:
                await world.ask(call)
            assert caught.value.hint
        assert await world.outcome(token) == "valid"
        world.advance(HOUR_MS - SKEW_MS)
        await world.ask(api.RotateKey("acme"))

    run(test, tmp_path / "tkdb.db")


def test_the_times_of_journal_entries_never_decrease() -> None:
    async def test(world: World) -> None:
        for step_ms in (5_000, -9_000, 3_000, -9_000, 18_000):
            world.step_clock(step_ms)
            await world.ask(api.RotateKey("acme"))
        times = [entry.time_ms for entry in await world.authority._served.database.entries(0, 100)]
        assert times == sorted(times)
        assert times[-1] == world.wall_ms

    run(test)
