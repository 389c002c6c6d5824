"""The client's clocks in a process that was suspended, and on a machine whose time is set."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.cache.test_cache_client import RealmServer
from tests.client.conftest import Caller
from tests.client.fake_authority import FakeAuthority
from tkdb import api, errors
from tkdb.macaroon.token import Macaroon
from tkdb_client import clock as clocks
from tkdb_client.clock import BACK_MS, WINDOW_MS, Clock

START_MS = 1_700_000_000_000
BOUND_MS = 5_000


class Machine:
    """The clocks of one machine."""

    def __init__(self, *, boots: bool = False) -> None:
        self.monotonic_ms = self.boot_ms = 50
        self.wall_ms = START_MS
        self.clock = Clock(
            monotonic_ms=lambda: self.monotonic_ms,
            now_ms=lambda: self.wall_ms,
            boot_ms=(lambda: self.boot_ms) if boots else None,
        )
        self.began_ms = self.clock.elapsed_ms()

    def run(self, for_ms: int) -> None:
        self.monotonic_ms += for_ms
        self.suspend(for_ms)

    def suspend(self, for_ms: int) -> None:
        self.boot_ms += for_ms
        self.wall_ms += for_ms

    @property
    def elapsed_ms(self) -> int:
        return self.clock.elapsed_ms() - self.began_ms


@pytest.fixture
def machine() -> Machine:
    return Machine()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run", "suspend", "set forwards", "set back"]),
            st.one_of(st.integers(0, 10**7), st.integers(0, 2 * BACK_MS)),
        )
    ),
    st.booleans(),
    st.sampled_from([0, WINDOW_MS]),
)
def test_data_never_ages_less_than_the_time_that_passed(
    steps: list[tuple[str, int]], boots: bool, window_ms: int
) -> None:
    """The exception is a short time for each setting that takes the wall clock back."""
    machine = Machine(boots=boots)
    steady = (lambda: machine.boot_ms) if boots else (lambda: machine.monotonic_ms)
    elapsed_ms = clocks._following(steady, lambda: machine.wall_ms, window_ms=window_ms)
    before_ms = began_ms = elapsed_ms()
    passed_ms = doubtful_ms = 0
    for what, by_ms in steps:
        set_back_ms = 0
        if what in {"run", "suspend"}:
            getattr(machine, what)(by_ms)
            passed_ms += by_ms
        elif what == "set forwards":
            machine.wall_ms += by_ms
        else:
            machine.wall_ms -= by_ms
            set_back_ms = min(by_ms, BACK_MS + window_ms)
        doubtful_ms += set_back_ms
        now_ms = elapsed_ms()
        assert now_ms - began_ms >= passed_ms - doubtful_ms
        assert now_ms >= before_ms - (window_ms and set_back_ms)
        before_ms = now_ms


def test_a_clock_that_is_set_back_does_not_hide_a_later_suspension(machine: Machine) -> None:
    machine.wall_ms -= 3_600_000
    assert machine.elapsed_ms == 0
    machine.suspend(60_000)
    assert machine.elapsed_ms == 60_000


def test_many_short_suspensions_add_up(machine: Machine) -> None:
    for _ in range(100):
        machine.suspend(60)
        machine.run(10)
        assert machine.elapsed_ms >= 0
    assert machine.elapsed_ms == 7_000


def test_the_boot_time_clock_shows_a_suspension_that_the_wall_clock_does_not() -> None:
    machine = Machine(boots=True)
    machine.boot_ms += 60_000
    assert machine.elapsed_ms == 60_000


def test_an_interruption_between_both_clocks_does_not_make_time_run_faster(machine: Machine) -> None:
    """A thread may be interrupted after it has read the wall clock."""
    late_ms = 0
    machine.clock = clock = Clock(monotonic_ms=lambda: machine.monotonic_ms + late_ms, now_ms=lambda: machine.wall_ms)
    began_ms = clock.elapsed_ms()
    for number in range(1_000):
        machine.run(10)
        late_ms = 40 if number % 2 else 0
        clock.elapsed_ms()
    late_ms = 0
    assert clock.elapsed_ms() - began_ms == 10_000


def test_the_system_s_clocks_are_used_by_default() -> None:
    clock = Clock()
    before_ms = clock.elapsed_ms()
    time.sleep(0.02)
    assert clock.elapsed_ms() - before_ms >= 19
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert clocks._boot_ns is not None
        assert abs(clock.elapsed_ms() - clocks._boot_ns() // 1_000_000) < 10_000


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(authority: FakeAuthority) -> RealmServer:
    return RealmServer(authority)


def cached(connect: Any, machine: Machine) -> Caller:
    made: Caller = connect(cache_bytes=1 << 20, clock=machine.clock)
    return made


def with_a_revoked_token(connect: Any, machine: Machine, server: RealmServer) -> tuple[Caller, Macaroon]:
    """Return a caller that has a token in its cache, and the token, which was revoked after that."""
    caller, token = cached(connect, machine), server.realm.mint()
    caller.call("verify", token.text)
    server.realm.revoke(api.Lineage(token.kid, token.nonce))
    return caller, token


def test_a_token_that_was_revoked_while_the_machine_was_suspended_is_denied(
    connect: Any, machine: Machine, server: RealmServer
) -> None:
    caller, token = with_a_revoked_token(connect, machine, server)
    machine.suspend(BOUND_MS + 1)
    with pytest.raises(errors.RevokedToken):
        caller.call("verify", token.text)


def test_with_the_monotonic_clock_alone_a_revoked_token_is_accepted_after_a_suspension(
    connect: Any, machine: Machine, server: RealmServer
) -> None:
    object.__setattr__(machine.clock, "elapsed_ms", machine.clock.monotonic_ms)
    caller, token = with_a_revoked_token(connect, machine, server)
    machine.suspend(BOUND_MS + 1)
    assert caller.call("verify", token.text).macaroon == token


def test_a_clock_that_is_set_forwards_costs_one_verification(
    connect: Any, machine: Machine, server: RealmServer
) -> None:
    caller, token = cached(connect, machine), server.realm.mint()
    for _ in range(2):
        caller.call("verify", token.text)
        caller.call("verify", token.text)
        machine.wall_ms += 3_600_000
    caller.call("verify", token.text)
    assert server.count() == 3


def test_a_clock_that_is_set_back_does_not_make_data_fresher(
    connect: Any, machine: Machine, server: RealmServer
) -> None:
    caller, token = with_a_revoked_token(connect, machine, server)
    machine.wall_ms -= 3_600_000
    machine.run(BOUND_MS + 1)
    with pytest.raises(errors.RevokedToken):
        caller.call("verify", token.text)


def test_a_call_in_flight_survives_a_clock_that_is_set_forwards(
    connect: Any, machine: Machine, server: RealmServer
) -> None:
    """The answer may be from before a suspension, so it is asked for again."""
    caller, token = cached(connect, machine), server.realm.mint()
    answer = server.authority.handler

    def set_forwards(call: Any) -> Any:
        machine.wall_ms += 3_600_000
        server.authority.handler = answer
        return answer(call)

    server.authority.handler = set_forwards
    assert caller.call("verify", token.text).macaroon == token
    assert server.count() == 2
