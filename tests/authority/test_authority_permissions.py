"""Permissions: a signer can do only what the list allows, and only in its organizations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.authority.world import World, branch, lineage, run
from tkdb import api, errors
from tkdb.macaroon.caveats import Sub

Call = Any

WRITES: dict[str, tuple[Call, str]] = {
    "create": (api.CreateOrganization("new"), "administrator"),
    "configure": (api.ConfigureOrganization("acme", 60), "administrator"),
    "rotate": (api.RotateKey("acme"), "administrator"),
    "delete": (api.DeleteOrganization("acme"), "administrator"),
    "revoke before": (api.Revoke([api.Before("acme")]), "revoker"),
    "reseal": (api.Reseal(), "resealer"),
    "restore": (api.Restore(seq=3), "restorer"),
    "mint": (api.Mint("acme"), "minter"),
}
SPECIALISTS = ("minter", "revoker", "administrator", "resealer", "restorer")


@pytest.mark.parametrize("name", WRITES)
def test_each_write_needs_exactly_one_permission(name: str) -> None:
    call, allowed = WRITES[name]

    async def test(world: World) -> None:
        before = world.position
        for signer in SPECIALISTS:
            if signer != allowed:
                with pytest.raises(errors.NotPermitted, match=f"the signer {signer} may not") as caught:
                    await world.ask(call, signer)
                assert caught.value.hint
        assert world.position == before
        await world.ask(call, allowed)

    run(test)


@pytest.mark.parametrize("name", WRITES)
def test_a_signer_of_another_organization_is_refused_every_write(name: str) -> None:
    call, _ = WRITES[name]

    async def test(world: World) -> None:
        before = world.position
        with pytest.raises(errors.NotPermitted) as caught:
            await world.ask(call, "evil")
        assert "evil may not" in caught.value.message
        assert world.position == before

    run(test)


@pytest.mark.parametrize("name", [*WRITES, "list"])
def test_a_call_that_needs_a_signer_is_refused_without_one(name: str) -> None:
    call = WRITES[name][0] if name in WRITES else api.ListOrganizations()

    async def test(world: World) -> None:
        with pytest.raises(errors.NotPermitted, match="takes a signer"):
            await world.ask(call, None)

    run(test)


def test_a_signer_of_one_organization_manages_only_that_one() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme")
        await world.ask(api.RotateKey("acme"), "acme")
        await world.ask(api.Mint("acme"), "acme")
        await world.revoke(lineage(token), signer="acme")
        with pytest.raises(errors.NotPermitted, match="reseal for all organizations"):
            await world.ask(api.Reseal(), "acme")
        listed = await world.ask(api.ListOrganizations(), "acme")
        assert [each.name for each in listed.organizations] == ["acme"]
        assert (await world.ask(api.ListOrganizations(after="acme"), "acme")).organizations == []

    run(test)


def test_listing_is_paged_and_omits_deleted_organizations() -> None:
    async def test(world: World) -> None:
        for index in range(5):
            await world.create(f"o{index}")
        await world.ask(api.DeleteOrganization("o2"))
        names: list[str] = []
        more, after = True, ""
        while more:
            page = await world.ask(api.ListOrganizations(after=after, limit=2))
            assert len(page.organizations) <= 2
            names += [each.name for each in page.organizations]
            more, after = page.more, names[-1]
        assert names == ["acme", "evil", "o0", "o1", "o3", "o4"]

    run(test)


def test_a_missing_organization_or_key_is_not_found() -> None:
    async def test(world: World) -> None:
        for call in (
            api.Mint("nobody"),
            api.ConfigureOrganization("nobody", 60),
            api.RotateKey("nobody"),
            api.DeleteOrganization("nobody"),
            api.Revoke([api.Before("nobody")]),
        ):
            with pytest.raises(errors.NotFound, match="no organization nobody") as caught:
                await world.ask(call)
            assert caught.value.hint
        with pytest.raises(errors.NotFound, match="no root key"):
            await world.revoke(api.RetireKey(bytes(16)))

    run(test)


# --- across tenants -----------------------------------------------------------------------------------------


def test_a_revocation_that_names_another_organizations_key_is_refused() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme")
        own = await world.mint("evil")
        before = world.position
        for target in (lineage(token), branch(token), api.RetireKey(token.kid)):
            # Also together with a target of the signer's own organization: all targets are revoked, or none.
            for targets in ([target], [lineage(own), target]):
                with pytest.raises(errors.NotFound):
                    await world.revoke(*targets, signer="evil")
        with pytest.raises(errors.NotPermitted):
            await world.revoke(lineage(own), api.Before("acme"), signer="evil")
        assert world.position == before
        assert await world.outcome(token) == await world.outcome(own) == "valid"

    run(test)


def test_a_nonce_revoked_under_another_key_leaves_its_token_valid() -> None:
    async def test(world: World) -> None:
        token = await world.mint("acme")
        own_kid = (await world.keys("evil"))[0].kid
        await world.revoke(
            api.Lineage(own_kid, token.nonce), api.Branch(own_kid, token.nonce, token.branch), signer="evil"
        )
        assert await world.outcome(token) == "valid"

    run(test)


def test_another_organizations_key_and_an_unknown_key_give_the_same_error() -> None:
    async def test(world: World) -> None:
        texts = set()
        for kid in ((await world.mint("acme")).kid, bytes(16)):
            with pytest.raises(errors.NotFound) as caught:
                await world.revoke(api.RetireKey(kid), signer="evil")
            texts.add(str(caught.value).replace(kid.hex(), "KID"))
        assert len(texts) == 1

    run(test)


def test_revoking_a_subject_affects_only_one_organization() -> None:
    async def test(world: World) -> None:
        ours, theirs = await world.mint("acme", Sub("ann")), await world.mint("evil", Sub("ann"))
        await world.revoke(api.Before("evil", subject="ann"), signer="evil")
        assert await world.outcome(ours) == "valid"
        assert await world.outcome(theirs) == "revoked"

    run(test)


# --- status, opening and closing ----------------------------------------------------------------------------


def test_status_identifies_the_machine() -> None:
    async def test(world: World) -> None:
        world.advance(1_500)
        report = await world.ask(api.Status(), None)
        assert (report.name, report.role, report.region, report.machine) == ("tkdb.example", "primary", "ams", "m1")
        assert report.uptime_ms == 1_500

    run(test, region="ams", machine="m1")


def test_a_database_of_another_authority_is_refused_and_released(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.authority.close()
        with pytest.raises(errors.ConfigurationError, match=r"to the authority tkdb.example, not to other") as caught:
            await world.open(name="other.example")
        assert "TKDB_NAME" in caught.value.hint
        await world.open(name="tkdb.example")

    run(test, tmp_path / "tkdb.db")


def test_a_closed_authority_is_not_ready() -> None:
    async def test(world: World) -> None:
        world.authority.ready()
        await world.authority.close()
        with pytest.raises(errors.Unavailable, match="closed"):
            world.authority.ready()

    run(test)
