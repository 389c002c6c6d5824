"""Idle machines are stopped, the first request starts them again, and none is stopped during a request."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.ops.flycast.stand_in import TIMEOUT_S, Answer, StandIn, echo
from tests.waiting import until
from tkdb_ops.flycast.admin import Admin
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App
from tkdb_ops.flycast.worker import Files

IDLE_MS = 200
CALLERS = 3
STOPS = 4


@pytest.fixture(scope="module")
def lazy(envoy: str) -> Iterator[StandIn]:
    """An app of one machine in syd, which is stopped after it was idle for 0.2 s."""
    with StandIn(Flycast({App("tkdb", ("syd",), autostop_ms=IDLE_MS): echo}, clients=["sin"])) as stand_in:
        yield stand_in


def checks(stand_in: StandIn, region: str, cluster: str) -> int:
    """Return the number of health checks that the proxy of ``region`` has begun."""
    name = f"cluster.{cluster}.health_check.attempt"
    socket = str(Files(stand_in.flycast.folder).admin(region))
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=TIMEOUT_S) as admin:
        return int(admin.get(f"http://admin/stats?filter=^{name}$").text.partition(": ")[2])


def until_checked_twice(stand_in: StandIn, region: str, cluster: str) -> None:
    before = checks(stand_in, region, cluster)
    until(lambda: checks(stand_in, region, cluster) >= before + 2)


def in_flight(stand_in: StandIn, ms: int) -> tuple[threading.Thread, list[Answer]]:
    """Start a request that takes ``ms``, and wait until the machine has it."""
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(stand_in.ask(body=b"x", x_answer_ms=str(ms))))
    admin = Admin(Files(stand_in.flycast.folder).admin("syd"))
    asking.start()
    until(lambda: stand_in.do(admin.traffic("tkdb-syd-1")).active == 1)
    return asking, answers


def test_a_stopped_machine_is_started_by_a_request_and_not_by_checks(lazy: StandIn) -> None:
    machine = lazy.machine("tkdb-syd-1")
    until(lambda: not machine.running)
    starts = machine.starts
    until_checked_twice(lazy, "sin", "app-tkdb")
    until_checked_twice(lazy, "syd", "machine-tkdb-syd-1")
    assert (machine.running, machine.starts) == (False, starts)
    answer = lazy.ask(body=b"waits")
    assert (answer.status, answer.machine) == (200, "tkdb-syd-1"), answer
    assert answer.echoed["length"] == 5
    assert machine.starts > starts


def test_no_request_fails_while_its_machine_is_being_stopped(lazy: StandIn) -> None:
    machine = lazy.machine("tkdb-syd-1")
    give_up_s = time.monotonic() + TIMEOUT_S
    last_stop = machine.starts + STOPS
    answers: list[Answer] = []

    def ask(seed: int) -> None:
        pauses = random.Random(seed)
        while machine.starts < last_stop and time.monotonic() < give_up_s:
            until(lambda: not machine.running)  # Otherwise the callers' requests would together keep it running.
            time.sleep(pauses.uniform(0, 0.05))
            answers.append(lazy.ask(body=b"x"))
            time.sleep(
                IDLE_MS / 1000 * pauses.uniform(1.0, 1.4)
            )  # The next request arrives at about the time of the stop.
            answers.append(lazy.ask(body=b"x"))

    callers = [threading.Thread(target=ask, args=[seed]) for seed in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert {(answer.status, answer.machine) for answer in answers} == {(200, "tkdb-syd-1")}
    assert machine.starts >= last_stop


def test_a_request_in_flight_keeps_its_machine_running(lazy: StandIn) -> None:
    machine = lazy.machine("tkdb-syd-1")
    asking, answers = in_flight(lazy, ms=5 * IDLE_MS)
    starts = machine.starts
    asking.join()
    assert (answers[0].status, machine.starts) == (200, starts)


def test_without_its_gate_a_stopped_machine_cuts_the_request_in_flight(lazy: StandIn) -> None:
    """The negative control: a stop that doesn't wait for the request in flight."""
    asking, answers = in_flight(lazy, ms=60_000)
    lazy.do(lazy.machine("tkdb-syd-1").stop())
    asking.join()
    assert answers[0].headers["fly-proxy-error"].startswith("PC03")
