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

# From Singapore, Fly's table says: Sydney (93 ms), Amsterdam (165), Virginia (211).
REGIONS = {"syd": 2, "ams": 1, "iad": 1, "sin": 0}


@pytest.fixture(scope="module")
def shared(envoy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(envoy, tmp_path_factory.mktemp("hosts"), REGIONS, here="sin", further="limit = 4") as hosts:
        yield hosts


@pytest.fixture
def hosts(shared: Hosts) -> Iterator[Hosts]:
    """m1 and m2 in syd, m3 in ams, m4 in iad; callers in sin."""
    yield shared
    shared.until_well("m1", "m2", "m3", "m4")


@pytest.fixture
def pair(envoy: str, tmp_path: Path) -> Iterator[Hosts]:
    """m1 in syd, m2 in iad; callers in syd. It may be broken."""
    with Hosts(envoy, tmp_path, {"syd": 1, "iad": 1}, here="syd") as hosts:
        yield hosts


def test_the_nearest_regions_machines_answer_and_share_the_work(hosts: Hosts) -> None:
    until(lambda: {hosts.ask().machine for _ in range(40)} == {"m1", "m2"})


def test_a_machine_that_is_killed_fails_no_request_and_one_that_comes_back_answers_again(pair: Hosts) -> None:
    assert {pair.ask(b"a write").machine for _ in range(5)} == {"m1"}
    pair.signal("m1", signal.SIGKILL)
    # From the first one on: its connection is refused, so nothing was sent, and a POST may go elsewhere, too.
    answers = [pair.ask(b"a write") for _ in range(20)]
    assert {(answer.status, answer.machine) for answer in answers} == {(200, "m2")}
    pair.start("m1")
    until(lambda: pair.ask().machine == "m1")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops what doesn't fit into a listener's queue")
def test_a_machine_that_is_cut_off_fails_no_new_request(pair: Hosts) -> None:
    with pair.cut_off("m1"):
        answers = [pair.ask(b"a write") for _ in range(5)]
        assert {(answer.status, answer.machine) for answer in answers} == {(200, "m2")}
        pair.until_well("m2")


def test_a_machine_that_says_that_it_is_not_ready_is_left_out_until_it_is(pair: Hosts) -> None:
    pair.unready("m1").touch()
    pair.until_well("m2")
    assert pair.ask().machine == "m2"
    pair.unready("m1").unlink()
    pair.until_well("m1", "m2")
    assert pair.ask().machine == "m1"


def test_a_machine_that_hangs_is_left_out_once_its_checks_fail(pair: Hosts) -> None:
    pair.signal("m1", signal.SIGSTOP)
    pair.until_well("m2")
    assert pair.ask(b"a write").machine == "m2"
    pair.signal("m1", signal.SIGCONT)
    pair.until_well("m1", "m2")


def test_a_request_in_flight_is_not_sent_a_second_time(pair: Hosts) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pair.ask, b"a write", x_answer_ms="30000")
        until(lambda: pair.counted("m1") > 0)
        pair.signal("m1", signal.SIGKILL)
        answer = asked.result()
    assert answer.status == 503
    assert answer.headers["fly-proxy-error"].startswith("PC03")
    assert pair.counted("m2") == 0


def test_with_no_machine_at_all_the_answer_says_that_nothing_was_sent(pair: Hosts) -> None:
    pair.signal("m1", signal.SIGKILL)
    pair.signal("m2", signal.SIGKILL)
    answer = pair.ask(b"a write")
    assert answer.status == 503
    assert answer.headers["fly-proxy-error"][:4] in ("PC01", "PC02")


def test_what_a_machine_can_not_take_spills_to_the_next_region(hosts: Hosts) -> None:
    with ThreadPoolExecutor(11) as pool:  # 4 at each of m1 and m2; the rest is for ams
        answers = list(pool.map(lambda _: hosts.ask(x_answer_ms="5000"), range(11)))
    assert [answer.status for answer in answers] == [200] * 11
    assert {answer.machine for answer in answers} >= {"m1", "m2", "m3"}


@pytest.mark.parametrize("size", [0, 1, 65_535, 1_048_576])
def test_a_write_is_replayed_to_the_machine_that_the_answer_names_byte_for_byte(hosts: Hosts, size: int) -> None:
    body = os.urandom(size)
    answer = hosts.ask(body, path="/v1/write?a=%20b", x_answer_replay="instance=m4;timeout=1s;fallback=force_self")
    assert (answer.status, answer.machine) == (200, "m4")
    assert answer.said["path"] == "/v1/write?a=%20b"
    assert answer.said["sha256"] == hashlib.sha256(body).hexdigest()
    assert answer.request["fly-replay-src"].startswith(("instance=m1;region=syd;", "instance=m2;region=syd;"))


def test_a_larger_body_is_not_replayed_and_the_error_says_so(hosts: Hosts) -> None:
    answer = hosts.ask(bytes(1_048_577), x_answer_replay="instance=m4")
    assert answer.status == 502
    assert "over 1 MiB" in answer.text


def test_a_replay_to_a_machine_that_is_gone_comes_back(pair: Hosts) -> None:
    pair.signal("m2", signal.SIGKILL)
    answer = pair.ask(b"a write", x_answer_replay="instance=m2;timeout=1s;fallback=force_self")
    assert (answer.status, answer.machine) == (200, "m1")
    assert answer.request["fly-replay-failed"].startswith("instance=m2;app=tkdb;replay_source=m1;")


def test_callers_can_not_say_what_only_the_proxy_says_and_nobody_is_attested(hosts: Hosts) -> None:
    answer = hosts.ask(
        fly_replay_src="forged", flycast_state="plan=instance=m4;app=tkdb;hops=0", fly_src="forged", fly_region="xxx"
    )
    assert answer.machine in ("m1", "m2")
    assert answer.request["fly-region"] == "sin"
    assert not {"fly-replay-src", "fly-src", "fly-src-signature"} & set(answer.request)
    assert "fly" not in answer.headers.get("server", "").lower() + answer.headers.get("via", "").replace("flycast", "")
