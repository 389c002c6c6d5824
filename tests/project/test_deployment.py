"""What is deployed is configured as the authority reads it, and stops as the authority does."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tkdb.settings import SETTINGS

ROOT = Path(__file__).parents[2]


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


def test_only_private_plain_http_is_served_and_health_checks_are_ours(fly: Any) -> None:
    service = fly["http_service"]
    assert service["force_https"] is False
    assert service["internal_port"] == int(fly["env"]["TKDB_BIND"].rsplit(":", 1)[1])
    assert [check["path"] for check in service["checks"]] == ["/readyz"]
    assert service["auto_stop_machines"] != "suspend"


def test_the_image_is_built_with_the_locked_tool_and_does_not_run_as_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text()
    version = re.search(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert version is not None
    assert f"uv=={version[1]}" in dockerfile
    assert dockerfile.rindex("USER tkdb") > dockerfile.rindex("FROM")
