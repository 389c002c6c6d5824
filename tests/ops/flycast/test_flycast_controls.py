"""Negative controls: without one setting of the proxy, the harm occurs that the setting prevents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ops.flycast.stand_in import StandIn, echo
from tkdb_ops.flycast import flycast
from tkdb_ops.flycast.envoy import configuration
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App

Json = dict[str, Any]


@contextmanager
def without(weaken: Callable[[Json], None]) -> Iterator[StandIn]:
    """Run a stand-in on loopback addresses, with a weakened configuration of its proxies."""

    def weakened(*arguments: Any) -> Json:
        config = configuration(*arguments)
        for listener in config["static_resources"]["listeners"]:
            weaken(listener["filter_chains"][0]["filters"][-1]["typed_config"])
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flycast, "configuration", weakened)
        apps = {App("tkdb", ("iad", "ams", "syd")): echo}
        with StandIn(Flycast(apps, clients=["sin"], isolated=False)) as stand_in:
            yield stand_in


def route(manager: Json) -> Json:
    found: Json = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    return found


def test_without_the_retry_of_unsent_requests_a_write_to_a_lost_machine_fails(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        if "retry_policy" in route(manager):
            route(manager)["retry_policy"]["retry_on"] = "connect-failure,refused-stream"

    with without(weaken) as stand_in:
        stand_in.do(stand_in.machine("tkdb-syd-1").kill())
        answer = stand_in.ask("sin", body=b"a write")
        assert (answer.status, answer.headers["fly-proxy-error"]) == (503, "PC01 nothing was sent")


def test_without_the_early_drop_a_caller_can_forge_the_proxys_headers(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        manager.pop("early_header_mutation_extensions", None)

    with without(weaken) as stand_in:
        assert stand_in.ask("sin", fly_replay_src="forged").request["fly-replay-src"] == "forged"
        assert stand_in.ask("sin", flycast_state="plan=instance=tkdb-iad-1;app=tkdb;hops=0").machine == "tkdb-iad-1"


def test_without_the_drop_at_the_machine_an_app_can_cause_its_request_to_be_sent_twice(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        manager["route_config"]["virtual_hosts"][0].pop("response_headers_to_remove", None)

    with without(weaken) as stand_in:
        before = stand_in.ask("sin", fly_force_instance_id="tkdb-ams-1").echoed["request_count"]
        stand_in.ask("sin", body=b"x", x_answer_status="503", x_answer_header="fly-proxy-error: PC01 a lie")
        assert stand_in.ask("sin", fly_force_instance_id="tkdb-ams-1").echoed["request_count"] > before + 1


def test_without_a_buffered_body_no_request_can_be_replayed(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        if "internal_redirect_policy" in route(manager):
            manager["route_config"]["virtual_hosts"][0]["request_body_buffer_limit"] = 1

    with without(weaken) as stand_in:
        assert stand_in.ask("sin", body=b"two", x_answer_replay="region=iad").status == 502
