"""Rounds: writes that arrive while a round is being acknowledged share the next round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import profiles
from tests.authority.world import World, branch, lineage, run
from tkdb import api, errors
from tkdb.authority.publisher import Alone
from tkdb.journal.entry import Entry


class HeldPublisher(Alone):
    """A publisher that acknowledges a round only when the test calls ``acknowledge``."""

    def __init__(self, world: World) -> None:
        self.served = world.authority._served
        super().__init__(self.served)
        self.rounds: list[tuple[list[Entry], asyncio.Future[None]]] = []
        self.room = 256
        self.failed: list[bool] = []
        world.authority._writer._publisher = self

    def require_room(self, entries: int, size_bytes: int) -> None:
        if entries > self.room:
            raise errors.Overloaded("slow down")

    def committed(self, entries: Sequence[Entry]) -> Awaitable[None]:
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rounds.append((list(entries), acknowledged))
        return acknowledged

    def commit_failed(self, *, doubtful: bool) -> None:
        self.failed.append(doubtful)

    async def wait_for_round(self, number: int) -> None:
        """Wait until ``number`` rounds are committed."""
        while len(self.rounds) < number:  # noqa: ASYNC110 -- a commit signals nothing here
            await asyncio.sleep(0.001)

    async def acknowledge(self, number: int) -> None:
        """Acknowledge and show a round, as if a head named its entries."""
        await self.wait_for_round(number)
        entries, acknowledged = self.rounds[number - 1]
        await self.served.show(entries[-1].seq, entries[-1].hash)
        acknowledged.set_result(None)


def run_held(test: Callable[[World, HeldPublisher], Awaitable[None]]) -> None:
    async def with_publisher(world: World) -> None:
        await test(world, HeldPublisher(world))

    run(with_publisher)


def ask(world: World, call: Any, request_id: bytes | None = None) -> asyncio.Task[Any]:
    return asyncio.create_task(world.ask(call, request_id=request_id))


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Let every other task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_writes_that_arrive_during_a_round_share_the_next_one() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        first = ask(world, api.CreateOrganization("one"))
        await publisher.wait_for_round(1)
        others = [ask(world, api.CreateOrganization(f"org-{number}")) for number in range(50)]
        await settled()
        assert len(publisher.rounds) == 1
        await publisher.acknowledge(1)
        await publisher.acknowledge(2)
        assert len(await asyncio.gather(first, *others)) == 51
        assert [len(entries) for entries, _ in publisher.rounds] == [1, 50]

    run_held(test)


def test_a_write_is_neither_served_nor_answered_before_it_is_acknowledged() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        token, position = await world.mint(), world.position
        feed = asyncio.create_task(world.feed(token.kid, after=position, wait_ms=20_000))
        revoking = ask(world, api.Revoke([lineage(token)]))
        await publisher.wait_for_round(1)
        await settled()
        assert (await world.outcome(token), world.position) == ("valid", position)
        assert not revoking.done()
        assert not feed.done()
        await publisher.acknowledge(1)
        await revoking
        assert (await world.outcome(token), world.position) == ("revoked", position + 1)
        assert (await feed).revocations == [lineage(token)]

    run_held(test)


def test_each_write_is_decided_on_the_earlier_writes_of_its_round() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        token = await world.mint()
        blocker = ask(world, api.CreateOrganization("blocker"))
        await publisher.wait_for_round(1)
        calls = [
            api.CreateOrganization("new"),
            api.CreateOrganization("new"),
            api.RotateKey("new"),
            api.RotateKey("new"),
            api.Revoke([lineage(token)]),
            api.Revoke([lineage(token)]),
            api.Revoke([branch(token)]),
            api.DeleteOrganization("evil"),
            api.RotateKey("evil"),
        ]
        writes = [ask(world, call) for call in calls]
        await settled()
        await publisher.acknowledge(1)
        await publisher.acknowledge(2)
        done = await asyncio.gather(*writes, return_exceptions=True)
        await blocker
        assert isinstance(done[1], errors.Conflict)
        assert isinstance(done[8], errors.NotFound)
        assert [key.generation for key in done[3].keys] == [3, 2, 1]
        assert [outcome.already for outcome in done[4:7]] == [False, True, True]
        assert len(publisher.rounds[1][0]) == 5

    run_held(test)


def test_a_revocation_already_made_in_its_round_gets_the_rounds_outcome() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        token = await world.mint()
        blocker = ask(world, api.CreateOrganization("blocker"))
        await publisher.wait_for_round(1)
        revoking, again = ask(world, api.Revoke([lineage(token)])), ask(world, api.Revoke([lineage(token)]))
        await settled()
        await publisher.acknowledge(1)
        await publisher.wait_for_round(2)
        await settled()
        assert not again.done()
        publisher.rounds[1][1].set_exception(errors.OutcomeUnknown("this machine isn't primary any more"))
        for task in (revoking, again):
            with pytest.raises(errors.OutcomeUnknown):
                await task
        await blocker

    run_held(test)


def test_a_request_repeated_within_a_round_is_carried_out_once() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        request_id = bytes(range(16))
        blocker = ask(world, api.CreateOrganization("blocker"))
        await publisher.wait_for_round(1)
        twice = [ask(world, api.CreateOrganization("new"), request_id) for _ in range(2)]
        other = ask(world, api.CreateOrganization("other"), request_id)
        await settled()
        await publisher.acknowledge(1)
        await publisher.acknowledge(2)
        one, two = await asyncio.gather(*twice)
        assert one == two
        with pytest.raises(errors.Conflict):
            await other
        assert len(publisher.rounds[1][0]) == 1
        await blocker

    run_held(test)


def test_a_write_without_room_in_a_round_is_the_first_of_the_next() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        blocker = ask(world, api.CreateOrganization("blocker"))
        await publisher.wait_for_round(1)
        publisher.room = 2
        asked = [ask(world, api.CreateOrganization(f"org-{number}")) for number in range(3)]
        await settled()
        for number in (1, 2, 3):
            await publisher.acknowledge(number)
        assert [organization.name for organization in await asyncio.gather(*asked)] == ["org-0", "org-1", "org-2"]
        assert [len(entries) for entries, _ in publisher.rounds] == [1, 2, 1]
        await blocker

    run_held(test)


def test_a_write_without_room_in_any_round_raises_overloaded() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        publisher.room = 0
        with pytest.raises(errors.Overloaded):
            await world.ask(api.CreateOrganization("new"))
        publisher.room = 1
        creating = ask(world, api.CreateOrganization("new"))
        await publisher.acknowledge(1)
        assert (await creating).name == "new"

    run_held(test)


def test_a_failed_commit_does_not_change_the_outcome_of_an_earlier_request() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        request_id = bytes(range(16))
        creating = ask(world, api.CreateOrganization("one"), request_id)
        await publisher.acknowledge(1)
        blocker = ask(world, api.CreateOrganization("blocker"))
        await publisher.wait_for_round(2)

        async def fail(*_: object) -> None:
            raise errors.StoreUnwritable("the disk is full")

        repeated, new = ask(world, api.CreateOrganization("one"), request_id), ask(world, api.CreateOrganization("two"))
        await settled()
        world.authority._served.database.append = fail
        await publisher.acknowledge(2)
        assert await repeated == await creating
        with pytest.raises(errors.StoreUnwritable):
            await new
        await blocker

    run_held(test)


@pytest.mark.parametrize("error", [errors.StoreUnwritable("the disk is full"), errors.OutcomeUnknown("it failed")])
def test_a_failed_commit_fails_only_its_round(error: errors.Unavailable, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        async def fail(*_: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(world.authority._served.database, "append", fail)
            with pytest.raises(type(error)):
                await world.ask(api.CreateOrganization("new"))
        assert publisher.failed == [isinstance(error, errors.OutcomeUnknown)]
        creating = ask(world, api.CreateOrganization("new"))
        await publisher.acknowledge(1)
        assert (await creating).name == "new"

    run_held(test)


def test_a_cancelled_caller_stops_neither_its_own_write_nor_the_others() -> None:
    async def test(world: World, publisher: HeldPublisher) -> None:
        gone, stays = ask(world, api.CreateOrganization("gone")), ask(world, api.CreateOrganization("stays"))
        await publisher.wait_for_round(1)
        gone.cancel()
        await publisher.acknowledge(1)
        assert (await stays).name == "stays"
        assert {each.name for each in (await world.ask(api.ListOrganizations())).organizations} > {"gone", "stays"}

    run_held(test)


WRITES = st.lists(
    st.one_of(
        st.sampled_from(["a", "b", "c"]).map(api.CreateOrganization),
        st.sampled_from(["a", "b", "acme"]).map(api.RotateKey),
        st.sampled_from(["a", "evil"]).map(api.DeleteOrganization),
        st.sampled_from([60, 3600]).map(lambda lifetime_s: api.ConfigureOrganization("acme", lifetime_s)),
        st.sampled_from(["acme", "a"]).map(lambda name: api.Revoke([api.Before(name)])),
        st.sampled_from(["s1", "s2"]).map(lambda subject: api.Revoke([api.Before("acme", None, subject)])),
    ),
    max_size=12,
)


@settings(max_examples=profiles.CURRENT.few_examples, deadline=None)
@given(writes=WRITES)
def test_writes_in_one_round_give_the_same_result_as_in_sequence(writes: list[api.WriteCall]) -> None:
    async def play(world: World, *, at_once: bool) -> list[str]:
        if at_once:
            done = await asyncio.gather(*(world.ask(call) for call in writes), return_exceptions=True)
        else:
            done = [await asyncio.gather(world.ask(call), return_exceptions=True) for call in writes]
            done = [outcome for [outcome] in done]
        entries = await world.authority._served.database.entries(0, 1_000)
        return [
            *(f"{type(one).__name__} {getattr(one, 'already', '')}" for one in done),
            *(f"{e.body!r}" for e in entries),
        ]

    outcomes: list[list[str]] = []
    for at_once in (False, True):

        async def test(world: World, at_once: bool = at_once) -> None:
            outcomes.append(await play(world, at_once=at_once))

        run(test)
    assert outcomes[0] == outcomes[1]
