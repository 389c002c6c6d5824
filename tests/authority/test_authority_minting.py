"""Minting: the authority mints only tokens that readers can clear, and no holder can add a fact or forge a token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.authority.world import DAY_S, HOUR_S, SKEW_MS, START_MS, World, run
from tkdb import api, errors
from tkdb.macaroon.caveats import Act, Aud, Bind, Exp, Org, Sub, Usr, encode
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon

START_S = START_MS // 1000


def test_a_minted_token_contains_the_requested_caveats_and_an_expiry() -> None:
    async def test(world: World) -> None:
        minted = await world.ask(api.Mint("acme", [encode(Sub("ann")), encode(Act("r"))]))
        token = Macaroon.parse(minted.token)
        assert token.caveats == (Exp(START_S + HOUR_S), Sub("ann"), Act("r"))
        assert (token.m, token.issued_ms, token.authority) == (3, START_MS, "tkdb.example")
        assert minted.expires_s == START_S + HOUR_S
        assert await world.outcome(token) == "valid"
        assert minted.token not in repr(minted)

    run(test)


def test_minting_writes_nothing() -> None:
    async def test(world: World) -> None:
        before = world.position
        tokens = [await world.mint() for _ in range(3)]
        assert world.position == before
        assert len({token.nonce for token in tokens}) == 3

    run(test)


def test_a_short_maximum_lifetime_shortens_the_default() -> None:
    async def test(world: World) -> None:
        await world.create("brief", 60)
        token = await world.mint("brief")
        assert token.caveats == (Exp(START_S + 60),)

    run(test)


def test_the_maximum_lifetime_is_accepted_and_one_second_more_is_refused() -> None:
    async def test(world: World) -> None:
        await world.create("brief", 60)
        assert (await world.ask(api.Mint("brief", [], 60))).expires_s == START_S + 60
        assert (await world.ask(api.Mint("brief", [encode(Exp(START_S + 60))]))).expires_s == START_S + 60
        for call in (
            api.Mint("brief", [], 61),
            api.Mint("brief", [], 2**53 - 1),
            api.Mint("brief", [encode(Exp(START_S + 61))]),
            api.Mint("brief", [encode(Exp(2**53 - 1))]),
        ):
            with pytest.raises(errors.InvalidRequest, match="brief allows 60 s") as caught:
                await world.ask(call)
            assert caught.value.hint

    run(test)


def test_an_expiry_in_the_past_is_refused() -> None:
    async def test(world: World) -> None:
        for at_s in (0, START_S - 1):
            with pytest.raises(errors.InvalidRequest, match="already have expired"):
                await world.mint("acme", Exp(at_s))
        await world.mint("acme", Exp(START_S))

    run(test)


def test_the_earlier_of_two_expiries_counts() -> None:
    async def test(world: World) -> None:
        near, far = Exp(START_S + 60), Exp(START_S + 400 * DAY_S)
        for ends in ((near, far), (far, near)):
            minted = await world.ask(api.Mint("acme", [encode(end) for end in ends]))
            assert minted.expires_s == near.at_s
            # The token contains both, and clearing checks both, so it never outlives its revocation.
            assert set(Macaroon.parse(minted.token).caveats) == {near, far}
        with pytest.raises(errors.InvalidRequest):
            await world.mint("acme", far, Exp(far.at_s + 1))

    run(test)


def test_an_expiry_given_in_two_ways_is_refused() -> None:
    async def test(world: World) -> None:
        with pytest.raises(errors.InvalidRequest, match="both an exp caveat and expires_in_s"):
            await world.mint("acme", Exp(START_S + 60), expires_in_s=60)

    run(test)


@pytest.mark.parametrize("caveat", [Bind("A" * 22), Usr("ann"), Org("acme")], ids=lambda caveat: type(caveat).__name__)
def test_a_caveat_that_belongs_in_a_discharge_is_refused(caveat: Any) -> None:
    async def test(world: World) -> None:
        with pytest.raises(errors.InvalidRequest, match="allowed only in a discharge"):
            await world.mint("acme", caveat)

    run(test)


def test_two_subjects_are_refused() -> None:
    async def test(world: World) -> None:
        with pytest.raises(errors.InvalidRequest, match="one subject"):
            await world.mint("acme", Sub("ann"), Sub("bob"))

    run(test)


@pytest.mark.parametrize("cid", [b"", b"email = ann", b'["later-version",1]', b'["act", "r"]', b"\xff", b'["exp",1e9]'])
def test_an_unreadable_caveat_is_refused_with_its_number(cid: bytes) -> None:
    async def test(world: World) -> None:
        with pytest.raises(errors.InvalidRequest, match="caveat 2 of the request"):
            await world.ask(api.Mint("acme", [encode(Act("r")), cid]))

    run(test)


def test_a_token_gets_at_most_64_caveats_and_16_kib() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", *[Act("r")] * 63)
        assert token.m == 64
        assert await world.outcome(token) == "valid"
        with pytest.raises(errors.InvalidRequest, match="64"):
            await world.mint("acme", *[Act("r")] * 64)
        with pytest.raises(errors.InvalidRequest, match="16384"):
            await world.mint("acme", *[Aud("a" * 4_000)] * 5)

    run(test)


def test_a_request_with_too_many_caveats_is_refused_when_it_is_decoded() -> None:
    with pytest.raises(errors.InvalidRequest, match=r"length <= 63"):
        api.decode_request(api.SIGN, api.encode(api.Mint("acme", [b"x"] * 64)))


def test_a_lowered_maximum_lifetime_applies_only_to_new_tokens() -> None:
    async def test(world: World) -> None:
        old = await world.mint("acme", expires_in_s=DAY_S)
        await world.ask(api.ConfigureOrganization("acme", 60))
        with pytest.raises(errors.InvalidRequest):
            await world.mint("acme", expires_in_s=61)
        assert await world.outcome(old) == "valid"

    run(test)


def test_an_organization_gets_no_longer_lifetime_than_the_authority_allows() -> None:
    async def test(world: World) -> None:
        for call in (api.CreateOrganization("long", 101), api.ConfigureOrganization("acme", 101)):
            with pytest.raises(errors.InvalidRequest, match="101; this authority allows 100") as caught:
                await world.ask(call)
            assert "TKDB_MAX_LIFETIME_S" in caught.value.hint
        assert (await world.ask(api.CreateOrganization("long"))).max_lifetime_s == 100

    run(test, max_lifetime_s=100)


def test_a_replayed_mint_returns_a_new_token() -> None:
    async def test(world: World) -> None:
        call = api.Mint("acme")
        caller = world.caller(call, "minter")
        first, again = [await world.authority.answer(call, caller) for _ in range(2)]
        assert first.token != again.token
        assert await world.outcome(first.token) == await world.outcome(again.token) == "valid"

    run(test)


# --- facts and forgeries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fact", [Sub("admin"), Usr("admin"), Org("evil")], ids=lambda fact: type(fact).__name__)
def test_a_token_with_a_fact_appended_by_a_holder_is_denied(fact: Any) -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme", Act("rw"))
        assert await world.outcome(token.extend([fact])) == "caveat unmet"

    run(test)


def test_a_holder_cannot_raise_the_count_of_the_authoritys_caveats() -> None:
    async def test(world: World) -> None:
        token = (await world.mint("acme")).extend([Sub("admin")])
        claimed = token.raw.replace(token.identifier, token.identifier[:33] + b"\x02")
        assert await world.outcome(Macaroon.parse(claimed)) == "bad signature"

    run(test)


def test_a_token_under_a_made_up_root_key_is_denied() -> None:
    async def test(world: World) -> None:
        kid = (await world.mint()).kid
        forged = mint("tkdb.example", b"r" * 32, kid=kid, time_ms=START_MS, random=bytes(10), caveats=[])
        assert await world.outcome(forged) == "bad signature"
        unknown = mint("tkdb.example", b"r" * 32, kid=bytes(16), time_ms=START_MS, random=bytes(10), caveats=[])
        assert await world.outcome(unknown) == "unknown key"
        with pytest.raises(errors.BadSignature):
            await world.revoke_own(forged)

    run(test)


def test_a_token_of_one_organization_never_verifies_for_another() -> None:
    async def test(world: World) -> None:
        ours, theirs = await world.mint("acme"), await world.mint("evil")
        moved = ours.raw.replace(ours.kid, theirs.kid)
        assert await world.outcome(Macaroon.parse(moved)) == "bad signature"
        call = api.Verify([ours.text, theirs.text])
        assert [each.organization for each in (await world.ask(call, None)).results] == ["acme", "evil"]

    run(test)


def test_a_bad_bundle_in_a_batch_denies_no_other_bundle() -> None:
    async def test(world: World) -> None:
        good = await world.mint()
        texts = [good.text, "", good.text[:-3], "tkdb_", good.text + "," + good.text, "é", good.text]
        results = (await world.ask(api.Verify(texts), None)).results
        assert [isinstance(result, api.Valid) for result in results] == [True, *[False] * 5, True]
        assert all(result.message for result in results[1:6])

    run(test)


def test_a_nonce_more_than_a_minute_in_the_future_is_denied() -> None:
    async def test(world: World) -> None:
        row, key = world.authority._methods._minter._keyring.signing("acme")
        for ahead_ms, outcome in ((SKEW_MS, "valid"), (60_000, "valid"), (60_001, "not yet valid")):
            token = mint(
                "tkdb.example", key.raw, kid=row.kid, time_ms=START_MS + ahead_ms, random=bytes(10), caveats=[]
            )
            assert await world.outcome(token) == outcome

    run(test)
