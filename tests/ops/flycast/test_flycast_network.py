"""The private network: names, ports past the proxy, attested callers, and headers that only the proxy may set."""

from __future__ import annotations

import json
import sys
import time

import pytest

from tests.http_stub import Answer, HttpStub, Request
from tests.ops.flycast.stand_in import StandIn
from tkdb.attestation import Presented, Verifier
from tkdb.errors import ConfigurationError

SPOOFED = (
    *("fly-client-ip", "fly-region", "fly-replay-src", "fly-replay-failed", "fly-src", "fly-src-signature"),
    *("fly-preferred-instance-unavailable", "fly-request-id", "fly-forwarded-port", "fly-proxy-error"),
    *("flycast-pick", "flycast-cluster", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms"),
)
LOOK_UP = (
    "import json, socket, sys\n"
    "def addresses(name):\n"
    "    try: return [found[4][0] for found in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)]\n"
    "    except socket.gaierror: return []\n"
    "print(json.dumps({name: addresses(name) for name in sys.argv[1:]}))"
)
FETCH = (
    "import json, sys, urllib.request\n"
    "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())\n"
    "except OSError as error: print(json.dumps({'error': str(error)}))"
)


def look_up(stand_in: StandIn, *names: str) -> dict[str, list[str]]:
    done = stand_in.do(stand_in.flycast.run("sin", [sys.executable, "-I", "-S", "-c", LOOK_UP, *names]))
    found: dict[str, list[str]] = json.loads(done.output)
    return found


def fetch(stand_in: StandIn, url: str) -> dict[str, str]:
    answer: dict[str, str] = json.loads(
        stand_in.do(stand_in.flycast.run("sin", [sys.executable, "-I", "-c", FETCH, url])).output
    )
    return answer


def test_an_app_has_one_address_under_all_its_names(stand_in: StandIn) -> None:
    found = look_up(stand_in, "tkdb.flycast", "api.svc.tkdb.flycast", "narrow.flycast", "nobody.flycast")
    assert found["tkdb.flycast"] == found["api.svc.tkdb.flycast"] == ["fdaa:0:1:0:1::7"]
    assert found["narrow.flycast"] == ["fdaa:0:1:0:1::8"]
    assert found["nobody.flycast"] == []
    assert stand_in.flycast.url("tkdb", "sin") == "http://tkdb.flycast"


def test_an_app_answers_on_port_80_and_its_svc_name_on_8080(stand_in: StandIn) -> None:
    assert fetch(stand_in, "http://tkdb.flycast/")["machine"] == "tkdb-syd-1"
    assert fetch(stand_in, "http://api.svc.tkdb.flycast:8080/")["machine"] == "tkdb-syd-1"


def test_internal_names_list_running_machines_nearest_first(stand_in: StandIn) -> None:
    addresses = look_up(stand_in, "tkdb.internal", "iad.tkdb.internal", "top1.nearest.of.tkdb.internal")
    assert len(addresses["tkdb.internal"]) == 3
    assert addresses["top1.nearest.of.tkdb.internal"] == [stand_in.private_address("tkdb-syd-1")]
    stand_in.do(stand_in.machine("tkdb-iad-1").kill())
    assert look_up(stand_in, "iad.tkdb.internal", "tkdb-iad-1.vm.tkdb.internal") == {
        "iad.tkdb.internal": [],
        "tkdb-iad-1.vm.tkdb.internal": [],
    }


def test_a_machine_that_binds_only_ipv4_refuses_requests_past_the_proxy(stand_in: StandIn) -> None:
    assert "refused" in fetch(stand_in, "http://syd.tkdb.internal:8080/")["error"]


def test_a_machine_can_not_reach_a_backhaul(stand_in: StandIn) -> None:
    """At a backhaul, a caller could set headers that only the edge may set."""
    assert "error" in fetch(stand_in, "http://[fdaa:0:1:0:c::2]:9101/")


def test_headers_that_only_the_proxy_sets_are_dropped_from_a_callers_request(stand_in: StandIn) -> None:
    spoofed = dict.fromkeys(SPOOFED, "forged")
    answer = stand_in.ask("sin", flycast_state="plan=instance=tkdb-iad-1;app=tkdb;hops=0", **spoofed)
    assert (answer.status, answer.machine) == (200, "tkdb-syd-1")
    assert "forged" not in answer.request.values()
    assert answer.request["fly-region"] == "sin"
    assert answer.request["fly-client-ip"] == stand_in.private_address("client-sin-1")
    assert not [name for name in answer.request if name.startswith("flycast-")]


def test_the_proxy_attests_the_caller_and_drops_forged_attestations(stand_in: StandIn) -> None:
    answer = stand_in.ask("sin", fly_src="instance=root;app=web;org=lab;ts=1", fly_src_signature="A" * 88)
    headers = [(name.encode(), value.encode()) for name, value in answer.request.items()]
    verifier = Verifier(stand_in.flycast.fly_src_key)
    source = verifier.verify(Presented.from_headers(answer.echoed["peer"], headers), now_s=time.time())
    assert (source.instance, source.app, source.org) == ("client-sin-1", "client", "lab")


def test_the_attestation_names_the_original_caller_after_a_replay(stand_in: StandIn) -> None:
    answer = stand_in.ask("fra", x_answer_replay="region=iad")
    headers = [(name.encode(), value.encode()) for name, value in answer.request.items()]
    source = Verifier(stand_in.flycast.fly_src_key).verify(
        Presented.from_headers(answer.echoed["peer"], headers), now_s=time.time()
    )
    assert (answer.machine, source.instance) == ("tkdb-iad-1", "client-fra-1")


def test_an_exposed_service_is_reachable_until_its_region_is_cut_off(stand_in: StandIn) -> None:
    class Hello(HttpStub):
        def answer(self, request: Request) -> Answer:
            return Answer(200, {}, b'{"machine": "outside"}')

    with Hello() as server:
        url = stand_in.do(stand_in.flycast.expose("store", "iad", server.port))
        assert url == f"http://store.internal:{server.port}"
        assert fetch(stand_in, url)["machine"] == "outside"
        stand_in.do(stand_in.flycast.backbone.isolate("iad"))
        assert "error" in fetch(stand_in, url)


def test_unknown_regions_apps_and_shares_are_refused_with_a_hint(stand_in: StandIn) -> None:
    flycast = stand_in.flycast
    for wrong in (
        flycast.door("iad"),
        flycast.door("sin", "nobody"),
        flycast.seen("zzz"),
        flycast.expose("store", "nowhere", 80),
        flycast.backbone.cut("sin", "zzz"),
        flycast.backbone.loss("sin", "syd", 2),
    ):
        with pytest.raises(ConfigurationError) as caught:
            stand_in.do(wrong)
        assert caught.value.hint
