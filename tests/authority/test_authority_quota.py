"""The quota of revocations: one organization can't fill the memory of every machine, and nobody can use it to block."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from tests.authority.world import HOUR_S, START_MS, World, branch, lineage, run
from tkdb import api, errors, logs
from tkdb.authority import decisions, quota
from tkdb.macaroon.caveats import Aud, Sub

LIMIT = 20


def nonces(count: int, *, first: int = 0, at_ms: int = START_MS) -> list[bytes]:
    return [at_ms.to_bytes(6) + number.to_bytes(10) for number in range(first, first + count)]


async def fill(world: World, count: int = LIMIT, organization: str = "acme") -> bytes:
    """Revoke ``count`` lineages of an organization, and return the kid of its key."""
    kid = (await world.mint(organization)).kid
    await world.revoke(*(api.Lineage(kid, nonce) for nonce in nonces(count)))
    return kid


def remembered(world: World, organization: str = "acme") -> int:
    return world.authority._state.remembered(organization)


@pytest.mark.parametrize("kind", ["lineage", "branch"])
def test_a_revocation_beyond_the_quota_is_refused_and_says_what_to_do(kind: str) -> None:
    async def test(world: World) -> None:
        await fill(world, LIMIT - 1)
        token, next_token = await world.mint(), (await world.mint()).narrow(Aud("shop"))
        target = branch if kind == "branch" else lineage
        assert await world.revoke(target(token)) is False
        position = world.position
        with pytest.raises(errors.OverQuota, match=r"acme would have 21 .* may have 20") as caught:
            await world.revoke(target(next_token), signer="acme")
        assert "revoke everything issued before" in caught.value.hint
        assert (world.position, remembered(world)) == (position, LIMIT)
        # Repeating what is revoked needs no room, and other organizations have their own.
        assert await world.revoke(target(token)) is True
        other = await world.mint("evil")
        assert await world.revoke(lineage(other)) is False
        assert await world.outcome(other) == "revoked"

    run(test, max_revocations=LIMIT)


def test_without_the_quota_one_signer_fills_the_memory_of_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota.Growth, "require_room", lambda growth, limit: None)

    async def test(world: World) -> None:
        await fill(world, 5 * LIMIT)
        assert remembered(world) == 5 * LIMIT

    run(test, max_revocations=LIMIT)


def test_one_request_is_refused_as_a_whole_and_counts_each_target_once() -> None:
    async def test(world: World) -> None:
        kid = (await world.mint()).kid
        targets = [api.Lineage(kid, nonce) for nonce in nonces(LIMIT + 1)]
        with pytest.raises(errors.OverQuota):
            await world.revoke(*targets)
        assert remembered(world) == 0
        assert await world.revoke(*targets[:-1], *targets[:-1]) is False
        assert remembered(world) == LIMIT
        with pytest.raises(errors.OverQuota):
            await world.revoke(*targets)

    run(test, max_revocations=LIMIT)


def test_writes_of_one_round_are_counted_together() -> None:
    async def test(world: World) -> None:
        tokens = [await world.mint() for _ in range(2 * LIMIT)]
        outcomes = await asyncio.gather(*(world.revoke(lineage(token)) for token in tokens), return_exceptions=True)
        assert outcomes.count(False) == LIMIT
        assert sum(isinstance(outcome, errors.OverQuota) for outcome in outcomes) == LIMIT
        assert remembered(world) == LIMIT

    run(test, max_revocations=LIMIT)


WIDE: dict[str, Any] = {
    "everything issued before": lambda kid: api.Revoke([api.Before("acme")]),
    "everything issued before a time": lambda kid: api.Revoke([api.Before("acme", before_ms=START_MS + 1)]),
    "a root key": lambda kid: api.Revoke([api.RetireKey(kid)]),
}


@pytest.mark.parametrize("kind", WIDE)
def test_a_wide_revocation_is_never_refused_and_makes_room(kind: str) -> None:
    async def test(world: World) -> None:
        kid = await fill(world)
        world.advance(1000)
        token = await world.mint("acme", Sub("kim"))
        await world.ask(WIDE[kind](kid), "acme")
        assert remembered(world) == 0
        assert not world.authority._state.revoked
        assert await world.outcome(token) != "valid" or kind == "everything issued before a time"
        world.advance(HOUR_S * 1000)
        fresh = await world.mint()
        assert await world.revoke(lineage(fresh)) is False
        assert await world.outcome(fresh) == "revoked"
        assert remembered(world) == 1
        # A lineage that is covered is revoked already: it needs neither room nor an entry.
        position = world.position
        assert await world.revoke(api.Lineage(kid, nonces(1)[0])) is True
        assert world.position == position

    run(test, max_revocations=LIMIT)


def test_deleting_a_full_organization_is_never_refused() -> None:
    async def test(world: World) -> None:
        await fill(world)
        assert await world.ask(api.DeleteOrganization("acme")) == api.Deleted()
        assert not world.authority._state.revoked

    run(test, max_revocations=LIMIT)


def test_a_subject_can_be_revoked_while_lineages_have_no_room() -> None:
    async def test(world: World) -> None:
        await fill(world)
        token = await world.mint("acme", Sub("kim"))
        await world.revoke(api.Before("acme", subject="kim"))
        assert await world.outcome(token) == "revoked"

    run(test, max_revocations=LIMIT)


def test_a_new_subject_beyond_the_quota_is_refused_and_a_known_one_is_not() -> None:
    async def test(world: World) -> None:
        await world.revoke(*(api.Before("acme", subject=f"user-{number}") for number in range(LIMIT)))
        position = world.position
        for wanted in (["kim"], ["user-1", "kim"]):
            with pytest.raises(errors.OverQuota, match="revoked subjects"):
                await world.revoke(*(api.Before("acme", subject=subject) for subject in wanted))
        assert world.position == position
        world.advance(1000)
        token, kims = await world.mint("acme", Sub("user-1")), await world.mint("acme", Sub("kim"))
        assert await world.revoke(api.Before("acme", subject="user-1")) is False
        assert [await world.outcome(each) for each in (token, kims)] == ["revoked", "valid"]
        await world.revoke(api.Before("acme"))
        assert await world.outcome(kims) == "revoked"

    run(test, max_revocations=LIMIT)


def test_a_lineage_in_place_of_its_branches_needs_no_room() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        await world.revoke(*(branch(token.narrow(Aud(f"a{number}"))) for number in range(LIMIT)))
        with pytest.raises(errors.OverQuota):
            await world.revoke(branch(token.narrow(Aud("b"))))
        assert await world.revoke(lineage(token)) is False
        assert (remembered(world), await world.outcome(token)) == (1, "revoked")

    run(test, max_revocations=LIMIT)


def test_expired_revocations_make_room() -> None:
    async def test(world: World) -> None:
        await fill(world)
        await world.revoke(*(api.Before("acme", subject=f"user-{number}") for number in range(LIMIT)))
        world.advance(100 * 24 * HOUR_S * 1000)
        await world.authority._writer.purge()
        assert remembered(world) == 0
        assert await world.revoke(lineage(await world.mint()), api.Before("acme", subject="kim")) is False

    run(test, max_revocations=LIMIT)


async def _revoke_as_strangers(world: World) -> int:
    """Let strangers revoke tokens that they hold until they are refused. Return the number of revoked ones."""
    for number in range(2 * LIMIT):
        try:
            await world.revoke_own(await world.mint())
        except errors.OverQuota:
            return number
    return 2 * LIMIT


def test_strangers_who_revoke_their_tokens_leave_room_for_signers() -> None:
    async def test(world: World) -> None:
        assert await _revoke_as_strangers(world) == LIMIT // 2
        first = await world.mint()
        with pytest.raises(errors.OverQuota, match=r"^[^0-9]*$") as caught:  # strangers learn no number
            await world.revoke_own(first)
        assert "ask a signer" in caught.value.hint
        assert await world.outcome(first) == "valid"
        for token in [first, *[await world.mint() for _ in range(LIMIT // 2 - 1)]]:
            assert await world.revoke(lineage(token)) is False
        # A token that is revoked already stays "already", also for its holder.
        assert await world.revoke_own(first) is True

    run(test, max_revocations=LIMIT)


def test_without_the_reserve_strangers_block_the_signers(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole_quota(rows: Any, organization: str, limit: int) -> None:
        if rows.remembered(organization) >= limit:
            raise errors.OverQuota("full", hint="ask a signer")

    monkeypatch.setattr(decisions, "require_room_of_holders", whole_quota)

    async def test(world: World) -> None:
        assert await _revoke_as_strangers(world) == LIMIT
        with pytest.raises(errors.OverQuota):
            await world.revoke(lineage(await world.mint()))

    run(test, max_revocations=LIMIT)


def test_a_revocation_near_the_quota_is_logged() -> None:
    stream = io.StringIO()
    logs.configure("warning", stream)

    async def test(world: World) -> None:
        kid = await fill(world, LIMIT - 3)
        assert stream.getvalue() == ""
        await world.revoke(api.Lineage(kid, nonces(1, first=LIMIT)[0]))
        assert '"event":"revocations near quota","organization":"acme","revocations":18' in stream.getvalue()

    try:
        run(test, max_revocations=LIMIT)
    finally:
        logs.configure("error", io.StringIO())


def test_a_restart_counts_the_same_revocations(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await fill(world)
        await fill(world, 7, "evil")
        token = await world.mint("evil")
        await world.revoke(branch(token), branch(token.narrow(Aud("shop"))))
        await world.revoke(api.Before("acme"))
        world.advance(HOUR_S * 1000)
        await world.revoke(lineage(await world.mint("acme")))
        counts = remembered(world), remembered(world, "evil")
        assert counts == (1, 9)
        await world.restart()
        assert (remembered(world), remembered(world, "evil")) == counts
        # A lower quota than there are revocations refuses new ones and denies the old ones.
        await world.restart(max_revocations=2)
        assert await world.outcome(token) == "revoked"
        with pytest.raises(errors.OverQuota):
            await world.revoke(lineage(await world.mint("evil")))

    run(test, tmp_path / "tkdb.db", max_revocations=LIMIT)
