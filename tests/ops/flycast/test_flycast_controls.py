"""Negative controls: with a setting of the proxy taken out, what it protects from happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ops.flycast.standing import Standing, echo
from tkdb_ops.flycast import flycast
from tkdb_ops.flycast.envoy import configuration
from tkdb_ops.flycast.flycast import Flycast
from tkdb_ops.flycast.layout import App

Json = dict[str, Any]


@contextmanager
def without(weaken: Callable[[Json], None]) -> Iterator[Standing]:
    """A stand-in on loopback addresses whose proxies lack something."""

    def weakened(*arguments: Any) -> Json:
        made = configuration(*arguments)
        for listener in made["static_resources"]["listeners"]:
            weaken(listener["filter_chains"][0]["filters"][-1]["typed_config"])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flycast, "configuration", weakened)
        apps = {App("tkdb", ("iad", "ams", "syd")): echo}
        with Standing(Flycast(apps, clients=["sin"], isolated=False)) as standing:
            yield standing


def route(manager: Json) -> Json:
    found: Json = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    return found


def test_without_its_word_that_nothing_was_sent_a_write_to_a_machine_just_lost_fails(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        if "retry_policy" in route(manager):
            route(manager)["retry_policy"]["retry_on"] = "connect-failure,refused-stream"

    with without(weaken) as standing:
        standing.do(standing.machine("tkdb-syd-1").kill())
        answer = standing.ask("sin", body=b"a write")
        assert (answer.status, answer.headers["fly-proxy-error"]) == (503, "PC01 nothing was sent")


def test_without_the_early_drop_a_caller_writes_what_only_the_proxy_says(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        manager.pop("early_header_mutation_extensions", None)

    with without(weaken) as standing:
        assert standing.ask("sin", fly_replay_src="forged").request["fly-replay-src"] == "forged"
        assert standing.ask("sin", flycast_state="plan=instance=tkdb-iad-1;app=tkdb;hops=0").machine == "tkdb-iad-1"


def test_without_the_drop_beside_the_machine_an_app_has_its_own_request_sent_twice(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        manager["route_config"]["virtual_hosts"][0].pop("response_headers_to_remove", None)

    with without(weaken) as standing:
        before = standing.ask("sin", fly_force_instance_id="tkdb-ams-1").said["asked"]
        standing.ask("sin", body=b"x", x_answer_status="503", x_answer_header="fly-proxy-error: PC01 a lie")
        assert standing.ask("sin", fly_force_instance_id="tkdb-ams-1").said["asked"] > before + 1


def test_without_a_body_that_is_kept_nothing_can_be_replayed(envoy: str) -> None:
    def weaken(manager: Json) -> None:
        if "internal_redirect_policy" in route(manager):
            manager["route_config"]["virtual_hosts"][0]["request_body_buffer_limit"] = 1

    with without(weaken) as standing:
        assert standing.ask("sin", body=b"two", x_answer_replay="region=iad").status == 502
