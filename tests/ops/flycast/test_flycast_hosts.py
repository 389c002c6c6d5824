"""Flycast on ordinary hosts: a real Envoy with the configuration that `tkdb flycast config` prints."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ops.flycast.hosts import Hosts
from tests.waiting import until

# Distances from Singapore in Fly's table: Sydney 93 ms, Amsterdam 165 ms, Virginia 211 ms.
REGIONS = {"syd": 2, "ams": 1, "iad": 1, "sin": 0}


@pytest.fixture(scope="module")
def shared(envoy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(envoy, tmp_path_factory.mktemp("hosts"), REGIONS, here="sin", settings="limit = 4") as hosts:
        yield hosts


@pytest.fixture
def hosts(shared: Hosts) -> Iterator[Hosts]:
    """m1 and m2 in syd, m3 in ams, m4 in iad; callers in sin. Tests leave all machines running."""
    yield shared
    shared.until_healthy("m1", "m2", "m3", "m4")


@pytest.fixture
def pair(envoy: str, tmp_path: Path) -> Iterator[Hosts]:
    """m1 in syd, m2 in iad; callers in syd. Tests may break its machines."""
    with Hosts(envoy, tmp_path, {"syd": 1, "iad": 1}, here="syd") as hosts:
        yield hosts


def test_the_machines_of_the_nearest_region_share_the_requests(hosts: Hosts) -> None:
    until(lambda: {hosts.ask().machine for _ in range(40)} == {"m1", "m2"})


def test_a_killed_machine_fails_no_request_and_answers_again_once_restarted(pair: Hosts) -> None:
    assert {pair.ask(b"a write").machine for _ in range(5)} == {"m1"}
    pair.signal("m1", signal.SIGKILL)
    # Even the first request succeeds: its connection is refused, so nothing was sent and a POST may go to m2.
    answers = [pair.ask(b"a write") for _ in range(20)]
    assert {(answer.status, answer.machine) for answer in answers} == {(200, "m2")}
    pair.start("m1")
    until(lambda: pair.ask().machine == "m1")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops what doesn't fit into a listener's queue")
def test_a_machine_that_is_cut_off_fails_no_new_request(pair: Hosts) -> None:
    with pair.cut_off("m1"):
        answers = [pair.ask(b"a write") for _ in range(5)]
        assert {(answer.status, answer.machine) for answer in answers} == {(200, "m2")}
        pair.until_healthy("m2")


def test_an_unready_machine_gets_no_requests_until_it_is_ready(pair: Hosts) -> None:
    pair.unready("m1").touch()
    pair.until_healthy("m2")
    assert pair.ask().machine == "m2"
    pair.unready("m1").unlink()
    pair.until_healthy("m1", "m2")
    assert pair.ask().machine == "m1"


def test_a_machine_that_hangs_gets_no_requests_once_its_checks_fail(pair: Hosts) -> None:
    pair.signal("m1", signal.SIGSTOP)
    pair.until_healthy("m2")
    assert pair.ask(b"a write").machine == "m2"
    pair.signal("m1", signal.SIGCONT)
    pair.until_healthy("m1", "m2")


def test_a_request_in_flight_is_not_sent_again(pair: Hosts) -> None:
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(pair.ask, b"a write", x_answer_ms="30000")
        until(lambda: pair.request_count("m1") > 0)
        pair.signal("m1", signal.SIGKILL)
        answer = pending.result()
    assert answer.status == 503
    assert answer.headers["fly-proxy-error"].startswith("PC03")
    assert pair.request_count("m2") == 0


def test_without_any_machine_the_error_shows_that_nothing_was_sent(pair: Hosts) -> None:
    pair.signal("m1", signal.SIGKILL)
    pair.signal("m2", signal.SIGKILL)
    answer = pair.ask(b"a write")
    assert answer.status == 503
    assert answer.headers["fly-proxy-error"][:4] in ("PC01", "PC02")


def test_requests_over_the_limit_go_to_the_next_region(hosts: Hosts) -> None:
    with ThreadPoolExecutor(11) as pool:  # m1 and m2 take 4 each; the rest goes to ams.
        answers = list(pool.map(lambda _: hosts.ask(x_answer_ms="5000"), range(11)))
    assert [answer.status for answer in answers] == [200] * 11
    assert {answer.machine for answer in answers} >= {"m1", "m2", "m3"}


@pytest.mark.parametrize("size", [0, 1, 65_535, 1_048_576])
def test_a_write_is_replayed_to_the_machine_that_the_answer_names_byte_for_byte(hosts: Hosts, size: int) -> None:
    body = os.urandom(size)
    answer = hosts.ask(body, path="/v1/write?a=%20b", x_answer_replay="instance=m4;timeout=1s;fallback=force_self")
    assert (answer.status, answer.machine) == (200, "m4")
    assert answer.echoed["path"] == "/v1/write?a=%20b"
    assert answer.echoed["sha256"] == hashlib.sha256(body).hexdigest()
    assert answer.request["fly-replay-src"].startswith(("instance=m1;region=syd;", "instance=m2;region=syd;"))


def test_a_body_over_1_mib_is_not_replayed_and_the_error_gives_the_limit(hosts: Hosts) -> None:
    answer = hosts.ask(bytes(1_048_577), x_answer_replay="instance=m4")
    assert answer.status == 502
    assert "over 1 MiB" in answer.text


def test_a_replay_to_a_killed_machine_falls_back_to_its_source(pair: Hosts) -> None:
    pair.signal("m2", signal.SIGKILL)
    answer = pair.ask(b"a write", x_answer_replay="instance=m2;timeout=1s;fallback=force_self")
    assert (answer.status, answer.machine) == (200, "m1")
    assert answer.request["fly-replay-failed"].startswith("instance=m2;app=tkdb;replay_source=m1;")


def test_callers_can_not_forge_the_proxys_headers_and_none_is_attested(hosts: Hosts) -> None:
    answer = hosts.ask(
        fly_replay_src="forged", flycast_state="plan=instance=m4;app=tkdb;hops=0", fly_src="forged", fly_region="xxx"
    )
    assert answer.machine in ("m1", "m2")
    assert answer.request["fly-region"] == "sin"
    assert not {"fly-replay-src", "fly-src", "fly-src-signature"} & set(answer.request)
    assert "fly" not in answer.headers.get("server", "").lower() + answer.headers.get("via", "").replace("flycast", "")
