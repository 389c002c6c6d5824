"""Recovery to a point in time: it undoes later creations and settings, but no revocation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from tests import profiles
from tests.authority.test_authority_journal import check_signature
from tests.authority.test_authority_machine import MAX_LIFETIME_S, RandomHistories, Token, picks
from tests.authority.world import BOTH_RING, DAY_S, HOUR_S, NEW_RING, START_MS, World, branch, lineage, run
from tkdb import api, errors
from tkdb.authority import decisions
from tkdb.database.audit import audit
from tkdb.database.database import Database
from tkdb.journal.state import State
from tkdb.macaroon.caveats import Act, Exp, Sub


async def _state_at(world: World, seq: int) -> State:
    """Return the state after entry ``seq``, with its revocations."""
    state = State()
    for entry in await world.authority._served.database.entries(0, seq):
        state.apply(entry)
    return state


def _states(keys: list[api.Key]) -> list[str]:
    return [key.state for key in keys]


def test_a_restore_undoes_later_organizations_keys_and_settings() -> None:
    async def test(world: World) -> None:
        old, position = await world.mint(expires_in_s=DAY_S), world.position
        await world.create("late")
        late = await world.mint("late")
        await world.ask(api.RotateKey("acme"))
        since = await world.mint()
        await world.ask(api.ConfigureOrganization("acme", 60))
        restored = await world.ask(api.Restore(seq=position))
        assert restored == api.Restored(seq=position, changed=5)  # acme's maximum, the organization, three keys
        assert [await world.outcome(token) for token in (old, since, late)] == ["valid", "unknown key", "unknown key"]
        assert _states(await world.keys()) == ["retired", "signing"]
        assert (await world.mint(expires_in_s=DAY_S)).kid == old.kid
        with pytest.raises(errors.NotFound):
            await world.mint("late")
        with pytest.raises(errors.Conflict, match="or did"):
            await world.create("late")

    run(test)


def test_a_restore_undoes_no_revocation() -> None:
    async def test(world: World) -> None:
        await world.create("gone")
        tokens = [await world.mint("acme", *([Sub("ann")] if at == 3 else [])) for at in range(4)]
        child, gone = tokens[1].narrow(Act("r")), await world.mint("gone")
        evil = await world.mint("evil")
        position = world.position
        await world.revoke(lineage(tokens[0]), branch(child), api.Before("acme", subject="ann"))
        await world.revoke_own(tokens[2])
        await world.revoke(api.RetireKey(evil.kid))
        await world.ask(api.DeleteOrganization("gone"))
        ended = [tokens[0], child, tokens[2], tokens[3], evil, gone]
        denials = [await world.outcome(token) for token in ended]
        assert "valid" not in denials
        await world.ask(api.Restore(seq=position))
        assert [await world.outcome(token) for token in ended] == denials
        assert await world.outcome(tokens[1]) == "valid"
        # The negative control: a machine that serves the earlier state accepts every one of them.
        world.authority._served.replace(await _state_at(world, position))
        assert {await world.outcome(token) for token in ended} == {"valid"}

    run(test)


def test_a_restore_keeps_the_replacement_of_a_retired_key() -> None:
    async def test(world: World) -> None:
        old, position = await world.mint(), world.position
        await world.revoke(api.RetireKey(old.kid))
        new = await world.mint()
        assert await world.ask(api.Restore(seq=position)) == api.Restored(position, changed=0)
        assert (await world.outcome(old), await world.outcome(new)) == ("unknown key", "valid")

    run(test)


def test_a_key_that_signs_again_after_a_restore_is_kept_until_its_last_token_has_expired() -> None:
    async def test(world: World) -> None:
        first, position = await world.mint(), world.position
        await world.ask(api.RotateKey("acme"))
        until_ms = (await world.keys())[1].until_ms
        world.advance(until_ms - world.wall_ms + 1)
        # The key has expired, and no purge has run yet.
        await world.ask(api.Restore(seq=position))
        again = await world.mint(expires_in_s=DAY_S)
        assert again.kid == first.kid
        await world.ask(api.RotateKey("acme"))
        await world.authority._writer.purge()
        assert await world.outcome(again) == "valid"

    run(test)


def test_a_restore_without_differences_writes_nothing() -> None:
    async def test(world: World) -> None:
        token, position = await world.mint(), world.position
        await world.revoke(lineage(token))
        for seq in (position, world.position):
            assert await world.ask(api.Restore(seq=seq)) == api.Restored(seq, changed=0)
        assert world.position == position + 1

    run(test)


def test_a_repeated_restore_request_is_carried_out_once() -> None:
    async def test(world: World) -> None:
        position, request_id = world.position, bytes(16)
        await world.ask(api.RotateKey("acme"))
        first = await world.ask(api.Restore(seq=position), "root", request_id)
        await world.ask(api.RotateKey("acme"))
        assert await world.ask(api.Restore(seq=position), "root", request_id) == first == api.Restored(position, 2)
        assert _states(await world.keys()) == ["signing", "retired", "verifying"]

    run(test)


def test_a_restore_to_a_time_selects_the_last_entry_up_to_it() -> None:
    async def test(world: World) -> None:
        world.advance(1000)
        await world.create("kept")
        at_ms, position = world.wall_ms, world.position
        world.advance(1)
        await world.create("late")
        assert await world.ask(api.Restore(at_ms=at_ms)) == api.Restored(position, changed=2)
        assert [row.name for row in (await world.ask(api.ListOrganizations())).organizations] == [
            "acme",
            "evil",
            "kept",
        ]

    run(test)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (api.Restore(), "one entry"),
        (api.Restore(seq=1, at_ms=START_MS), "one entry"),
        (api.Restore(seq=0), "no entry 0"),
        (api.Restore(seq=4), "no entry 4"),
        (api.Restore(at_ms=START_MS - 1), "began after"),
        (api.Restore(at_ms=START_MS), "there is no entry after"),
        (api.Restore(at_ms=2**53 - 1), "there is no entry after"),
    ],
)
def test_a_restore_that_names_no_earlier_entry_is_refused(call: api.Restore, why: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(errors.InvalidRequest, match=why) as caught:
            await world.ask(call)
        assert caught.value.hint
        assert world.position == 3

    run(test)


def test_a_restore_needs_the_permission_for_all_organizations() -> None:
    async def test(world: World) -> None:
        for signer in ("acme", "minter", "revoker", "administrator", "resealer"):
            with pytest.raises(errors.NotPermitted, match="restore for all organizations"):
                await world.ask(api.Restore(seq=999), signer)
        with pytest.raises(errors.NotPermitted, match="takes a signer"):
            await world.ask(api.Restore(seq=1), None)

    run(test)


def test_concurrent_writes_come_before_or_after_a_restore() -> None:
    async def test(world: World) -> None:
        token, position = await world.mint(), world.position
        results = await asyncio.gather(
            world.create("late"),
            world.ask(api.Restore(seq=position)),
            world.revoke(lineage(token)),
            world.ask(api.RotateKey("evil")),
            world.ask(api.Restore(seq=position)),
            return_exceptions=True,
        )
        assert not [result for result in results if isinstance(result, BaseException)]
        assert await world.outcome(token) == "revoked"
        await world.ask(api.Restore(seq=position))
        names = [row.name for row in (await world.ask(api.ListOrganizations())).organizations]
        assert names == ["acme", "evil"]
        assert _states(await world.keys("evil")).count("signing") == 1

    run(test)


def test_keys_that_a_restore_retires_are_in_the_feed() -> None:
    async def test(world: World) -> None:
        old, position = await world.mint(), world.position
        await world.create("late")
        await world.ask(api.RotateKey("acme"))
        new, late, other = await world.mint(), await world.mint("late"), await world.mint("evil")
        start = world.position
        await world.ask(api.Restore(seq=position))
        for _ in range(2):
            feed = await world.feed(old.kid, new.kid, late.kid, other.kid, after=start)
            assert {retired.kid for retired in feed.revocations} == {new.kid, late.kid}
            assert (await world.feed(old.kid, after=start)).revocations == []
            world.authority._served.feed.restart()  # the second read comes from the journal, not from memory

    run(test)


def test_a_restore_too_large_for_one_entry_can_be_done_in_steps(monkeypatch: Any) -> None:
    async def test(world: World) -> None:
        position = world.position
        for at in range(4):
            await world.create(f"late{at}")
        monkeypatch.setattr(decisions, "MAX_MADE_BYTES", 80)
        with pytest.raises(errors.InvalidRequest, match="8 organizations and keys differ") as caught:
            await world.ask(api.Restore(seq=position))
        assert "later entry first" in caught.value.hint
        await world.ask(api.Restore(seq=position + 2))
        monkeypatch.setattr(decisions, "MAX_MADE_BYTES", 20)
        with pytest.raises(errors.InvalidRequest, match="4 organizations and keys differ"):
            await world.ask(api.Restore(seq=position))
        monkeypatch.setattr(decisions, "MAX_MADE_BYTES", 60_000)
        await world.ask(api.Restore(seq=position))
        assert len((await world.ask(api.ListOrganizations())).organizations) == 2

    run(test)


def test_a_restore_does_not_undo_resealing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        token, position = await world.mint(), world.position
        await world.ask(api.RotateKey("acme"))
        await world.restart(seal_keys=BOTH_RING)
        await world.ask(api.Reseal())
        await world.ask(api.Restore(seq=position))
        await world.restart(seal_keys=NEW_RING)
        assert await world.outcome(token) == "valid"
        assert (await world.mint()).kid == token.kid

    run(test, tmp_path / "tkdb.db")


def test_a_restore_brings_back_no_purged_key_or_revocation() -> None:
    async def test(world: World) -> None:
        token, position = await world.mint(expires_in_s=HOUR_S), world.position
        await world.revoke(lineage(token))
        await world.ask(api.RotateKey("acme"))
        world.advance(200 * DAY_S * 1000)
        await world.authority._writer.purge()
        await world.ask(api.RotateKey("acme"))
        await world.ask(api.Restore(seq=position))
        assert _states(await world.keys()) == ["signing", "retired", "retired"]
        assert world.authority._state.revoked == {}
        assert await world.outcome(token) == "unknown key"

    run(test)


LATE = ("late", "later")
Shape = dict[str, tuple[int, dict[bytes, str]]]
"""The data that a restore compares: for each live organization its maximum, and its keys' states, newest first."""


class RandomRestores(RandomHistories):
    """Random histories with later organizations, and with any number of restores to any earlier entry."""

    @rule(name=st.sampled_from(LATE))
    def create(self, name: str) -> None:
        try:
            self.do(self.world.create(name))
        except errors.Conflict:
            return
        minted = self.do(self.world.mint(name))
        [end] = [caveat.at_s for caveat in minted.caveats if isinstance(caveat, Exp)]
        self.model.tokens.append(Token(minted, name, None, end * 1000, frozenset({minted.branch})))

    def shape(self) -> Shape:
        state = self.world.authority._state
        return {
            row.name: (row.max_lifetime_s, {key.kid: key.state for key in state.keys_of(row.name)})
            for row in state.live()
        }

    @precondition(lambda self: self.shapes)
    @rule(number=picks, by_time=st.booleans())
    def restore(self, number: int, by_time: bool) -> None:
        seq = sorted(self.shapes)[number % len(self.shapes)]
        now, position = self.shape(), self.world.position
        call = api.Restore(seq=seq)
        if by_time and seq < position:
            [entry] = self.do(self.world.authority._served.database.entries(seq - 1, 1))
            [after] = self.do(self.world.authority._served.database.entries(seq, 1))
            if entry.time_ms < after.time_ms:
                call = api.Restore(at_ms=after.time_ms - 1)
        restored = self.do(self.world.ask(call))
        expected = self.undone(self.shapes[seq], now)
        assert self.shape() == expected
        assert restored.seq == seq
        assert (restored.changed > 0) == (self.world.position > position) == (expected != now)

    def undone(self, then: Shape, now: Shape) -> Shape:
        """Return the expected shape, and mark the tokens in the model that the restore revokes."""
        expected: Shape = {}
        for name, (_, keys) in now.items():
            if name not in then:
                self.model.deleted.add(name)
                self.model.revoke(organization=name)
                continue
            maximum_s, keys_then = then[name]
            signed = next(kid for kid, state in keys_then.items() if state == "signing")
            kept = keys[signed] != "retired"
            after = {}
            for kid, state in keys.items():
                if kept and kid == signed:
                    state = "signing"
                elif kid not in keys_then and (kept or state != "signing"):
                    state = "retired"
                    self.model.revoke(kid=kid)
                after[kid] = state
            expected[name] = (maximum_s, after)
        return expected

    @property
    def shapes(self) -> dict[int, Shape]:
        """The shape after the last entry of each rule, by position."""
        return self.__dict__.setdefault("_shapes", {})

    @invariant()
    def each_live_organization_signs_only_with_its_newest_live_key(self) -> None:
        if not getattr(self, "model", None):
            return
        shape = self.shape()
        for _, keys in shape.values():
            live = [state for state in keys.values() if state != "retired"]
            assert live[0] == "signing"
            assert live.count("signing") == 1
        self.shapes[self.world.position] = shape

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.do(self._check_journal())
        super().teardown()

    async def _check_journal(self) -> None:
        """Check that the tables match the journal, and that every entry of a signer is signed."""
        async with await Database.open(self.world.path, read_only=True) as database:
            await audit(database, BOTH_RING, check_signature)
            state, served = await database.load(), self.world.authority._state
            assert (state.organizations, state.keys) == (served.organizations, served.keys)


RandomRestores.TestCase.settings = settings(
    max_examples=profiles.CURRENT.lives, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRandomRestores = RandomRestores.TestCase


class ForgetfulRestores(RandomRestores):
    """The negative control: a restore that also undoes revocations."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.mint("acme", None, MAX_LIFETIME_S)
        self.shapes[self.world.position] = self.shape()
        self.revoke(0, True)

    def undone(self, then: Shape, now: Shape) -> Shape:
        expected = super().undone(then, now)
        seq = next(seq for seq, shape in self.shapes.items() if shape is then)
        self.world.authority._state.revoked = self.do(_state_at(self.world, seq)).revoked
        return expected

    def teardown(self) -> None:
        RandomHistories.teardown(self)


def test_a_restore_that_forgets_revocations_is_detected() -> None:
    bounded = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    with pytest.raises(AssertionError, match="Valid"):
        run_state_machine_as_test(ForgetfulRestores, settings=bounded)
