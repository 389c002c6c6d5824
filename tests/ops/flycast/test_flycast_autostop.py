"""Machines that are stopped when nobody asks: started by the first request, and never stopped under one."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.ops.flycast.standing import PATIENCE_S, Answer, Standing, echo
from tests.waiting import until
from tkdb_ops.flycast.admin import Admin
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App
from tkdb_ops.flycast.worker import Files

IDLE_MS = 200
CALLERS = 3
STOPS = 4


@pytest.fixture(scope="module")
def lazy(envoy: str) -> Iterator[Standing]:
    """An app of one machine in syd, which is stopped when it was idle for 0.2 s."""
    with Standing(Flycast({App("tkdb", ("syd",), autostop_ms=IDLE_MS): echo}, clients=["sin"])) as standing:
        yield standing


def checks(standing: Standing, region: str, cluster: str) -> int:
    """How many health checks the proxy of ``region`` has begun."""
    name = f"cluster.{cluster}.health_check.attempt"
    socket = str(Files(standing.flycast.folder).admin(region))
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=PATIENCE_S) as admin:
        return int(admin.get(f"http://admin/stats?filter=^{name}$").text.partition(": ")[2])


def until_checked_twice(standing: Standing, region: str, cluster: str) -> None:
    before = checks(standing, region, cluster)
    until(lambda: checks(standing, region, cluster) >= before + 2)


def in_flight(standing: Standing, ms: int) -> tuple[threading.Thread, list[Answer]]:
    """A request that the machine has, and that takes so long."""
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(standing.ask(body=b"x", x_answer_ms=str(ms))))
    admin = Admin(Files(standing.flycast.folder).admin("syd"))
    asking.start()
    until(lambda: standing.do(admin.traffic("tkdb-syd-1")).active == 1)
    return asking, answers


def test_a_stopped_machine_is_started_by_the_first_request_and_by_no_check(lazy: Standing) -> None:
    machine = lazy.machine("tkdb-syd-1")
    until(lambda: not machine.running)
    starts = machine.starts
    until_checked_twice(lazy, "sin", "app-tkdb")
    until_checked_twice(lazy, "syd", "machine-tkdb-syd-1")
    assert (machine.running, machine.starts) == (False, starts)
    answer = lazy.ask(body=b"waits")
    assert (answer.status, answer.machine) == (200, "tkdb-syd-1"), answer
    assert answer.said["length"] == 5
    assert machine.starts > starts


def test_no_request_fails_that_comes_while_a_machine_is_being_stopped(lazy: Standing) -> None:
    machine = lazy.machine("tkdb-syd-1")
    give_up_s = time.monotonic() + PATIENCE_S
    last_stop = machine.starts + STOPS
    answers: list[Answer] = []

    def ask(seed: int) -> None:
        pauses = random.Random(seed)
        while machine.starts < last_stop and time.monotonic() < give_up_s:
            until(lambda: not machine.running)  # or the callers would keep it running for each other
            time.sleep(pauses.uniform(0, 0.05))
            answers.append(lazy.ask(body=b"x"))
            time.sleep(IDLE_MS / 1000 * pauses.uniform(1.0, 1.4))  # about when it is stopped
            answers.append(lazy.ask(body=b"x"))

    callers = [threading.Thread(target=ask, args=[seed]) for seed in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert {(answer.status, answer.machine) for answer in answers} == {(200, "tkdb-syd-1")}
    assert machine.starts >= last_stop


def test_a_request_in_flight_keeps_its_machine_running(lazy: Standing) -> None:
    machine = lazy.machine("tkdb-syd-1")
    asking, answers = in_flight(lazy, ms=5 * IDLE_MS)
    starts = machine.starts
    asking.join()
    assert (answers[0].status, machine.starts) == (200, starts)


def test_a_machine_that_is_stopped_without_its_gate_cuts_the_request_in_flight(lazy: Standing) -> None:
    """The negative control: what every stop would do to a request that was let in, and isn't waited for."""
    asking, answers = in_flight(lazy, ms=60_000)
    lazy.do(lazy.machine("tkdb-syd-1").stop())
    asking.join()
    assert answers[0].headers["fly-proxy-error"].startswith("PC03")
