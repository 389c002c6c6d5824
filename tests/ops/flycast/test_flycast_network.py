"""The private network: names, what is past the proxy, who calls, and what only the proxy may say."""

from __future__ import annotations

import json
import sys
import time

import pytest

from tests.answering import Answer, Answering, Request
from tests.ops.flycast.standing import Standing
from tkdb.attestation import Presented, Verifier
from tkdb.errors import ConfigurationError

SPOOFED = (
    *("fly-client-ip", "fly-region", "fly-replay-src", "fly-replay-failed", "fly-src", "fly-src-signature"),
    *("fly-preferred-instance-unavailable", "fly-request-id", "fly-forwarded-port", "fly-proxy-error"),
    *("flycast-pick", "flycast-cluster", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms"),
)
LOOK_UP = (
    "import json, socket, sys\n"
    "def look(name):\n"
    "    try: return [found[4][0] for found in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)]\n"
    "    except socket.gaierror: return []\n"
    "print(json.dumps({name: look(name) for name in sys.argv[1:]}))"
)
FETCH = (
    "import json, sys, urllib.request\n"
    "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())\n"
    "except OSError as error: print(json.dumps({'error': str(error)}))"
)


def look_up(standing: Standing, *names: str) -> dict[str, list[str]]:
    done = standing.do(standing.flycast.run("sin", [sys.executable, "-I", "-S", "-c", LOOK_UP, *names]))
    found: dict[str, list[str]] = json.loads(done.output)
    return found


def fetch(standing: Standing, url: str) -> dict[str, str]:
    said: dict[str, str] = json.loads(
        standing.do(standing.flycast.run("sin", [sys.executable, "-I", "-c", FETCH, url])).output
    )
    return said


def test_an_app_has_one_address_under_all_its_names(standing: Standing) -> None:
    found = look_up(standing, "tkdb.flycast", "api.svc.tkdb.flycast", "narrow.flycast", "nobody.flycast")
    assert found["tkdb.flycast"] == found["api.svc.tkdb.flycast"] == ["fdaa:0:1:0:1::7"]
    assert found["narrow.flycast"] == ["fdaa:0:1:0:1::8"]
    assert found["nobody.flycast"] == []
    assert standing.flycast.url("tkdb", "sin") == "http://tkdb.flycast"


def test_an_app_answers_at_its_names_on_port_80_and_as_kubernetes_names_it_on_8080(standing: Standing) -> None:
    assert fetch(standing, "http://tkdb.flycast/")["machine"] == "tkdb-syd-1"
    assert fetch(standing, "http://api.svc.tkdb.flycast:8080/")["machine"] == "tkdb-syd-1"


def test_internal_names_list_machines_that_run_nearest_first(standing: Standing) -> None:
    whole = look_up(standing, "tkdb.internal", "iad.tkdb.internal", "top1.nearest.of.tkdb.internal")
    assert len(whole["tkdb.internal"]) == 3
    assert whole["top1.nearest.of.tkdb.internal"] == [standing.flycast_private("tkdb-syd-1")]
    standing.do(standing.machine("tkdb-iad-1").kill())
    assert look_up(standing, "iad.tkdb.internal", "tkdb-iad-1.vm.tkdb.internal") == {
        "iad.tkdb.internal": [],
        "tkdb-iad-1.vm.tkdb.internal": [],
    }


def test_past_the_proxy_a_machine_that_binds_ipv4_only_refuses(standing: Standing) -> None:
    assert "refused" in fetch(standing, "http://syd.tkdb.internal:8080/")["error"]


def test_a_machine_can_not_reach_a_backhaul(standing: Standing) -> None:
    """There it could write what only the edge may say."""
    assert "error" in fetch(standing, "http://[fdaa:0:1:0:c::2]:9101/")


def test_what_only_the_proxy_says_is_dropped_from_a_callers_request(standing: Standing) -> None:
    spoofed = dict.fromkeys(SPOOFED, "forged")
    answer = standing.ask("sin", flycast_state="plan=instance=tkdb-iad-1;app=tkdb;hops=0", **spoofed)
    assert (answer.status, answer.machine) == (200, "tkdb-syd-1")
    assert "forged" not in answer.request.values()
    assert answer.request["fly-region"] == "sin"
    assert answer.request["fly-client-ip"] == standing.flycast_private("client-sin-1")
    assert not [name for name in answer.request if name.startswith("flycast-")]


def test_the_proxy_attests_who_calls_and_nobody_else_can(standing: Standing) -> None:
    answer = standing.ask("sin", fly_src="instance=root;app=web;org=lab;ts=1", fly_src_signature="A" * 88)
    headers = [(name.encode(), value.encode()) for name, value in answer.request.items()]
    verifier = Verifier(standing.flycast.fly_src_key)
    source = verifier.verify(Presented.of(answer.said["peer"], headers), now_s=time.time())
    assert (source.instance, source.app, source.org) == ("client-sin-1", "client", "lab")


def test_the_attestation_survives_a_replay_and_names_the_first_caller(standing: Standing) -> None:
    answer = standing.ask("fra", x_answer_replay="region=iad")
    headers = [(name.encode(), value.encode()) for name, value in answer.request.items()]
    source = Verifier(standing.flycast.fly_src_key).verify(
        Presented.of(answer.said["peer"], headers), now_s=time.time()
    )
    assert (answer.machine, source.instance) == ("tkdb-iad-1", "client-fra-1")


def test_a_service_of_this_machine_is_found_inside_and_cut_off_with_its_region(standing: Standing) -> None:
    class Hello(Answering):
        def answer(self, request: Request) -> Answer:
            return Answer(200, {}, b'{"machine": "outside"}')

    with Hello() as server:
        url = standing.do(standing.flycast.expose("store", "iad", server.port))
        assert url == f"http://store.internal:{server.port}"
        assert fetch(standing, url)["machine"] == "outside"
        standing.do(standing.flycast.backbone.isolate("iad"))
        assert "error" in fetch(standing, url)


def test_what_is_not_laid_out_is_refused_with_a_hint(standing: Standing) -> None:
    flycast = standing.flycast
    for wrong in (
        flycast.door("iad"),
        flycast.door("sin", "nobody"),
        flycast.seen("zzz"),
        flycast.expose("store", "nowhere", 80),
        flycast.backbone.cut("sin", "zzz"),
        flycast.backbone.loss("sin", "syd", 2),
    ):
        with pytest.raises(ConfigurationError) as caught:
            standing.do(wrong)
        assert caught.value.hint
