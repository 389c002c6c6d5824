"""``fly-replay``: the request goes, as it is, to where the app's answer sends it, or comes back."""

from __future__ import annotations

import hashlib
import os
import re
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import profiles
from tests.ops.flycast.standing import Standing


def replay(standing: Standing, asked: str, body: bytes | None = b"body") -> tuple[str, str, str]:
    """Who answered a request from sin that syd replayed; and what that machine was told of it."""
    answer = standing.ask("sin", body=body, x_answer_replay=asked, path="/v1/write?a=%20b")
    assert answer.status == 200, answer.text
    assert answer.said["path"] == "/v1/write?a=%20b"
    assert answer.said["method"] == ("GET" if body is None else "POST")
    assert answer.said["sha256"] == hashlib.sha256(body or b"").hexdigest()
    return answer.machine, answer.request.get("fly-replay-src", ""), answer.request.get("fly-replay-failed", "")


@pytest.mark.parametrize(
    ("asked", "machine"),
    [
        ("region=iad", "tkdb-iad-1"),
        ('region="iad"', "tkdb-iad-1"),
        ('region="zzz,iad,ams"', "tkdb-iad-1"),
        ('region="zzz,any"', "tkdb-syd-1"),
        ("region=eu", "tkdb-ams-1"),
        ('region="us,any"', "tkdb-iad-1"),
        ("instance=tkdb-iad-1", "tkdb-iad-1"),
        ("instance=tkdb-iad-1;region=ams", "tkdb-iad-1"),
        ("prefer_instance=tkdb-iad-1", "tkdb-iad-1"),
        ("elsewhere=true", "tkdb-ams-1"),
        ("app=narrow", "narrow-syd-1"),
        ("app=narrow;region=ams", "narrow-ams-1"),
        ("app=tkdb;region=iad;timeout=10s;fallback=prefer_self", "tkdb-iad-1"),
    ],
)
def test_a_request_is_replayed_where_the_answer_says(standing: Standing, asked: str, machine: str) -> None:
    answered, source, failed = replay(standing, asked)
    assert answered == machine
    assert re.fullmatch(r"instance=tkdb-syd-1;region=syd;t=\d{16}", source)
    assert failed == ""


def test_a_request_without_a_body_is_replayed_too(standing: Standing) -> None:
    assert replay(standing, "region=iad", None)[0] == "tkdb-iad-1"


def test_the_state_reaches_the_target(standing: Standing) -> None:
    assert replay(standing, "region=iad;state=captured_write")[1].endswith(";state=captured_write")


def test_a_preferred_machine_that_is_not_there_is_named_to_who_answers(standing: Standing) -> None:
    answer = standing.ask("sin", body=b"", x_answer_replay='prefer_instance=gone;region="ams,any"')
    assert answer.machine == "tkdb-ams-1"
    assert answer.request["fly-preferred-instance-unavailable"] == "gone"


def test_a_replay_that_can_not_be_done_comes_back_to_who_asked_for_it(standing: Standing) -> None:
    standing.do(standing.machine("tkdb-iad-1").kill())
    machine, source, failed = replay(standing, "instance=tkdb-iad-1;timeout=1s;fallback=force_self")
    assert (machine, source) == ("tkdb-syd-1", "")
    assert re.fullmatch(
        r"instance=tkdb-iad-1;app=tkdb;replay_source=tkdb-syd-1;"
        r"reason=(no_candidate|retries_exhausted|timeout);elapsed_ms=\d+",
        failed,
    )
    assert replay(standing, "app=lazy;region=zzz;fallback=prefer_self")[0] == "tkdb-syd-1"


def test_a_replay_to_a_machine_that_hangs_comes_back_when_its_time_is_over(standing: Standing) -> None:
    standing.do(standing.machine("tkdb-iad-1").pause())
    try:
        machine, _, failed = replay(standing, "instance=tkdb-iad-1;timeout=700ms;fallback=force_self")
    finally:
        standing.do(standing.machine("tkdb-iad-1").resume())
    assert machine == "tkdb-syd-1"
    assert ";reason=timeout;" in failed


def test_a_replay_to_a_region_that_is_cut_off_comes_back(standing: Standing) -> None:
    standing.do(standing.flycast.backbone.isolate("iad"))
    machine, _, failed = replay(standing, "region=iad;timeout=1s;fallback=force_self")
    assert machine == "tkdb-syd-1"
    assert failed


def test_without_a_fallback_a_replay_that_can_not_be_done_is_an_error(standing: Standing) -> None:
    assert standing.ask("sin", x_answer_replay="instance=nobody").status == 503
    assert standing.ask("sin", x_answer_replay="region=zzz;timeout=1s").status == 503


def test_a_request_that_came_back_is_not_replayed_again(standing: Standing) -> None:
    answer = standing.ask("sin", x_answer_always="instance=nobody;fallback=force_self")
    assert (answer.status, answer.machine) == (200, "tkdb-syd-1")
    assert "fly-replay-failed" in answer.request


def test_machines_that_replay_to_each_other_make_no_loop(standing: Standing) -> None:
    answer = standing.ask("sin", x_answer_always="elsewhere=true")
    assert (answer.status, answer.headers["fly-proxy-error"]) == (502, "it was replayed too often")


@pytest.mark.parametrize("size", [1, 65_536, 1_048_576])
def test_a_body_up_to_1_mib_is_replayed_byte_for_byte(standing: Standing, size: int) -> None:
    assert replay(standing, "region=iad", os.urandom(size))[0] == "tkdb-iad-1"


def test_a_larger_body_can_not_be_replayed_and_the_error_says_so(standing: Standing) -> None:
    answer = standing.ask("sin", body=bytes(1_048_577), x_answer_replay="region=iad")
    assert answer.status == 502
    assert "over 1 MiB" in answer.text
    assert "over 1 MiB" in answer.headers["fly-proxy-error"]
    assert not [name for name in answer.headers if name.startswith(("flycast-", "fly-replay"))]


def test_a_larger_body_that_is_not_replayed_goes_through(standing: Standing) -> None:
    body = os.urandom(3_000_000)
    assert standing.ask("sin", body=body).said["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    "asked",
    ["garbage", "region", 'region="a,b', "region=iad;region=ams", "timeout=soon;region=iad", "app=nobody", "app=..",
     "region=iad;fallback=never", "instance=", "instance=a|any", "region=" + ",".join(["iad"] * 40)],
)  # fmt: skip
def test_a_fly_replay_that_can_not_be_read_is_an_error_and_not_an_answer(standing: Standing, asked: str) -> None:
    answer = standing.ask("sin", x_answer_replay=asked)
    assert (answer.status, answer.machine) == (502, "")
    assert "fly-replay" in answer.headers["fly-proxy-error"]


@settings(
    max_examples=profiles.CURRENT.few_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.sampled_from(["region", "instance", "app", "state", "elsewhere", "timeout", "fallback", "=", ";", '"', ","])
        | st.text(string.ascii_letters + string.digits + ' ="|;,.%[]()-\\', max_size=6)
    ).map(lambda parts: "".join(parts).strip())
)
def test_whatever_an_app_answers_the_proxy_gives_an_answer_and_says_nothing_of_its_own(
    standing: Standing, asked: str
) -> None:
    answer = standing.ask("sin", body=b"x", x_answer_replay=asked)
    assert answer.status in (200, 502, 503)
    assert not [name for name in answer.headers if name.startswith("flycast-")]
    if answer.machine:
        assert not [name for name in answer.request if name.startswith("flycast-")]
