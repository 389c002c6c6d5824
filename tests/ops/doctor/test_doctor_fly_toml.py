"""``tkdb doctor --config``: checks a fly.toml before it is deployed, and compares it with the running machines."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.processes import quick
from tests.fake_fly import FakeFly, filled
from tests.ops.doctor.doctor_report import doctor, examine
from tkdb.channel.keys import AuthorityPublic, AuthoritySecret, SignerPublic, SignerSecret
from tkdb.errors import ConfigurationError, TkdbError
from tkdb_ops.doctor.deployment import duration_ms, parse_toml

WITH_PLACEHOLDER = Path(__file__).parents[3].joinpath("fly.toml").read_text()
TOML = filled(WITH_PLACEHOLDER)


def write_toml(tmp_path: Path, text: str) -> str:
    (tmp_path / "fly.toml").write_text(text)
    return str(tmp_path / "fly.toml")


def test_a_fly_toml_names_its_app_and_is_compared_with_the_running_machines(fly: FakeFly, tmp_path: Path) -> None:
    for each in fly.machines:
        each["config"]["env"] |= parse_toml(TOML).config.env
    path = write_toml(tmp_path, TOML)
    report = examine(fly, "--config", path)
    assert report.code == 0, report.document
    del fly.config["env"]["TKDB_SIGNERS"]
    fly.service["concurrency"]["hard_limit"] = 6_500
    found = examine(fly, "--config", path).failure("alike")
    assert found == f"148e21 in iad differs from {path} in TKDB_SIGNERS and services"


def test_the_fly_toml_of_this_repository_passes_once_its_placeholder_is_filled_in(tmp_path: Path) -> None:
    report = doctor("--config", write_toml(tmp_path, TOML))
    assert (report.code, report.outcomes("failed")) == (0, set()), report.document
    assert len(report.outcomes("passed")) == 11


def test_a_placeholder_fails_with_a_message_that_does_not_contradict_itself(tmp_path: Path) -> None:
    report = doctor("--config", write_toml(tmp_path, WITH_PLACEHOLDER))
    assert (report.code, report.outcomes("failed")) == (1, {"settings"})
    found = report.failure("settings")
    assert "TKDB_SIGNERS: signer operations, field key" in found
    assert "it is a placeholder" in found
    assert "a signer's public key was given" not in found


def test_without_the_parsers_of_serve_a_placeholder_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tkdb_ops.doctor.configured.problems", lambda env: [])
    assert doctor("--config", write_toml(tmp_path, WITH_PLACEHOLDER)).code == 0


@pytest.mark.parametrize("kind", [AuthoritySecret, AuthorityPublic, SignerSecret, SignerPublic])
@pytest.mark.parametrize("ending", ["…", "...", "", "<key>", "YOUR-KEY", "xxxxxxxx"])
def test_no_message_about_a_placeholder_contradicts_itself(kind: Any, ending: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind.parse(kind.PREFIX + ending)
    assert f"and {kind.KIND} was given" not in str(caught.value)


TOML_FAULTS = [
    (r"force_https( *)= false", r"force_https = true", "plain-http"),
    (r'auto_stop_machines( *)= "off"', 'auto_stop_machines = "suspend"', "awake"),
    (r'"/readyz"', '"/livez"', "readiness"),
    (r'kill_timeout( *)= "30s"', "kill_timeout = 5", "stopping"),
    (r"hard_limit( *)= 6000", "hard_limit = 400", "limits"),
    (r"internal_port( *)= 8080", "internal_port = 8081", "ports"),
    (r'"0.0.0.0:8080"', '"[::]:8080"', "bind"),
    (r'destination( *)= "/data"', 'destination = "/srv"', "volumes"),
    (r'TKDB_FLY_SRC( *)= "require"', 'TKDB_FLY_SRC = "off"', "attested"),
    (r'TKDB_FLY_SRC( *)= "require"', "", "attested"),
    (r"\[env\]", '[env]\nTKDB_DRAIN = "1"', "settings"),
    (r"\[env\]", '[env]\nTKDB_BOUND_MS = "soon"', "settings"),
    (r"\[env\]", '[env]\nTKDB_REGION = "<region>"', "settings"),
    (r"\[env\]", '[env]\nBUCKET_NAME = "<bucket>"', "settings"),
    (r"\[env\]", '[env]\nAWS_ENDPOINT_URL_S3 = "https://…"', "settings"),
    (r"\[env\]", '[env]\nTKDB_DB_FILE = "/run/db"', "settings"),
    (r'"tkdb.acme.example"', '"<name>"', "settings"),
    (r"\[env\]", '[env]\nAWS_SECRET_ACCESS_KEY = "planted"', "no-secrets"),
]


@pytest.mark.parametrize(("pattern", "replacement", "check"), TOML_FAULTS, ids=range(len(TOML_FAULTS)))
def test_a_fault_in_the_file_fails_its_check(tmp_path: Path, pattern: str, replacement: str, check: str) -> None:
    changed, count = re.subn(pattern, replacement, TOML)
    assert count == 1
    report = doctor("--config", write_toml(tmp_path, changed))
    assert (report.code, report.outcomes("failed")) == (1, {check})
    assert report.failure(check).startswith(f"{tmp_path}/fly.toml: ")
    assert "planted" not in json.dumps(report.document)


@pytest.mark.parametrize(
    "text",
    [
        "app = ",
        "env = 5",
        "[http_service]\ninternal_port = 'x'",
        "services = 1",
        "app = 5",
        "mounts = 'x'",
        "[[services]]\nports = 80",
    ],
)
def test_an_invalid_fly_toml_is_a_usage_error(tmp_path: Path, text: str) -> None:
    ran = quick("doctor", "--config", write_toml(tmp_path, text))
    assert (ran.code, "can't be read" in ran.err) == (2, True), ran.err


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    assert quick("doctor", "--config", str(tmp_path / "fly.toml")).code == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "app",
    "env",
    "services",
    "http_service",
    "mounts",
    "kill_timeout",
    "ports",
    "checks",
    "concurrency",
    "TKDB_BIND",
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON | st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3)))
def test_any_file_raises_only_tkdb_errors(found: dict[str, Any]) -> None:
    with suppress(TkdbError):
        parse_toml(as_toml(found))


def as_toml(found: dict[str, Any]) -> str:
    return "\n".join(f"{json.dumps(name)} = {_toml(value)}" for name, value in found.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps("none" if value is None else value)


@given(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_no_duration_raises_an_error(text: Any) -> None:
    assert duration_ms(text) is None or isinstance(duration_ms(text), int)
