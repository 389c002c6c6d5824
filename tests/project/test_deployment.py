"""fly.toml and the Dockerfile: their settings are valid, and their limits and timeouts match the authority's."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from tkdb.server.app import build
from tkdb.server.lifecycle import Lifecycle
from tkdb.server.limits import Limits
from tkdb.server.work import Work
from tkdb.settings import SETTINGS
from tkdb.signers import Signers

ROOT = Path(__file__).parents[2]

# The keys that fly.toml may use here. Sources: flyctl's internal/appconfig (config.go, service.go, toplevelcheck.go)
# and fly-go's machine_types.go, August 2026.
_HTTP_CHECK: Final = {"grace_period", "interval", "timeout", "method", "path", "headers", "protocol"}
FLY_KEYS: Final[dict[str, set[str]]] = {
    "": {"app", "primary_region", "kill_signal", "kill_timeout", "build", "env", "deploy", "mounts", "http_service",
         "checks", "vm", "metrics", "restart"},
    "build": {"dockerfile", "image"},
    "deploy": {"strategy", "max_unavailable", "wait_timeout", "release_command"},
    "mounts": {"source", "destination", "initial_size", "scheduled_snapshots", "snapshot_retention"},
    "http_service": {"internal_port", "force_https", "auto_stop_machines", "auto_start_machines",
                     "min_machines_running", "concurrency", "checks"},
    "http_service.concurrency": {"type", "soft_limit", "hard_limit"},
    "http_service.checks": _HTTP_CHECK,
    "checks.replication": _HTTP_CHECK | {"type", "port"},
    "vm": {"size", "memory", "cpus", "cpu_kind"},
}  # fmt: skip


@pytest.fixture(scope="module")
def fly() -> Any:
    return tomllib.loads((ROOT / "fly.toml").read_text())


def test_every_variable_of_fly_toml_is_a_setting(fly: Any) -> None:
    known = {setting.variable for setting in SETTINGS}
    assert set(fly["env"]) <= known
    secrets = {setting.variable for setting in SETTINGS if setting.description.startswith("Secret.")}
    assert secrets
    assert not set(fly["env"]) & secrets


def test_fly_waits_longer_than_the_authority_drains(fly: Any) -> None:
    drain_ms = next(int(setting.default or 0) for setting in SETTINGS if setting.variable == "TKDB_DRAIN_MS")
    assert int(fly["kill_timeout"].rstrip("s")) * 1000 > 2 * drain_ms
    assert fly["kill_signal"] == "SIGTERM"


def test_only_private_plain_http_is_served_and_readyz_is_checked(fly: Any) -> None:
    service = fly["http_service"]
    assert service["force_https"] is False
    assert service["internal_port"] == int(fly["env"]["TKDB_BIND"].rsplit(":", 1)[1])
    assert [check["path"] for check in service["checks"]] == ["/readyz"]
    assert service["auto_stop_machines"] != "suspend"


def tables(document: dict[str, Any], name: str = "") -> list[tuple[str, set[str]]]:
    """Return the dotted name and the keys of each table in a document."""
    found = [(name, set(document))]
    for key, value in document.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                found += tables(each, f"{name}.{key}".lstrip("."))
    return found


def test_flyctl_supports_every_key_of_fly_toml(fly: Any) -> None:
    for name, keys in tables(fly):
        if name not in ("env", "checks"):
            assert keys <= FLY_KEYS[name], name


def test_the_authority_serves_every_checked_path(fly: Any) -> None:
    work = Work(Limits(active_max=1))
    app = build(Lifecycle(), work, Signers([]), now_ms=lambda: 0)
    paths = {getattr(route, "path", "") for route in app.routes}
    check = fly["checks"]["replication"]
    assert {check["path"], *(each["path"] for each in fly["http_service"]["checks"])} <= paths
    assert check["port"] == fly["http_service"]["internal_port"]


def test_the_proxy_sends_as_many_requests_as_the_authority_accepts(fly: Any) -> None:
    assert min(fly["http_service"]["concurrency"][f"{kind}_limit"] for kind in ("hard", "soft")) > Limits().requests_max


def test_only_attested_callers_are_accepted(fly: Any) -> None:
    by_name = {setting.variable: setting for setting in SETTINGS}
    assert by_name["TKDB_FLY_SRC"].parse(fly["env"]["TKDB_FLY_SRC"]) is True
    assert "acme-tkdb-ops" in by_name["TKDB_FLY_SRC_APPS"].parse(fly["env"]["TKDB_FLY_SRC_APPS"])


def test_the_image_is_built_with_the_locked_tool_and_does_not_run_as_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text()
    version = re.search(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert version is not None
    assert f"uv=={version[1]}" in dockerfile
    last = dockerfile[dockerfile.rindex("\nFROM") :]
    user = re.search(r"^USER (\d+)$", last, re.MULTILINE)  # A number, because Kubernetes can't resolve a name.
    assert user is not None
    assert f"--uid {user[1]} " in last
    assert f"--gid {user[1]} " in last


def test_every_path_copied_into_the_image_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = " ".join(copied).split()
    assert {"uv.lock", "tkdb", "client", "replication"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists() or source in ignored] == []
