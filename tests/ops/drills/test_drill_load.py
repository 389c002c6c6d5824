"""The load starts calls independently of each other, repeats writes until acknowledged, and records every outcome."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.waiting import until_awaited
from tkdb import api, errors
from tkdb.macaroon import mint
from tkdb_client import Macaroon
from tkdb_ops.drills.load import Load, Rates, outcome_of
from tkdb_ops.drills.record import CallKind, CallOutcome


class Authority:
    """An authority in one object, with failures that tests inject."""

    def __init__(self) -> None:
        self.revoked: set[bytes] = set()
        self.organizations: list[str] = []
        self.failures: dict[str, list[errors.TkdbError]] = {}
        self.responsive = asyncio.Event()
        self.responsive.set()
        self.verify_count = 0

    async def create_organization(self, name: str) -> None:
        self._fail("create", lambda: self.organizations.append(name))
        if name in self.organizations:
            raise errors.Conflict(f"there is {name}")
        self.organizations.append(name)

    async def mint(self, organization: str, **_: Any) -> Macaroon:
        self._fail("mint")
        return mint.mint(
            "tkdb.example", b"r" * 32, kid=b"k" * 16, time_ms=1_000, random=os.urandom(10), caveats=[]
        )  # fmt: skip

    async def verify(self, token: Macaroon) -> None:
        self.verify_count += 1
        await self.responsive.wait()
        self._fail("verify")
        if token.nonce in self.revoked:
            raise errors.RevokedToken("revoked")

    async def verify_many(self, tokens: list[Macaroon]) -> None:
        self._fail("verify")

    async def revoke(self, token: Macaroon) -> bool:
        self._fail("revoke")
        self.revoked.add(token.nonce)
        return False

    async def status(self) -> api.StatusReport:
        return api.StatusReport("tkdb", "0.1.0", "primary", "iad", "m1", 1, 1, 1)

    def _fail(self, what: str, first: Callable[[], None] = lambda: None) -> None:
        if self.failures.get(what):
            first()
            raise self.failures[what].pop(0)


def run_load(rates: Rates, act: Callable[[Load, Authority], Any]) -> Load:
    """Run a load in one region until ``act`` returns."""

    async def run() -> Load:
        authority, began_s = Authority(), time.monotonic()
        load = Load(
            {"sin": authority},  # type: ignore[dict-item]  # The fake has only the methods that the load uses.
            "drill",
            now_ms=lambda: int((time.monotonic() - began_s) * 1000),
            draw=random.Random(1),
            bound_ms=5_000,
            rates=rates,
        )
        await load.prepare()
        load.start()
        await act(load, authority)
        await load.stop()
        return load

    return asyncio.run(run())


def rates(**some: float) -> Rates:
    return Rates(**{**dict.fromkeys(Rates.__struct_fields__, 0.0), **some})


def test_calls_begin_before_earlier_calls_have_ended() -> None:
    async def act(load: Load, authority: Authority) -> None:
        authority.responsive.clear()
        await until_awaited(lambda: authority.verify_count > 20)
        assert load.calls == []
        authority.responsive.set()

    load = run_load(rates(verify=200), act)
    assert len(load.calls) > 20
    assert max(call.took_ms for call in load.calls) > 0


def test_the_calls_to_an_authority_that_hangs_are_bounded() -> None:
    async def act(load: Load, authority: Authority) -> None:
        authority.responsive.clear()
        await until_awaited(lambda: load.held_back > 5)
        assert authority.verify_count == 300
        authority.responsive.set()

    run_load(rates(verify=5_000), act)


def test_a_revocation_is_repeated_until_acknowledged_and_then_verified_until_denied() -> None:
    async def act(load: Load, authority: Authority) -> None:
        authority.failures["revoke"] = [errors.NoPrimary("…"), errors.OutcomeUnknown("…")]
        await until_awaited(
            lambda: {each.token for each in load.calls if each.outcome is CallOutcome.DENIED} >= firsts(load)
        )

    def firsts(load: Load) -> set[int]:
        return {write.token for write in load.writes[:1]} or {-2}

    load = run_load(rates(revoke=20), act)
    first = load.writes[0]
    *failed, last = [call.outcome for call in load.calls if call.kind is CallKind.REVOKE and call.token == first.token]
    assert failed
    assert set(failed) <= {CallOutcome.UNAVAILABLE, CallOutcome.UNKNOWN}
    assert last is CallOutcome.OK
    assert first.acknowledged_ms is not None
    assert first.token in load.dead


def test_a_write_without_an_acknowledgement_is_recorded_as_such() -> None:
    async def act(load: Load, authority: Authority) -> None:
        authority.failures["revoke"] = [errors.NoPrimary("…")] * 1_000
        await until_awaited(lambda: len(load.calls) > 3)

    load = run_load(rates(revoke=20), act)
    assert {write.acknowledged_ms for write in load.writes} == {None}
    assert (load.dead, load.acknowledged_ms) == ({}, -1)


def test_a_creation_with_a_lost_answer_succeeds_and_a_taken_name_is_refused() -> None:
    async def act(load: Load, authority: Authority) -> None:
        authority.failures["create"] = [
            errors.OutcomeUnknown("…")
        ]  # The organization is created, and the answer is lost.
        await until_awaited(lambda: "drill-1" in load.organizations)

    attempts = [call.outcome for call in run_load(rates(create=20), act).calls if call.kind is CallKind.CREATE]
    assert CallOutcome.UNKNOWN in attempts
    assert CallOutcome.REFUSED not in attempts

    async def taken(load: Load, authority: Authority) -> None:
        authority.organizations += [f"drill-{number}" for number in range(1, 100)]
        await until_awaited(lambda: any(call.outcome is CallOutcome.REFUSED for call in load.calls))

    assert run_load(rates(create=20), taken).calls[0].outcome is CallOutcome.REFUSED


def test_status_calls_record_the_machine_and_failed_calls_the_reason() -> None:
    async def act(load: Load, authority: Authority) -> None:
        authority.failures["mint"] = [errors.Unavailable("the door is shut")]
        await until_awaited(lambda: {CallKind.LOOK, CallKind.MINT} <= {call.kind for call in load.calls})

    load = run_load(rates(look=20, mint=20), act)
    assert {call.by for call in load.calls if call.kind is CallKind.LOOK} == {"m1"}
    assert "Unavailable: the door is shut" in {call.why for call in load.calls if call.kind is CallKind.MINT}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.StaleAuthority("…"), CallOutcome.STALE),
        (errors.ExpiredToken("…"), CallOutcome.DENIED),
        (errors.OutcomeUnknown("…"), CallOutcome.UNKNOWN),
        (errors.NoPrimary("…"), CallOutcome.UNAVAILABLE),
        (errors.ChannelError("…"), CallOutcome.UNAVAILABLE),
        (errors.NotPermitted("…"), CallOutcome.REFUSED),
    ],
)
def test_each_error_has_the_outcome_that_it_means_to_a_caller(error: errors.TkdbError, outcome: CallOutcome) -> None:
    assert outcome_of(error) is outcome
