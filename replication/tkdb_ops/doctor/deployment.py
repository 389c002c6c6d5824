"""The configuration of machines on Fly, read from the Machines API or from a fly.toml. Pure.

Only the fields that a check needs are read. Other fields are ignored. A field that doesn't have the documented form is
an error.
Sources: https://fly.io/docs/machines/api/machines-resource/ and https://fly.io/docs/reference/configuration/

>>> setup = parse_toml('app = "tkdb"\\n[http_service]\\ninternal_port = 8080\\n[env]\\nTKDB_BIND = "0.0.0.0:8080"')
>>> setup.config.services[0].internal_port, [port.port for port in setup.config.services[0].ports]
(8080, [80, 443])
>>> duration_ms("1m30s"), duration_ms(30)
(90000, 30000)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tkdb import errors

KILL_TIMEOUT_MS: Final = 5_000
"""How long Fly waits after the signal before it kills a machine, if the configuration has no timeout."""

_LONGEST_S: Final = 10**9
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_PARTS: Final = re.compile(f"(?:{_PART.pattern}){{1,4}}", re.ASCII).fullmatch
_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}

Duration = str | int | float


class Port(msgspec.Struct, frozen=True):
    """A port, or a range of ports, at which the proxy takes connections for a service."""

    port: int | None = None
    start_port: int | None = None
    end_port: int | None = None
    handlers: list[str] | None = None
    force_https: bool = False


class HttpCheck(msgspec.Struct, frozen=True):
    """A check by which the proxy decides whether a machine gets requests."""

    type: str | None = None
    method: str | None = None
    path: str | None = None


class Concurrency(msgspec.Struct, frozen=True):
    """The limits above which the proxy treats a machine as busy."""

    type: str = "connections"
    soft_limit: int = 0
    hard_limit: int = 0


class Service(msgspec.Struct, frozen=True):
    """A machine's service that the proxy serves. In the API's answers, ``autostop`` is a boolean for off and stop."""

    protocol: str = "tcp"
    internal_port: int = 8080
    autostop: bool | str | None = None
    ports: list[Port] | None = None
    checks: list[HttpCheck] | None = None
    concurrency: Concurrency | None = None


class Mount(msgspec.Struct, frozen=True):
    """A volume and its mount point. ``volume`` is its id, which only a machine has, and no fly.toml."""

    path: str = ""
    volume: str = ""
    name: str = ""


class StopConfig(msgspec.Struct, frozen=True):
    """The signal that stops a machine, and the timeout after which it is killed."""

    timeout: Duration | None = None
    signal: str | None = None


class Config(msgspec.Struct, frozen=True):
    """A machine's configuration."""

    env: dict[str, str] = {}
    services: list[Service] | None = None
    mounts: list[Mount] | None = None
    stop_config: StopConfig | None = None
    metadata: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<Config with {len(self.env)} variables>"  # one of them may be a secret by mistake


class ImageRef(msgspec.Struct, frozen=True):
    """The image that a machine runs."""

    repository: str = ""
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.digest or f"{self.repository}:{self.tag}"


class CheckStatus(msgspec.Struct, frozen=True):
    """The latest status of a check: passing, warning or critical."""

    name: str = ""
    status: str = ""


class DeployedMachine(msgspec.Struct, frozen=True):
    """A machine, as Fly lists it. It has only an ``incomplete_config`` if Fly can't reach its host."""

    id: str
    state: str = ""
    region: str = ""
    image_ref: ImageRef = ImageRef()
    config: Config | None = None
    incomplete_config: Config | None = None
    checks: list[CheckStatus] | None = None
    host_status: str = "ok"
    cordoned: bool = False

    @property
    def serves(self) -> bool:
        """True if the machine serves requests: it isn't destroyed, and isn't a temporary machine of a fly command."""
        metadata = (self.setup.metadata or {}) if self.setup else {}
        group = metadata.get("fly_process_group") or metadata.get("process_group") or ""
        return self.state not in ("destroyed", "destroying") and not group.startswith("fly_app_")

    @property
    def setup(self) -> Config | None:
        """The machine's configuration, as far as it is known."""
        return self.config or self.incomplete_config


class Assignment(msgspec.Struct, frozen=True):
    """An IP address of an app. An ``egress`` address is only for outgoing connections."""

    ip: str
    shared: bool = False
    egress: bool = False


class Assignments(msgspec.Struct, frozen=True):
    """All addresses of an app."""

    ips: list[Assignment]


@dataclass(frozen=True, slots=True)
class Setup:
    """One configuration, and its origin: ``fly.toml``, or a machine."""

    where: str
    config: Config


@dataclass(frozen=True, slots=True)
class Written(Setup):
    """A fly.toml, and the app that it names; empty if it names none."""

    app: str


def parse_toml(text: str, where: str = "fly.toml") -> Written:
    """Read a fly.toml.

    Raises:
        ConfigurationError: the text isn't TOML, or doesn't have the form of a fly.toml.
    """
    try:
        found = tomllib.loads(text)
        config = msgspec.convert(_as_machine(found), Config)
        return Written(where, config, msgspec.convert(found.get("app", ""), str))
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, AttributeError, TypeError) as error:
        raise errors.ConfigurationError(
            f"{where} can't be read: {str(error)[:200]}", hint="run `fly config validate`"
        ) from None


def duration_ms(text: Duration) -> int | None:
    """Return the duration in milliseconds; None if it is invalid.

    Valid are Fly's own form, such as ``30s`` or ``1m30s``, and a number of seconds.
    """
    if isinstance(text, int | float):
        return round(text * 1_000) if 0 <= text <= _LONGEST_S else None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text) * 1_000
    if _PARTS(text) is None:
        return None
    return round(sum(float(number) * _MS[unit] for number, unit in _PART.findall(text)))


def _as_machine(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine configuration that `fly deploy` makes of a fly.toml, with the fields that a check needs."""
    services = [_service(each, each.get("ports"), _checks(each)) for each in found.get("services", ())]
    if (http := found.get("http_service")) is not None:
        ports = [{"port": 80, "handlers": ["http"], "force_https": http.get("force_https", False)}]
        ports.append({"port": 443, "handlers": ["http", "tls"]})
        services.insert(0, _service(http, ports, [{"type": "http", **each} for each in http.get("checks", ())]))
    mounts = found.get("mounts", ())
    mounts = [mounts] if isinstance(mounts, Mapping) else mounts
    return {
        "env": {name: str(value) for name, value in found.get("env", {}).items()},
        "services": services,
        "mounts": [{"path": each.get("destination", ""), "name": each.get("source", "")} for each in mounts],
        "stop_config": {"timeout": found.get("kill_timeout"), "signal": found.get("kill_signal")},
    }


def _service(found: Mapping[str, Any], ports: Any, checks: Any) -> dict[str, Any]:
    renamed = {"autostop": found.get("auto_stop_machines"), "ports": ports, "checks": checks}
    kept = {name: found[name] for name in ("protocol", "internal_port", "concurrency") if name in found}
    return kept | renamed


def _checks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    http = [{"type": "http", **each} for each in found.get("http_checks", ())]
    return http + [{"type": "tcp"} for _ in found.get("tcp_checks", ())]
