"""Revocation: which tokens each kind revokes, and how long it is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.authority.world import DAY_S, HOUR_S, NAME, SKEW_MS, START_MS, World, branch, lineage, run
from tkdb import api, errors
from tkdb.authority.service import OWN_BURST, OWN_EVERY_MS
from tkdb.journal import fold
from tkdb.macaroon.caveats import Act, Aud, Exp, Sub
from tkdb.macaroon.chain import walk
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import ThirdParty, write_caveat, write_third_party

START_S = START_MS // 1000
BUCKET_MS = 2**24
TRAILER_HEAD = b"\x00\x06\x20"


def with_packet(token: Macaroon, packet: Any) -> Macaroon:
    """Append a caveat that ``attenuate`` doesn't: an unknown one, or one of a third party."""
    section = write_third_party(packet) if isinstance(packet, ThirdParty) else write_caveat(packet)
    head = token.raw[: -len(TRAILER_HEAD) - 32]
    return Macaroon.parse(head + section + TRAILER_HEAD + walk(token.tail, (packet,))[-1])


# --- lineages, branches, keys -------------------------------------------------------------------------------


def test_revoking_a_lineage_revokes_all_its_branches_and_no_other_lineage() -> None:
    async def test(world: World) -> None:
        token, other = await world.mint(), await world.mint()
        child = token.narrow(Act("r"))
        assert await world.revoke(lineage(token)) is False
        assert await world.outcome(token) == await world.outcome(child) == "revoked"
        assert await world.outcome(other) == "valid"

    run(test)


def test_revoking_a_branch_revokes_its_descendants_but_no_parent_or_sibling() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        child, sibling = token.narrow(Act("r")), token.narrow(Act("w"))
        grandchild = child.narrow(Aud("shop"))
        await world.revoke(branch(child))
        assert [await world.outcome(each) for each in (token, sibling)] == ["valid"] * 2
        assert [await world.outcome(each) for each in (child, grandchild)] == ["revoked"] * 2

    run(test)


def test_a_repeated_revocation_is_reported_as_already_done_and_writes_nothing() -> None:
    async def test(world: World) -> None:
        token, other = await world.mint(), await world.mint()
        child = token.narrow(Act("r"))
        before = [api.Before("evil", before_ms=START_MS), api.Before("acme", before_ms=START_MS, subject="ann")]
        targets = [branch(child), lineage(other), *before]
        assert await world.revoke(*targets) is False
        position = world.position
        assert await world.revoke(*targets) is True
        assert world.position == position
        assert await world.revoke(branch(child.narrow(Act("r"))), branch(child)) is False
        assert await world.revoke(lineage(token)) is False
        # The branches of a revoked lineage are revoked already, too.
        assert await world.revoke(branch(child), branch(token)) is True

    run(test)


def test_a_revocation_of_many_targets_is_one_entry() -> None:
    async def test(world: World) -> None:
        tokens = [await world.mint() for _ in range(50)]
        before = world.position
        await world.revoke(*map(lineage, tokens))
        assert world.position == before + 1
        assert {await world.outcome(token) for token in tokens} == {"revoked"}

    run(test)


def test_a_retired_signing_key_is_replaced_in_the_same_write() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        await world.revoke(api.RetireKey(token.kid), api.RetireKey(token.kid))
        newer, retired = await world.keys()
        assert (newer.state, retired.state, retired.kid) == ("signing", "retired", token.kid)
        assert await world.outcome(token) == "unknown key"
        assert await world.outcome(await world.mint()) == "valid"
        assert await world.revoke(api.RetireKey(token.kid)) is True
        assert await world.revoke(lineage(token)) is True

    run(test)


def test_retiring_a_verifying_key_keeps_the_signing_key() -> None:
    async def test(world: World) -> None:
        old = await world.mint()
        await world.ask(api.RotateKey("acme"))
        new = await world.mint()
        await world.revoke(api.RetireKey(old.kid))
        assert [key.state for key in await world.keys()] == ["signing", "retired"]
        assert (await world.outcome(old), await world.outcome(new)) == ("unknown key", "valid")

    run(test)


def test_revoking_a_nonce_more_than_a_minute_in_the_future_is_refused() -> None:
    async def test(world: World) -> None:
        kid = (await world.mint()).kid
        for ahead_ms, refused in ((60_000, False), (60_001, True), (2**47, True)):
            nonce = (START_MS + ahead_ms).to_bytes(6) + bytes(10)
            if refused:
                with pytest.raises(errors.InvalidRequest, match="future"):
                    await world.revoke(api.Lineage(kid, nonce))
            else:
                await world.revoke(api.Lineage(kid, nonce))

    run(test)


# --- everything issued before -------------------------------------------------------------------------------


def test_a_token_minted_right_after_everything_was_revoked_is_valid() -> None:
    async def test(world: World) -> None:
        before = await world.mint("acme", Sub("ann"))
        await world.revoke(api.Before("acme"))
        after = await world.mint("acme", Sub("ann"))
        assert (await world.outcome(before), await world.outcome(after)) == ("revoked", "valid")
        world.advance(1)
        await world.revoke(api.Before("acme", subject="ann"))
        again, bobs = await world.mint("acme", Sub("ann")), await world.mint("acme", Sub("bob"))
        assert [await world.outcome(each) for each in (after, again, bobs)] == ["revoked", "valid", "valid"]

    run(test)


def test_revoking_everything_covers_a_token_dated_by_a_fast_clock() -> None:
    async def test(world: World) -> None:
        world.step_clock(15_000)
        ahead = await world.mint()
        world.step_clock(-15_000)
        await world.revoke(api.Before("acme"))
        assert await world.outcome(ahead) == "revoked"

    run(test)


def test_without_the_clock_allowance_a_token_dated_by_a_fast_clock_stays_valid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(world: World) -> None:
        world.step_clock(15_000)
        ahead = await world.mint()
        world.step_clock(-15_000)
        monkeypatch.setattr(fold, "revoked_before_ms", lambda target, time_ms: target.before_ms or time_ms)
        await world.revoke(api.Before("acme"))
        assert await world.outcome(ahead) == "valid"

    run(test)


@pytest.mark.parametrize("subject", [None, "ann"])
@pytest.mark.parametrize("step_ms", [0, -10_000])
def test_revoking_everything_again_covers_every_token_minted_so_far(subject: str | None, step_ms: int) -> None:
    async def test(world: World) -> None:
        target = api.Before("acme", subject=subject)
        tokens = []
        for _ in range(3):
            tokens.append(await world.mint("acme", Sub("ann")))
            assert await world.revoke(target) is False
            assert {await world.outcome(token) for token in tokens} == {"revoked"}
            world.step_clock(step_ms // 3)
        assert await world.outcome(await world.mint("acme", Sub("ann"))) == "valid"

    run(test)


def test_revoking_everything_covers_tokens_dated_after_a_subjects_revocation() -> None:
    async def test(world: World) -> None:
        await world.revoke(api.Before("acme", subject="ann"))
        token = await world.mint("acme", Sub("ann"))
        assert await world.outcome(token) == "valid"
        await world.revoke(api.Before("acme"))
        assert await world.outcome(token) == "revoked"

    run(test)


def test_revoking_tokens_before_a_past_time_spares_later_ones() -> None:
    async def test(world: World) -> None:
        old = await world.mint()
        world.advance(HOUR_S * 1000)
        new = await world.mint()
        await world.revoke(api.Before("acme", before_ms=START_MS + 1))
        assert (await world.outcome(old), await world.outcome(new)) == ("revoked", "valid")
        assert await world.revoke(api.Before("acme", before_ms=START_MS)) is True

    run(test)


def test_revoking_tokens_before_a_future_time_is_refused() -> None:
    async def test(world: World) -> None:
        await world.revoke(api.Before("acme", before_ms=START_MS))
        token = await world.mint()
        assert token.issued_ms == START_MS + SKEW_MS
        with pytest.raises(errors.InvalidRequest, match="future") as caught:
            await world.revoke(api.Before("acme", before_ms=START_MS + 1))
        assert "leave it out" in caught.value.hint
        world.advance(10_000)
        await world.revoke(api.Before("acme", before_ms=world.wall_ms))
        assert await world.outcome(token) == "revoked"

    run(test)


# --- a revocation is kept for as long as any token can be valid ---------------------------------------------


async def _purge_at(world: World, ms: int) -> None:
    world.advance(ms - world.wall_ms)
    await world.authority._writer.purge()


@pytest.mark.parametrize("kind", ["lineage", "branch", "own"])
def test_a_short_expiry_appended_by_a_holder_does_not_shorten_retention(kind: str) -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", expires_in_s=90 * DAY_S)
        child = token.narrow(Exp(START_S + 1))
        if kind == "own":
            await world.revoke_own(child)
        else:
            await world.revoke(branch(child) if kind == "branch" else lineage(child))
        revoked = child if kind != "lineage" else token
        await _purge_at(world, START_MS + 90 * DAY_S * 1000 - 1)
        assert await world.outcome(revoked) == "revoked"

    run(test)


def test_a_lowered_maximum_lifetime_does_not_shorten_retention() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", expires_in_s=90 * DAY_S)
        await world.revoke(lineage(token))
        await world.ask(api.ConfigureOrganization("acme", 1))
        await world.ask(api.ConfigureOrganization("evil", 1))
        await _purge_at(world, START_MS + 90 * DAY_S * 1000 - 1)
        assert await world.outcome(token) == "revoked"

    run(test)


def test_retention_by_the_current_maximum_would_revive_a_revoked_token() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", expires_in_s=90 * DAY_S)
        await world.revoke(lineage(token))
        await world.ask(api.ConfigureOrganization("acme", 1))
        await world.ask(api.ConfigureOrganization("evil", 1))
        world.authority._state.longest_lifetime_s = 1
        await _purge_at(world, START_MS + 89 * DAY_S * 1000)
        assert await world.outcome(token) == "valid"

    run(test)


def test_a_revocation_outlives_the_last_second_of_the_longest_token() -> None:
    async def test(world: World) -> None:
        # The worst case: the last nonce of its bucket.
        start_ms = (START_MS // BUCKET_MS + 1) * BUCKET_MS - 1
        world.advance(start_ms - START_MS)
        token = await world.mint("acme", expires_in_s=90 * DAY_S)
        [end] = [caveat.at_s for caveat in token.caveats if isinstance(caveat, Exp)]
        await world.revoke(lineage(token))
        forgotten_ms = start_ms + 1 + 90 * DAY_S * 1000 + SKEW_MS + 1000
        assert forgotten_ms > end * 1000 + 1000
        position = world.position
        await _purge_at(world, forgotten_ms - 1)
        assert (world.position, await world.outcome(token)) == (position, "revoked")
        await _purge_at(world, forgotten_ms)
        assert world.position == position + 1
        assert not world.authority._state.revoked
        # Although its revocation is purged, the token isn't valid again.
        assert await world.outcome(token) == "expired"
        # A purge that finds nothing writes nothing.
        await _purge_at(world, forgotten_ms + HOUR_S * 1000)
        assert world.position == position + 1

    run(test)


def test_a_subjects_revocation_outlives_the_last_second_of_the_longest_token() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", Sub("ann"), expires_in_s=90 * DAY_S)
        await world.revoke(api.Before("acme", subject="ann"))
        await _purge_at(world, START_MS + 90 * DAY_S * 1000 + 1000)
        assert await world.outcome(token) == "revoked"

    run(test)


# --- by possession ------------------------------------------------------------------------------------------


def test_revoking_by_possession_revokes_exactly_the_presented_branch() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        child, sibling = token.narrow(Act("r")), token.narrow(Act("w"))
        grandchild = child.narrow(Aud("shop"))
        assert await world.revoke_own(child) is False
        assert [await world.outcome(each) for each in (token, sibling)] == ["valid"] * 2
        assert [await world.outcome(each) for each in (child, grandchild)] == ["revoked"] * 2
        assert await world.revoke_own(token) is False
        assert await world.outcome(sibling) == "revoked"

    run(test)


def test_repeated_revocations_by_possession_write_nothing() -> None:
    async def test(world: World) -> None:
        token = (await world.mint()).narrow(Act("r"))
        await world.revoke_own(token)
        position = world.position
        for _ in range(3 * OWN_BURST):
            assert await world.revoke_own(token) is True
            assert await world.revoke_own(token.narrow(Act("r"))) is True
        assert world.position == position

    run(test)


def test_concurrent_revocations_of_one_token_by_possession_are_one_entry() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        position = world.position
        outcomes = await asyncio.gather(*(world.revoke_own(token) for _ in range(OWN_BURST)))
        assert sorted(outcomes) == [False] + [True] * (OWN_BURST - 1)
        assert world.position == position + 1

    run(test)


def test_a_holder_cannot_fill_the_journal_with_branches() -> None:
    async def test(world: World) -> None:
        token, other = await world.mint(), await world.mint()
        children = [token.narrow(Aud(f"a{index}")) for index in range(OWN_BURST + 2)]
        for child in children[:OWN_BURST]:
            await world.revoke_own(child)
        position = world.position
        with pytest.raises(errors.Overloaded, match="lineage") as caught:
            await world.revoke_own(children[OWN_BURST])
        assert caught.value.retry_after_ms == OWN_EVERY_MS
        assert world.position == position
        # The limit affects no other lineage, and a signer can revoke the whole lineage with one entry.
        assert await world.revoke_own(other) is False
        world.advance(OWN_EVERY_MS)
        assert await world.revoke_own(children[OWN_BURST]) is False
        await world.revoke(lineage(token))
        assert await world.revoke_own(children[OWN_BURST + 1]) is True

    run(test)


def test_a_token_that_cannot_clear_can_still_be_revoked() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        strange = [
            with_packet(token, b"caveat of a version to come"),
            with_packet(token, ThirdParty(b"https://idp.example", b"ticket", bytes(72))),
            token.extend([Sub("admin")]),
            token.narrow(Exp(0)),
        ]
        assert [await world.outcome(each) for each in strange] == [
            "unknown caveat",
            "discharge missing",
            "caveat unmet",
            "valid",
        ]
        for each in strange:
            assert await world.revoke_own(each) is False
            assert await world.revoke_own(each) is True
        assert await world.outcome(strange[0]) == "revoked"
        assert await world.outcome(token) == "valid"

    run(test)


def test_an_invalid_token_revokes_nothing() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        position = world.position
        forged = Macaroon.parse(token.raw[:-32] + bytes(32))
        foreign = mint("other.example", b"r" * 32, kid=token.kid, time_ms=START_MS, random=bytes(10), caveats=[])
        texts = {
            forged.text: errors.BadSignature,
            foreign.text: errors.MalformedToken,
            token.text[:-1]: errors.TruncatedToken,
            token.text + "," + token.text: errors.Denied,
            "": errors.MalformedToken,
            mint(NAME, b"r" * 32, kid=bytes(16), time_ms=0, random=bytes(10), caveats=[]).text: errors.UnknownKey,
        }
        for text, kind in texts.items():
            with pytest.raises(kind):
                await world.ask(api.RevokeOwn(text), None)
        assert world.position == position
        assert await world.outcome(token) == "valid"

    run(test)


def test_the_journal_stores_no_signer_and_no_token_of_a_revocation_by_possession() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        await world.ask(api.RevokeOwn(token.text), "root")
        [entry] = await world.authority._served.database.entries(world.position - 1, 1)
        assert (entry.signer, entry.signature, entry.request_id) == (b"", b"", b"")
        assert token.tail not in entry.body
        assert token.text.encode() not in entry.body

    run(test)


# --- the end of an organization -----------------------------------------------------------------------------


def test_a_deleted_organization_can_be_neither_used_nor_created_again() -> None:
    async def test(world: World) -> None:
        old = await world.mint()
        await world.ask(api.RotateKey("acme"))
        new, other = await world.mint(), await world.mint("evil")
        assert await world.ask(api.DeleteOrganization("acme")) == api.Deleted()
        assert [await world.outcome(each) for each in (old, new, other)] == ["unknown key"] * 2 + ["valid"]
        with pytest.raises(errors.Conflict, match="exists, or did"):
            await world.create("acme")
        for call in (
            api.Mint("acme"),
            api.RotateKey("acme"),
            api.ConfigureOrganization("acme", 60),
            api.DeleteOrganization("acme"),
            api.Revoke([api.Before("acme")]),
        ):
            with pytest.raises(errors.NotFound, match="no organization acme"):
                await world.ask(call)
        assert await world.revoke(api.RetireKey(new.kid), lineage(new)) is True

    run(test)
