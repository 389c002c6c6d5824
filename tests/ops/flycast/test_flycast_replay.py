"""``fly-replay``: the proxy sends the unchanged request to the machine that the app names, or back to the app."""

from __future__ import annotations

import hashlib
import os
import re
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import profiles
from tests.ops.flycast.stand_in import StandIn


def replay(stand_in: StandIn, fly_replay: str, body: bytes | None = b"body") -> tuple[str, str, str]:
    """Return the machine that answered a request from sin that syd replayed, and the two replay headers that it got."""
    answer = stand_in.ask("sin", body=body, x_answer_replay=fly_replay, path="/v1/write?a=%20b")
    assert answer.status == 200, answer.text
    assert answer.echoed["path"] == "/v1/write?a=%20b"
    assert answer.echoed["method"] == ("GET" if body is None else "POST")
    assert answer.echoed["sha256"] == hashlib.sha256(body or b"").hexdigest()
    return answer.machine, answer.request.get("fly-replay-src", ""), answer.request.get("fly-replay-failed", "")


@pytest.mark.parametrize(
    ("fly_replay", "machine"),
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
def test_a_request_is_replayed_to_the_named_machine(stand_in: StandIn, fly_replay: str, machine: str) -> None:
    answered, source, failed = replay(stand_in, fly_replay)
    assert answered == machine
    assert re.fullmatch(r"instance=tkdb-syd-1;region=syd;t=\d{16}", source)
    assert failed == ""


def test_a_request_without_a_body_is_replayed_too(stand_in: StandIn) -> None:
    assert replay(stand_in, "region=iad", None)[0] == "tkdb-iad-1"


def test_the_state_of_a_replay_reaches_the_target(stand_in: StandIn) -> None:
    assert replay(stand_in, "region=iad;state=captured_write")[1].endswith(";state=captured_write")


def test_a_missing_preferred_machine_is_named_to_the_machine_that_answers(stand_in: StandIn) -> None:
    answer = stand_in.ask("sin", body=b"", x_answer_replay='prefer_instance=gone;region="ams,any"')
    assert answer.machine == "tkdb-ams-1"
    assert answer.request["fly-preferred-instance-unavailable"] == "gone"


def test_an_impossible_replay_falls_back_to_its_source(stand_in: StandIn) -> None:
    stand_in.do(stand_in.machine("tkdb-iad-1").kill())
    machine, source, failed = replay(stand_in, "instance=tkdb-iad-1;timeout=1s;fallback=force_self")
    assert (machine, source) == ("tkdb-syd-1", "")
    assert re.fullmatch(
        r"instance=tkdb-iad-1;app=tkdb;replay_source=tkdb-syd-1;"
        r"reason=(no_candidate|retries_exhausted|timeout);elapsed_ms=\d+",
        failed,
    )
    assert replay(stand_in, "app=lazy;region=zzz;fallback=prefer_self")[0] == "tkdb-syd-1"


def test_a_replay_to_a_machine_that_hangs_falls_back_after_its_timeout(stand_in: StandIn) -> None:
    stand_in.do(stand_in.machine("tkdb-iad-1").pause())
    try:
        machine, _, failed = replay(stand_in, "instance=tkdb-iad-1;timeout=700ms;fallback=force_self")
    finally:
        stand_in.do(stand_in.machine("tkdb-iad-1").resume())
    assert machine == "tkdb-syd-1"
    assert ";reason=timeout;" in failed


def test_a_replay_to_a_region_that_is_cut_off_falls_back(stand_in: StandIn) -> None:
    stand_in.do(stand_in.flycast.backbone.isolate("iad"))
    machine, _, failed = replay(stand_in, "region=iad;timeout=1s;fallback=force_self")
    assert machine == "tkdb-syd-1"
    assert failed


def test_without_a_fallback_an_impossible_replay_is_an_error(stand_in: StandIn) -> None:
    assert stand_in.ask("sin", x_answer_replay="instance=nobody").status == 503
    assert stand_in.ask("sin", x_answer_replay="region=zzz;timeout=1s").status == 503


def test_a_request_that_fell_back_is_not_replayed_again(stand_in: StandIn) -> None:
    answer = stand_in.ask("sin", x_answer_always="instance=nobody;fallback=force_self")
    assert (answer.status, answer.machine) == (200, "tkdb-syd-1")
    assert "fly-replay-failed" in answer.request


def test_a_replay_loop_ends_with_an_error(stand_in: StandIn) -> None:
    answer = stand_in.ask("sin", x_answer_always="elsewhere=true")
    assert (answer.status, answer.headers["fly-proxy-error"]) == (502, "it was replayed too often")


@pytest.mark.parametrize("size", [1, 65_536, 1_048_576])
def test_a_body_up_to_1_mib_is_replayed_byte_for_byte(stand_in: StandIn, size: int) -> None:
    assert replay(stand_in, "region=iad", os.urandom(size))[0] == "tkdb-iad-1"


def test_a_larger_body_is_not_replayed_and_the_error_gives_the_limit(stand_in: StandIn) -> None:
    answer = stand_in.ask("sin", body=bytes(1_048_577), x_answer_replay="region=iad")
    assert answer.status == 502
    assert "over 1 MiB" in answer.text
    assert "over 1 MiB" in answer.headers["fly-proxy-error"]
    assert not [name for name in answer.headers if name.startswith(("flycast-", "fly-replay"))]


def test_a_larger_body_without_a_replay_goes_through(stand_in: StandIn) -> None:
    body = os.urandom(3_000_000)
    assert stand_in.ask("sin", body=body).echoed["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    "fly_replay",
    ["garbage", "region", 'region="a,b', "region=iad;region=ams", "timeout=soon;region=iad", "app=nobody", "app=..",
     "region=iad;fallback=never", "instance=", "instance=a|any", "region=" + ",".join(["iad"] * 40)],
)  # fmt: skip
def test_an_invalid_fly_replay_is_an_error(stand_in: StandIn, fly_replay: str) -> None:
    answer = stand_in.ask("sin", x_answer_replay=fly_replay)
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
def test_any_fly_replay_gets_an_answer_without_internal_headers(stand_in: StandIn, fly_replay: str) -> None:
    answer = stand_in.ask("sin", body=b"x", x_answer_replay=fly_replay)
    assert answer.status in (200, 502, 503)
    assert not [name for name in answer.headers if name.startswith("flycast-")]
    if answer.machine:
        assert not [name for name in answer.request if name.startswith("flycast-")]
