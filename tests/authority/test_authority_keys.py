"""Root keys: rotation, sealing, and the bound on unsealed keys in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.authority.world import (
    BOTH_RING,
    DAY_S,
    NEW_RING,
    NEW_SEAL_KEY,
    OLD_RING,
    OLD_SEAL_KEY,
    SKEW_MS,
    START_MS,
    World,
    lineage,
    open_world,
    run,
)
from tkdb import api, errors
from tkdb.authority import keyring
from tkdb.journal.seal import SealKeys, seal_id
from tkdb.macaroon.caveats import Exp
from tkdb.macaroon.wire import encode_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tkdb.db"


# --- rotation -----------------------------------------------------------------------------------------------


def test_a_rotated_key_verifies_until_its_last_token_can_have_expired() -> None:
    async def test(world: World) -> None:
        old = await world.mint("acme", expires_in_s=90 * DAY_S)
        [end] = [caveat.at_s for caveat in old.caveats if isinstance(caveat, Exp)]
        described = await world.ask(api.RotateKey("acme"))
        new = await world.mint()
        assert new.kid != old.kid
        signing, verifying = described.keys
        assert (signing.state, signing.kid, signing.generation, signing.until_ms) == ("signing", new.kid, 2, None)
        assert (verifying.state, verifying.kid) == ("verifying", old.kid)
        assert verifying.until_ms == START_MS + 90 * DAY_S * 1000 + SKEW_MS + 1000 > end * 1000 + 1000

        world.advance(verifying.until_ms - START_MS - 1)
        await world.authority._writer.purge()
        assert await world.outcome(old) == "valid"
        world.advance(1)
        await world.authority._writer.purge()
        assert [key.state for key in await world.keys()] == ["signing", "retired"]
        assert (await world.outcome(old), await world.outcome(new)) == ("unknown key", "valid")
        assert world.authority._state.key(old.kid).sealed == b""

    run(test)


def test_a_lowered_maximum_retires_no_key_early() -> None:
    async def test(world: World) -> None:
        old = await world.mint("acme", expires_in_s=90 * DAY_S)
        await world.ask(api.ConfigureOrganization("acme", 60))
        await world.ask(api.RotateKey("acme"))
        world.advance(90 * DAY_S * 1000)
        await world.authority._writer.purge()
        assert await world.outcome(old) == "valid"

    run(test)


def test_the_keys_of_all_rotations_verify_at_the_same_time(path: Path) -> None:
    async def test(world: World) -> None:
        tokens = []
        for _ in range(6):
            tokens.append(await world.mint())
            await world.ask(api.RotateKey("acme"))
        await world.restart()
        assert {await world.outcome(token) for token in tokens} == {"valid"}
        assert [key.generation for key in await world.keys()] == [7, 6, 5, 4, 3, 2, 1]
        await world.revoke(lineage(tokens[2]))
        assert [await world.outcome(token) for token in tokens].count("valid") == 5

    run(test, path)


def test_an_expired_key_is_purged_automatically(path: Path) -> None:
    async def test(world: World) -> None:
        old = await world.mint()
        await world.ask(api.RotateKey("acme"))
        world.advance(91 * DAY_S * 1000)
        await world.restart()
        async with asyncio.timeout(5):
            while await world.outcome(old) == "valid":  # noqa: ASYNC110  a purge signals nothing that the test could wait for
                await asyncio.sleep(0.001)

    run(test, path)


# --- sealing ------------------------------------------------------------------------------------------------


def test_each_root_key_is_sealed_and_bound_to_its_organization() -> None:
    async def test(world: World) -> None:
        rows = list(world.authority._state.keys.values())
        keys = {world.authority._methods._minter._keyring.unseal(row).raw for row in rows}
        assert len(keys) == len(rows) == 2
        assert not any(key in row.sealed for key in keys for row in rows)
        with pytest.raises(errors.BrokenJournal):
            OLD_RING.unseal_root_key(rows[0].sealed, organization="evil", kid=rows[0].kid, generation=1)

    run(test)


def test_resealing_in_batches_moves_every_record_to_the_new_secret(path: Path) -> None:
    async def test(world: World) -> None:
        for index in range(5):
            await world.create(f"o{index}")
        await world.ask(api.RotateKey("acme"))
        tokens = [await world.mint(name) for name in ("acme", "evil", "o3")]
        await world.restart(seal_keys=BOTH_RING)
        assert {await world.outcome(token) for token in tokens} == {"valid"}
        steps = []
        while not steps or steps[-1].remaining:
            steps.append(await world.ask(api.Reseal(limit=3), "resealer"))
        # Eight root keys and the chain key.
        assert [(step.resealed, step.remaining) for step in steps] == [(3, 6), (3, 3), (3, 0)]
        assert await world.ask(api.Reseal(), "resealer") == api.Resealed(resealed=0, remaining=0)
        state = world.authority._state
        assert {seal_id(row.sealed) for row in [*state.keys.values(), *state.chain_keys.values()]} == {NEW_SEAL_KEY.id}

        await world.restart(seal_keys=NEW_RING)
        assert {await world.outcome(token) for token in tokens} == {"valid"}
        await world.ask(api.RotateKey("acme"))
        assert await world.outcome(await world.mint()) == "valid"
        await world.authority.close()
        with pytest.raises(errors.WrongSealKey) as caught:
            await world.open(seal_keys=OLD_RING)
        assert NEW_SEAL_KEY.id.hex() in caught.value.message
        assert OLD_SEAL_KEY.id.hex() in caught.value.message
        assert "TKDB_SEAL_KEYS" in caught.value.hint
        await world.open(seal_keys=NEW_RING)

    run(test, path)


def test_a_repeated_reseal_request_is_carried_out_once(path: Path) -> None:
    async def test(world: World) -> None:
        await world.restart(seal_keys=BOTH_RING)
        request_id = bytes(16)
        first = await world.ask(api.Reseal(limit=1), "resealer", request_id)
        assert await world.ask(api.Reseal(limit=1), "resealer", request_id) == first

    run(test, path)


def test_resealing_replaces_the_chain_key(path: Path) -> None:
    async def test(world: World) -> None:
        old = world.authority._served.chain_key()
        await world.restart(seal_keys=BOTH_RING)
        await world.ask(api.Reseal(), "resealer")
        assert world.authority._served.chain_key() != old

    run(test, path)


def test_an_authority_does_not_open_with_a_wrong_sealing_secret(path: Path) -> None:
    async def test(world: World) -> None:
        await world.authority.close()
        with pytest.raises(errors.WrongSealKey):
            await world.open(seal_keys=NEW_RING)
        await world.open(seal_keys=SealKeys([NEW_SEAL_KEY, OLD_SEAL_KEY]))
        assert await world.outcome(await world.mint()) == "valid"

    run(test, path)


def test_opening_between_two_reseal_batches_needs_both_secrets(path: Path) -> None:
    """Between two batches, some keys are sealed with each secret, so neither secret alone may seem to be enough."""

    async def test(world: World) -> None:
        await world.restart(seal_keys=BOTH_RING)
        await world.ask(api.Reseal(limit=1), "resealer")
        await world.authority.close()
        for ring in (OLD_RING, NEW_RING):
            with pytest.raises(errors.WrongSealKey):
                await world.open(seal_keys=ring)
        await world.open(seal_keys=BOTH_RING)

    run(test, path)


def test_a_failed_opening_releases_the_database(path: Path) -> None:
    async def test() -> None:
        async with open_world(path):
            pass
        for _ in range(3):
            with pytest.raises(errors.WrongSealKey):
                async with open_world(path, seal_keys=NEW_RING):
                    pass
        async with open_world(path) as world:
            assert world.position == 1

    asyncio.run(test())


# --- bounded memory -----------------------------------------------------------------------------------------


def test_the_number_of_unsealed_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "OPEN_KEYS_MAX", 4)

    async def test(world: World) -> None:
        tokens = []
        for index in range(10):
            await world.create(f"o{index}")
            tokens.append(await world.mint(f"o{index}"))
        for _ in range(2):
            assert {await world.outcome(token) for token in tokens} == {"valid"}
        assert len(world.authority._methods._minter._keyring._open) == 4

    run(test)


def test_made_up_kids_are_not_kept_in_memory() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        for index in range(50):
            await world.outcome(_moved(token.raw, token.kid, index))
        assert len(world.authority._methods._minter._keyring._open) <= 1

    run(test)


def _moved(raw: bytes, kid: bytes, index: int) -> str:
    return encode_text(raw.replace(kid, index.to_bytes(16)))
