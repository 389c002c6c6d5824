"""``tkdb doctor`` and Fly's API: each fault fails its check with the reason, and an API that fails passes no check."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fake_fly
from tests.cli.processes import quick
from tests.fake_fly import APP, TOKEN, FakeFly
from tests.ops.doctor.doctor_report import doctor, examine
from tkdb.settings import SETTINGS
from tkdb_ops.doctor.configured import configured, differences
from tkdb_ops.doctor.deployment import Assignment, Config, DeployedMachine, Setup
from tkdb_ops.doctor.findings import Outcome
from tkdb_ops.doctor.hosted import hosted, no_public_address

FLY_CHECKS = {
    "no-public-address", "hosted", "alike", "regions", "attested", "bind", "ports", "plain-http", "no-secrets",
    "settings", "awake", "volumes", "readiness", "stopping", "limits",
}  # fmt: skip
"""The checks that need only Fly's API."""


def test_a_correct_app_passes(fly: FakeFly) -> None:
    report = examine(fly)
    assert (report.code, report.outcomes("passed")) == (0, FLY_CHECKS), report.document
    assert report.by_check["regions"]["found"] == "3 machines in iad, ams and syd"
    assert {target for target, _ in fly.requests} == {f"/v1/apps/{APP}/ip_assignments", f"/v1/apps/{APP}/machines"}


@pytest.mark.parametrize("public", [fake_fly.PUBLIC_V4, fake_fly.PUBLIC_V6, fake_fly.SHARED_V4])
def test_a_public_address_is_named(fly: FakeFly, public: dict[str, Any]) -> None:
    fly.ips.append(public)
    report = examine(fly)
    assert report.code == 1
    assert report.outcomes("failed") == {"no-public-address"}
    assert report.failure("no-public-address").startswith(f"{public['ip']} is public")
    assert "fly ips release" in report.by_check["no-public-address"]["try"]


def test_an_app_without_a_private_address_fails(fly: FakeFly) -> None:
    fly.ips = [fake_fly.EGRESS]
    assert examine(fly).failure("no-public-address") == "there is no private address"
    fly.ips = [fake_fly.SHARED_V4]
    assert "there is no private address" in examine(fly).failure("no-public-address")


def test_an_invalid_address_fails() -> None:
    assert no_public_address([Assignment("fdaa:nonsense")]).outcome is Outcome.FAILED


def set_force_https(fly: FakeFly) -> None:
    fly.service["ports"][0]["force_https"] = True


def set_suspend(fly: FakeFly) -> None:
    fly.service["autostop"] = "suspend"


def set_no_volume(fly: FakeFly) -> None:
    fly.config["mounts"] = None


def set_volume_elsewhere(fly: FakeFly) -> None:
    fly.config["mounts"][0]["path"] = "/var"


def set_wrong_path(fly: FakeFly) -> None:
    fly.service["checks"][0]["path"] = "/"


def set_tcp_check(fly: FakeFly) -> None:
    fly.service["checks"] = [{"type": "tcp", "interval": "5s"}]


def set_post_check(fly: FakeFly) -> None:
    fly.service["checks"][0]["method"] = "post"


def set_no_check(fly: FakeFly) -> None:
    fly.service["checks"] = None


def set_short_kill(fly: FakeFly) -> None:
    fly.config["stop_config"]["timeout"] = "10s"


def set_default_kill(fly: FakeFly) -> None:
    fly.config["stop_config"] = None


def set_long_drain(fly: FakeFly) -> None:
    fly.config["env"]["TKDB_DRAIN_MS"] = "60000"


def set_sigkill(fly: FakeFly) -> None:
    fly.config["stop_config"]["signal"] = "SIGQUIT"


def set_unreadable_kill(fly: FakeFly) -> None:
    fly.config["stop_config"]["timeout"] = "soon"


def set_low_limit(fly: FakeFly) -> None:
    fly.service["concurrency"]["hard_limit"] = 250


def set_low_soft_limit(fly: FakeFly) -> None:
    fly.service["concurrency"]["soft_limit"] = 200


def set_high_own_limit(fly: FakeFly) -> None:
    fly.config["env"]["TKDB_MAX_CONCURRENCY"] = "1000"


def set_connections(fly: FakeFly) -> None:
    fly.service["concurrency"]["type"] = "connections"


def set_two_services(fly: FakeFly) -> None:
    fly.config["services"].append({"protocol": "tcp", "internal_port": 9091, "ports": [{"port": 9091}]})


def set_wide_ports(fly: FakeFly) -> None:
    fly.service["ports"].append({"start_port": 8000, "end_port": 9000, "handlers": ["http"]})


def set_no_service(fly: FakeFly) -> None:
    fly.config["services"] = []


def set_udp(fly: FakeFly) -> None:
    fly.service["protocol"] = "udp"


def set_ipv6(fly: FakeFly) -> None:
    fly.config["env"]["TKDB_BIND"] = "[::]:8080"


def set_loopback(fly: FakeFly) -> None:
    fly.config["env"]["TKDB_BIND"] = "127.0.0.1:8080"


def set_unattested(fly: FakeFly) -> None:
    del fly.config["env"]["TKDB_FLY_SRC"]


def set_secret(fly: FakeFly) -> None:
    fly.config["env"]["TKDB_SEAL_KEYS"] = "tkdbseal_planted"


def set_stopped(fly: FakeFly) -> None:
    fly.machines[0]["state"] = "stopped"


def set_suspended(fly: FakeFly) -> None:
    fly.machines[0]["state"] = "suspended"


def set_cordoned(fly: FakeFly) -> None:
    fly.machines[0]["cordoned"] = True


def set_lost_host(fly: FakeFly) -> None:
    fly.machines[0] |= {"host_status": "unreachable", "incomplete_config": fly.config, "config": None}


def set_failing(fly: FakeFly) -> None:
    fly.machines[0]["checks"][0]["status"] = "critical"


def set_other_image(fly: FakeFly) -> None:
    fly.machines[0]["image_ref"]["digest"] = "sha256:older"


def set_other_env(fly: FakeFly) -> None:
    fly.config["env"]["TKDB_NAME"] = "tkdb.other"


FAULTS: list[tuple[Callable[[FakeFly], None], str, str]] = [
    (set_force_https, "plain-http", "148e21 in iad: force_https is on"),
    (set_suspend, "awake", "148e21 in iad: an idle machine is suspended"),
    (set_no_volume, "volumes", "148e21 in iad: there is no volume"),
    (set_volume_elsewhere, "volumes", "148e21 in iad: the volume is at /var, but TKDB_DB=/data/tkdb.db"),
    (set_wrong_path, "readiness", "148e21 in iad: / is requested"),
    (set_tcp_check, "readiness", "148e21 in iad: only the connection is checked"),
    (set_post_check, "readiness", "148e21 in iad: /readyz is requested with another method than GET"),
    (set_no_check, "readiness", "148e21 in iad: there is no check"),
    (set_short_kill, "stopping", "148e21 in iad: it is killed after 10 s, but needs 14.5 s"),
    (set_default_kill, "stopping", "148e21 in iad: it is killed after 5 s, but needs 14.5 s"),
    (set_long_drain, "stopping", "148e21 in iad: it is killed after 30 s, but needs 70 s"),
    (set_sigkill, "stopping", "148e21 in iad: it is stopped by SIGQUIT, which ends it immediately"),
    (set_unreadable_kill, "stopping", "148e21 in iad: the kill_timeout can't be read"),
    (set_low_limit, "limits", "148e21 in iad: the limit is 250, but the authority accepts 5376 requests"),
    (set_low_soft_limit, "limits", "148e21 in iad: the limit is 200, but the authority accepts 5376 requests"),
    (set_high_own_limit, "limits", "148e21 in iad: the limit is 5500, but the authority accepts 6120 requests"),
    (set_connections, "limits", "148e21 in iad: connections are counted, not requests"),
    (set_two_services, "ports", "148e21 in iad: 2 services are served"),
    (set_wide_ports, "ports", "148e21 in iad: 1000 more ports are open"),
    (set_no_service, "ports", "148e21 in iad: no services are served"),
    (set_udp, "ports", "148e21 in iad: udp is served"),
    (set_ipv6, "bind", "148e21 in iad: TKDB_BIND=[::]:8080"),
    (set_loopback, "bind", "148e21 in iad: TKDB_BIND=127.0.0.1:8080, where the proxy can't reach it"),
    (set_unattested, "attested", "148e21 in iad: TKDB_FLY_SRC=off"),
    (set_secret, "no-secrets", "148e21 in iad: TKDB_SEAL_KEYS is readable"),
    (set_stopped, "hosted", "148e21 in iad is stopped"),
    (set_suspended, "hosted", "148e21 in iad is suspended"),
    (set_cordoned, "hosted", "148e21 in iad is cordoned"),
    (set_lost_host, "hosted", "the host of 148e21 in iad is unreachable"),
    (set_failing, "hosted", "148e21 in iad doesn't pass servicecheck-00-http-8080"),
    (set_other_image, "alike", "several images: sha256:older on 148e21 in iad"),
    (set_other_env, "alike", "3d8d41 in ams differs from 148e21 in iad in TKDB_NAME"),
]


@pytest.mark.parametrize(("inject", "check", "found"), FAULTS, ids=lambda case: getattr(case, "__name__", ""))
def test_each_fault_fails_its_check_with_the_reason(
    fly: FakeFly, inject: Callable[[FakeFly], None], check: str, found: str
) -> None:
    inject(fly)
    report = examine(fly)
    assert report.code == 1
    assert found in report.failure(check)
    assert "planted" not in json.dumps(report.document)  # The report contains no value of a secret.
    # One machine of three differs, so "alike" may fail too. A missing service has no check. A
    # planted text is no secret of the right form.
    follows = {"ports": {"readiness"}, "no-secrets": {"settings"}}.get(check, set())
    assert report.outcomes("failed") <= {check, "alike", *follows}


def test_a_fault_of_all_machines_is_shown_once(fly: FakeFly) -> None:
    for each in fly.machines:
        each["config"]["services"][0]["autostop"] = "suspend"
    assert (
        examine(fly).failure("awake") == "148e21 in iad, 3d8d41 in ams and 90801f in syd: an idle machine is suspended"
    )


def test_a_machine_that_fly_stopped_when_idle_passes(fly: FakeFly) -> None:
    for each in fly.machines:
        each["config"]["services"][0]["autostop"] = True
    fly.machines[2] |= {"state": "stopped", "checks": [{"name": "servicecheck-00-http-8080", "status": "warning"}]}
    report = examine(fly)
    assert (report.code, report.outcomes("failed")) == (0, set()), report.document


def test_temporary_and_destroyed_machines_are_not_counted(fly: FakeFly) -> None:
    console = fake_fly.machine("e784079b", "lhr")
    console["config"]["metadata"]["fly_process_group"] = "fly_app_console"
    console["config"]["services"] = []
    gone = fake_fly.machine("080e30", "gru") | {"state": "destroyed"}
    fly.machines += [console, gone]
    assert examine(fly).by_check["regions"]["found"] == "3 machines in iad, ams and syd"


def test_a_single_machine_and_a_single_region_are_named(fly: FakeFly) -> None:
    fly.machines = fly.machines[:1]
    assert examine(fly).failure("regions") == "the only machine is in iad"
    fly.machines.append(fake_fly.machine("3d8d41", "iad"))
    assert examine(fly).failure("regions") == "all machines are in iad"


def test_an_app_without_machines_passes_no_check_of_machines(fly: FakeFly) -> None:
    fly.machines = []
    report = examine(fly)
    assert report.failure("hosted") == "the app has no machine"
    assert report.failure("regions") == "there is no machine"
    assert report.unknown("volumes") == "the app has no machine"
    assert report.outcomes("passed") == {"no-public-address", "alike"}


REFUSALS = [
    (401, "doesn't accept FLY_API_TOKEN"),
    (403, "FLY_API_TOKEN may not read this app"),
    (404, "knows no such app"),
    (429, "too many requests"),
    (500, "answered 500"),
    (302, "answered 302"),
]


@pytest.mark.parametrize(("status", "why"), REFUSALS)
def test_a_refusal_of_the_api_neither_passes_nor_fails_the_app(fly: FakeFly, status: int, why: str) -> None:
    fly.status = status
    report = examine(fly)
    assert report.code == 3
    assert report.outcomes("passed") == report.outcomes("failed") == set()
    assert why in report.unknown("no-public-address")
    assert why in report.unknown("plain-http")


def test_a_refused_token_is_never_shown(fly: FakeFly) -> None:
    other = "fm2_another-token-that-is-secret"
    report = doctor("--app", APP, FLY_API_HOSTNAME=fly.url, FLY_API_TOKEN=other)
    assert "doesn't accept FLY_API_TOKEN" in report.unknown("hosted")
    assert other not in json.dumps(report.document)


def test_an_unreachable_api_passes_no_check() -> None:
    with FakeFly() as fly:
        gone = fly.url
    report = doctor("--app", APP, FLY_API_HOSTNAME=gone, FLY_API_TOKEN=TOKEN)
    assert report.code == 3
    assert "refuses connections" in report.unknown("no-public-address")


GARBAGE = [
    b"", b"{", b"null", b"[]", b'{"ips": null}', b'{"ips": [{"ip": 5}]}', b'[{"id": 1}]', b"<html>", b"\xff\xfe",
    b'[{"id": "a", "config": {"services": [{"ports": 80}]}}]', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_an_undocumented_answer_passes_no_check(fly: FakeFly, body: bytes) -> None:
    fly.raw = {"ip_assignments": body, "machines": body if body != b"[]" else b"{}"}
    report = examine(fly)
    assert report.code == 3
    assert "an answer of an undocumented form" in report.unknown("no-public-address")
    assert "an answer of an undocumented form" in report.unknown("hosted")


def test_an_oversized_answer_is_not_read_to_its_end(fly: FakeFly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tkdb_ops.fly_api.BODY_MAX_BYTES", 1_000)
    fly.raw = {"machines": b" " * 2_000}
    assert "answered more than 1,000 bytes" in examine(fly).unknown("hosted")


def test_the_token_may_come_from_a_file_and_with_its_scheme(fly: FakeFly, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"FlyV1 {TOKEN}\n")
    report = doctor("--app", APP, FLY_FLAPS_BASE_URL=fly.url, FLY_API_TOKEN_FILE=str(tmp_path / "token"))
    assert report.code == 0
    assert {authorization for _, authorization in fly.requests} == {f"FlyV1 {TOKEN}"}


def test_a_token_is_never_sent_in_the_clear() -> None:
    ran = quick("doctor", "--app", APP, env={"FLY_API_HOSTNAME": "http://api.example.com", "FLY_API_TOKEN": TOKEN})
    assert (ran.code, "unencrypted" in ran.err, TOKEN in ran.err + ran.out) == (2, True, False)


@pytest.mark.parametrize("app", ["../other", "a?limit=1", "A", "a" * 64])
def test_an_invalid_app_name_causes_no_request(fly: FakeFly, app: str) -> None:
    ran = quick("doctor", "--app", app, env={"FLY_API_HOSTNAME": fly.url, "FLY_API_TOKEN": TOKEN})
    assert (ran.code, "can't be the name of an app" in ran.err, fly.requests) == (2, True, [])


def test_a_token_without_an_app_is_refused(fly: FakeFly) -> None:
    ran = quick("doctor", env={"FLY_API_HOSTNAME": fly.url, "FLY_API_TOKEN": TOKEN})
    assert (ran.code, "give --app" in ran.err, fly.requests) == (2, True, [])
    report = examine(fly, "--url", "http://127.0.0.1:9")
    assert report.by_check["hosted"]["found"] == "no Fly app is named: give --app"


def test_a_machine_in_an_unknown_state_fails() -> None:
    assert hosted([DeployedMachine("1", os.urandom(2).hex())]).outcome is Outcome.FAILED


NUMBERS = st.none() | st.integers()
PORTS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("port", "start_port", "end_port"), NUMBERS) | {"handlers": st.lists(st.text())}
)
CONFIGS = st.fixed_dictionaries(
    {
        "env": st.dictionaries(st.sampled_from([setting.variable for setting in SETTINGS]), st.text()),
        "services": st.lists(
            st.fixed_dictionaries(
                {
                    "protocol": st.text(),
                    "internal_port": st.integers(),
                    "autostop": st.none() | st.booleans() | st.text(),
                    "ports": st.lists(PORTS, max_size=2),
                    "checks": st.lists(
                        st.dictionaries(st.sampled_from(["type", "method", "path"]), st.text()), max_size=2
                    ),
                    "concurrency": st.none() | st.fixed_dictionaries({"hard_limit": st.integers(), "type": st.text()}),
                }
            ),
            max_size=2,
        ),
        "mounts": st.none() | st.lists(st.fixed_dictionaries({"path": st.text()}), max_size=2),
        "stop_config": st.none()
        | st.fixed_dictionaries({"timeout": st.text() | st.floats() | st.integers(), "signal": st.text()}),
    }
)


@given(CONFIGS)
def test_any_configuration_gets_a_result(found: dict[str, Any]) -> None:
    setup = Setup("a machine", msgspec.convert(found, Config))
    assert {each.outcome for each in configured([setup])} <= {Outcome.PASSED, Outcome.FAILED}
    assert differences(setup.config, setup.config) == []
