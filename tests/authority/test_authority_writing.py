"""Writes: each request is carried out once, and is served only once it is on the disk."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.authority.world import World, branch, lineage, run
from tkdb import api, errors
from tkdb.macaroon.caveats import Act
from tkdb.macaroon.token import Macaroon

REQUEST_ID = bytes(range(16))


# --- a request is carried out once --------------------------------------------------------------------------


def test_a_repeated_request_gives_the_same_outcome_and_one_entry() -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        for call in (
            api.CreateOrganization("new"),
            api.ConfigureOrganization("acme", 60),
            api.RotateKey("acme"),
            api.Revoke([lineage(token), api.RetireKey(token.kid)]),
            api.DeleteOrganization("evil"),
        ):
            request_id = world.random.randbytes(16)
            first = await world.ask(call, request_id=request_id)
            position, keys = world.position, await world.keys()
            world.advance(5_000)
            assert await world.ask(call, request_id=request_id) == first
            assert (world.position, await world.keys()) == (position, keys)

    run(test)


def test_a_request_sent_ten_times_at_once_is_carried_out_once() -> None:
    async def test(world: World) -> None:
        position = world.position
        call = api.CreateOrganization("new")
        outcomes = await asyncio.gather(*(world.ask(call, request_id=REQUEST_ID) for _ in range(10)))
        assert outcomes == [outcomes[0]] * 10
        assert world.position == position + 1

    run(test)


def test_a_request_id_with_another_body_is_refused() -> None:
    async def test(world: World) -> None:
        await world.ask(api.CreateOrganization("new"), request_id=REQUEST_ID)
        position = world.position
        with pytest.raises(errors.Conflict, match="request id was used") as caught:
            await world.ask(api.CreateOrganization("newer"), request_id=REQUEST_ID)
        assert caught.value.hint
        calls = [world.ask(api.CreateOrganization(f"o{index}"), request_id=bytes(16)) for index in range(5)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(errors.Conflict) == 4
        assert world.position == position + 1

    run(test)


def test_two_signers_can_use_the_same_request_id() -> None:
    async def test(world: World) -> None:
        await world.ask(api.RotateKey("acme"), "root", REQUEST_ID)
        await world.ask(api.RotateKey("acme"), "acme", REQUEST_ID)
        assert len(await world.keys()) == 3

    run(test)


def test_a_request_is_remembered_after_a_restart(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        created = await world.ask(api.CreateOrganization("new"), request_id=REQUEST_ID)
        await world.restart()
        position = world.position
        assert await world.ask(api.CreateOrganization("new"), request_id=REQUEST_ID) == created
        with pytest.raises(errors.Conflict):
            await world.ask(api.CreateOrganization("newer"), request_id=REQUEST_ID)
        assert world.position == position

    run(test, tmp_path / "tkdb.db")


def test_a_refused_request_does_not_use_up_its_id() -> None:
    async def test(world: World) -> None:
        with pytest.raises(errors.NotPermitted):
            await world.ask(api.RotateKey("acme"), "evil", REQUEST_ID)
        with pytest.raises(errors.Conflict, match="exists"):
            await world.ask(api.CreateOrganization("acme"), "root", REQUEST_ID)
        await world.ask(api.RotateKey("acme"), "root", REQUEST_ID)

    run(test)


# --- no write is served before it is on the disk ------------------------------------------------------------


async def _served(world: World, tokens: list[Macaroon]) -> Any:
    """Return all the data that callers can see."""
    organizations = await world.ask(api.ListOrganizations())
    feed = await world.feed(*{token.kid for token in tokens})
    return world.position, organizations, feed, [await world.outcome(token) for token in tokens]


async def _check_failed_writes_change_nothing(world: World, obstacle: Any) -> None:
    token = await world.mint()
    tokens = [token, token.narrow(Act("r")), await world.mint("evil")]
    before = await _served(world, tokens)
    padding = [api.Lineage(token.kid, token.nonce[:6] + index.to_bytes(10)) for index in range(500)]
    attempts = [
        (api.Revoke([branch(tokens[1]), api.Before("evil"), *padding]), "root"),
        (api.RevokeOwn(tokens[1].text), None),
        (api.CreateOrganization("new"), "root"),
        (api.RotateKey("acme"), "root"),
        (api.DeleteOrganization("evil"), "root"),
    ]
    with obstacle:
        for call, signer in attempts:
            with pytest.raises(errors.StoreUnwritable) as caught:
                await world.ask(call, signer, REQUEST_ID)
            assert caught.value.hint
            assert await _served(world, tokens) == before
    # The same request succeeds once the authority can write again.
    assert await world.ask(attempts[0][0], "root", REQUEST_ID) == api.Revoked(already=False)
    assert world.position == before[0] + 1
    assert [await world.outcome(each) for each in tokens] == ["valid", "revoked", "revoked"]


def test_a_failed_write_changes_no_served_data(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        async def fail(*_: Any) -> None:
            raise errors.StoreUnwritable("the disk is full", hint="free space")

        with monkeypatch.context() as patch:
            patch.setattr(world.authority._served.database, "append", fail)
            await _check_failed_writes_change_nothing(world, _undo_after(patch))

    run(test)


@contextmanager
def _undo_after(patch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    patch.undo()


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """Let no file of this process grow beyond the size of the log."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(path.name + "-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_writes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "tkdb.db"

    async def test(world: World) -> None:
        await _check_failed_writes_change_nothing(world, _full_disk(path))
        token = await world.mint()
        await world.restart()
        assert await world.outcome(token) == "valid"

    run(test, path)


def test_a_failed_write_ends_no_long_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        poll = asyncio.create_task(world.feed(token.kid, after=world.position, wait_ms=30_000))
        await asyncio.sleep(0)

        async def fail(*_: Any) -> None:
            raise errors.StoreUnwritable("the disk is full", hint="free space")

        with monkeypatch.context() as patch:
            patch.setattr(world.authority._served.database, "append", fail)
            with pytest.raises(errors.StoreUnwritable):
                await world.revoke(lineage(token))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not poll.done()
        await world.revoke(lineage(token))
        assert (await poll).revocations == [api.Lineage(token.kid, token.nonce)]

    run(test)


def test_a_revoked_token_is_not_denied_before_the_revocation_is_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        token = await world.mint()
        position, append, held = world.position, world.authority._served.database.append, asyncio.Event()

        async def hold(*arguments: Any) -> None:
            await held.wait()
            await append(*arguments)

        monkeypatch.setattr(world.authority._served.database, "append", hold)
        writing = asyncio.create_task(world.revoke(lineage(token)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (world.position, await world.outcome(token)) == (position, "valid")
        held.set()
        await writing
        assert (world.position, await world.outcome(token)) == (position + 1, "revoked")

    run(test)


def test_a_cancelled_write_leaves_the_authority_consistent(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for turns in range(1, 12):
            token = await world.mint()
            for call, signer in ((api.Revoke([lineage(token)]), "root"), (api.RevokeOwn(token.text), None)):
                cancelled = asyncio.create_task(world.ask(call, signer))
                for _ in range(turns):
                    await asyncio.sleep(0)
                cancelled.cancel()
                await asyncio.wait({cancelled})
            # The authority serves the entries that are on the disk, and later entries follow them.
            other = await world.mint()
            await world.revoke(lineage(other))
            [last] = await world.authority._served.database.entries(world.position - 1, 10)
            assert last.seq == world.position
        await world.restart()

    run(test, tmp_path / "tkdb.db")


# --- a restart, and a second process ------------------------------------------------------------------------


def test_a_restart_serves_the_same_data(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        token, other = await world.mint(), await world.mint("evil")
        child = token.narrow(Act("r"))
        await world.revoke_own(child)
        await world.revoke(api.Before("evil"))
        await world.ask(api.RotateKey("acme"))
        tokens = [token, child, other, await world.mint("acme"), await world.mint("evil")]
        before = await _served(world, tokens)
        assert before[3] == ["valid", "revoked", "revoked", "valid", "valid"]
        await world.restart()
        assert await _served(world, tokens) == before

    run(test, tmp_path / "tkdb.db")


def test_a_second_process_on_the_same_database_is_refused(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        second = World(world.path)
        with pytest.raises(errors.StoreError, match="another process"):
            await second.open()

    run(test, tmp_path / "tkdb.db")


def test_without_the_lock_a_second_process_would_accept_a_token_that_the_first_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""

    async def test(world: World) -> None:
        token = await world.mint()
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
        second = World(world.path)
        await second.open()
        try:
            await world.revoke(lineage(token))
            assert (await world.outcome(token), await second.outcome(token)) == ("revoked", "valid")
        finally:
            await second.authority.close()

    run(test, tmp_path / "tkdb.db")
