"""Recovery to a point in time: what was made since is undone, what was ended since is not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from tests import profiles
from tests.authority.test_authority_journal import by_signature
from tests.authority.test_authority_machine import MAX_LIFETIME_S, Lives, Token, picks
from tests.authority.world import BOTH_RING, DAY_S, HOUR_S, NEW_RING, START_MS, World, branch, lineage, run
from tkdb import api, errors
from tkdb.authority import decisions
from tkdb.database.audit import audit
from tkdb.database.database import Database
from tkdb.journal.state import State
from tkdb.macaroon.caveats import Act, Exp, Sub


async def _folded(world: World, seq: int) -> State:
    """Return all that entry ``seq`` left, revocations too."""
    state = State()
    for entry in await world.authority._served.database.entries(0, seq):
        state.apply(entry)
    return state


def _states(keys: list[api.Key]) -> list[str]:
    return [key.state for key in keys]


def test_what_was_made_since_is_undone() -> None:
    async def test(world: World) -> None:
        old, position = await world.mint(expires_in_s=DAY_S), world.position
        await world.create("late")
        late = await world.mint("late")
        await world.ask(api.RotateKey("acme"))
        since = await world.mint()
        await world.ask(api.ConfigureOrganization("acme", 60))
        restored = await world.ask(api.Restore(seq=position))
        assert restored == api.Restored(seq=position, changed=5)  # acme's maximum, late, three keys
        assert [await world.outcome(token) for token in (old, since, late)] == ["valid", "unknown key", "unknown key"]
        assert _states(await world.keys()) == ["retired", "signing"]
        assert (await world.mint(expires_in_s=DAY_S)).kid == old.kid
        with pytest.raises(errors.NotFound):
            await world.mint("late")
        with pytest.raises(errors.Conflict, match="or did"):
            await world.create("late")

    run(test)


def test_what_was_ended_since_stays_ended() -> None:
    async def test(world: World) -> None:
        await world.create("gone")
        tokens = [await world.mint("acme", *([Sub("ann")] if at == 3 else [])) for at in range(4)]
        child, gone = tokens[1].attenuate(Act("r")), await world.mint("gone")
        evil = await world.mint("evil")
        position = world.position
        await world.revoke(lineage(tokens[0]), branch(child), api.Before("acme", subject="ann"))
        await world.own(tokens[2])
        await world.revoke(api.RetireKey(evil.kid))
        await world.ask(api.DeleteOrganization("gone"))
        ended = [tokens[0], child, tokens[2], tokens[3], evil, gone]
        denials = [await world.outcome(token) for token in ended]
        assert "valid" not in denials
        await world.ask(api.Restore(seq=position))
        assert [await world.outcome(token) for token in ended] == denials
        assert await world.outcome(tokens[1]) == "valid"
        # The control: a machine that shows what the journal once came to accepts every one of them.
        world.authority._served.replace(await _folded(world, position))
        assert {await world.outcome(token) for token in ended} == {"valid"}

    run(test)


def test_a_replacement_of_a_key_that_was_retired_goes_on() -> None:
    async def test(world: World) -> None:
        old, position = await world.mint(), world.position
        await world.revoke(api.RetireKey(old.kid))
        new = await world.mint()
        assert await world.ask(api.Restore(seq=position)) == api.Restored(position, changed=0)
        assert (await world.outcome(old), await world.outcome(new)) == ("unknown key", "valid")

    run(test)


def test_a_key_that_signs_again_is_kept_until_its_last_token_has_expired() -> None:
    async def test(world: World) -> None:
        first, position = await world.mint(), world.position
        await world.ask(api.RotateKey("acme"))
        until_ms = (await world.keys())[1].until_ms
        world.advance(until_ms - world.wall_ms + 1)
        # It has ended, and no purge has come by yet.
        await world.ask(api.Restore(seq=position))
        again = await world.mint(expires_in_s=DAY_S)
        assert again.kid == first.kid
        await world.ask(api.RotateKey("acme"))
        await world.authority._writer.purge()
        assert await world.outcome(again) == "valid"

    run(test)


def test_where_nothing_differs_nothing_is_written() -> None:
    async def test(world: World) -> None:
        token, position = await world.mint(), world.position
        await world.revoke(lineage(token))
        for seq in (position, world.position):
            assert await world.ask(api.Restore(seq=seq)) == api.Restored(seq, changed=0)
        assert world.position == position + 1

    run(test)


def test_a_restore_that_is_sent_again_is_done_once() -> None:
    async def test(world: World) -> None:
        position, request_id = world.position, bytes(16)
        await world.ask(api.RotateKey("acme"))
        first = await world.ask(api.Restore(seq=position), "root", request_id)
        await world.ask(api.RotateKey("acme"))
        assert await world.ask(api.Restore(seq=position), "root", request_id) == first == api.Restored(position, 2)
        assert _states(await world.keys()) == ["signing", "retired", "verifying"]

    run(test)


def test_a_time_means_the_last_entry_up_to_it() -> None:
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
def test_what_names_no_entry_to_go_back_to_is_refused(call: api.Restore, why: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(errors.InvalidRequest, match=why) as caught:
            await world.ask(call)
        assert caught.value.hint
        assert world.position == 3

    run(test)


def test_it_takes_the_permission_and_for_all_organizations() -> None:
    async def test(world: World) -> None:
        for signer in ("acme", "minter", "revoker", "administrator", "resealer"):
            with pytest.raises(errors.NotPermitted, match="restore for all organizations"):
                await world.ask(api.Restore(seq=999), signer)
        with pytest.raises(errors.NotPermitted, match="takes a signer"):
            await world.ask(api.Restore(seq=1), None)

    run(test)


def test_what_is_written_at_the_same_time_comes_before_it_or_after_it() -> None:
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


def test_the_feed_tells_who_follows_a_key_that_a_restore_retires() -> None:
    async def test(world: World) -> None:
        old, position = await world.mint(), world.position
        await world.create("late")
        await world.ask(api.RotateKey("acme"))
        new, late, other = await world.mint(), await world.mint("late"), await world.mint("evil")
        start = world.position
        await world.ask(api.Restore(seq=position))
        for _ in range(2):
            feed = await world.feed(old.kid, new.kid, late.kid, other.kid, after=start)
            assert {told.kid for told in feed.revocations} == {new.kid, late.kid}
            assert (await world.feed(old.kid, after=start)).revocations == []
            world.authority._served.feed.restart()  # from the journal, as from memory

    run(test)


def test_more_than_one_entry_carries_is_undone_step_by_step(monkeypatch: Any) -> None:
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


def test_resealing_is_not_undone(tmp_path: Path) -> None:
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


def test_what_was_purged_is_not_brought_back() -> None:
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
"""What a restore goes by: each living organization's maximum, and its keys' states, the newest first."""


class Restores(Lives):
    """Random lives in which organizations come late, and all is restored to somewhere before, again and again."""

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
        """Return what is expected, and take out of the model what dies by that."""
        expected: Shape = {}
        for name, (_, keys) in now.items():
            if name not in then:
                self.model.deleted.add(name)
                self.model.kill(organization=name)
                continue
            maximum_s, keys_then = then[name]
            signed = next(kid for kid, state in keys_then.items() if state == "signing")
            goes_on = keys[signed] != "retired"
            after = {}
            for kid, state in keys.items():
                if goes_on and kid == signed:
                    state = "signing"
                elif kid not in keys_then and (goes_on or state != "signing"):
                    state = "retired"
                    self.model.kill(kid=kid)
                after[kid] = state
            expected[name] = (maximum_s, after)
        return expected

    @property
    def shapes(self) -> dict[int, Shape]:
        """What each entry left that a rule ended with."""
        return self.__dict__.setdefault("_shapes", {})

    @invariant()
    def each_living_organization_has_one_signing_key_the_newest_that_lives(self) -> None:
        if not getattr(self, "model", None):
            return
        shape = self.shape()
        for _, keys in shape.values():
            living = [state for state in keys.values() if state != "retired"]
            assert living[0] == "signing"
            assert living.count("signing") == 1
        self.shapes[self.world.position] = shape

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.do(self._check_journal())
        super().teardown()

    async def _check_journal(self) -> None:
        """To fold the journal again gives the same, and every entry is signed for."""
        async with await Database.open(self.world.path, read_only=True) as database:
            await audit(database, BOTH_RING, by_signature)
            state, served = await database.load(), self.world.authority._state
            assert (state.organizations, state.keys) == (served.organizations, served.keys)


Restores.TestCase.settings = settings(
    max_examples=profiles.CURRENT.lives, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRestores = Restores.TestCase


class Forgetful(Restores):
    """The control: a restore that takes revocations back with the rest."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.mint("acme", None, MAX_LIFETIME_S)
        self.shapes[self.world.position] = self.shape()
        self.revoke(0, True)

    def undone(self, then: Shape, now: Shape) -> Shape:
        expected = super().undone(then, now)
        seq = next(seq for seq, shape in self.shapes.items() if shape is then)
        self.world.authority._state.revoked = self.do(_folded(self.world, seq)).revoked
        return expected

    def teardown(self) -> None:
        Lives.teardown(self)


def test_a_restore_that_forgets_revocations_is_found() -> None:
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
        run_state_machine_as_test(Forgetful, settings=bounded)
