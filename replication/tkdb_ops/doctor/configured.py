"""How machines are set up: that nothing more is served than is meant, and that they live through what happens. Pure.

Every configuration that was found is judged by the same rules: a fly.toml's, and each machine's.

>>> setup = Setup("fly.toml", Config(env={"TKDB_SEAL_KEYS": "tkdbseal_…"}))
>>> [finding.found for finding in configured([setup]) if finding.check == "no-secrets"]
['fly.toml: TKDB_SEAL_KEYS is in the open']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from tkdb import errors
from tkdb.server.limits import Limits
from tkdb.settings import SETTINGS, Address
from tkdb_ops.doctor.deployment import KILL_TIMEOUT_MS, Config, Service, Setup, StopConfig, duration_ms
from tkdb_ops.doctor.findings import Absent, Check, Finding, listed

Rule = Callable[[Config], Iterable[str]]
"""What is wrong with one configuration, each as a clause."""

PORTS: Final = frozenset({80, 443, 8080})
"""Where the proxy may serve the authority: plainly, as an ``http_service`` has it, and at the port of Kubernetes."""

SECRETS: Final = frozenset(
    {setting.variable for setting in SETTINGS if setting.description.startswith("Secret.")}
    | {"TKDB_SIGNER", "TKDB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "FLY_API_TOKEN"}
)
"""Variables whose values are secret."""

PLAIN_HTTP: Final = Check(
    "plain-http",
    "plain HTTP is served, and isn't redirected",
    "set force_https = false in fly.toml, then `fly deploy`",
)
PORTS_SERVED: Final = Check(
    "ports",
    "the proxy serves the authority's port, and nothing else",
    "keep one [http_service], with internal_port as in TKDB_BIND, then `fly deploy`",
)
BOUND: Final = Check(
    "bind", "the authority listens at IPv4 only", "set TKDB_BIND=0.0.0.0:8080 in [env], then `fly deploy`"
)
AWAKE: Final = Check(
    "awake",
    "machines are never suspended",
    'set auto_stop_machines = "off" (or "stop") in fly.toml, then `fly deploy`',
)
VOLUMES: Final = Check(
    "volumes",
    "each machine has a volume of its own, and its database is there",
    "add [[mounts]] with a destination above TKDB_DB, then `fly deploy`",
)
READINESS: Final = Check(
    "readiness",
    "the proxy asks /readyz before it sends requests",
    'add [[http_service.checks]] with method = "GET" and path = "/readyz", then `fly deploy`',
)
STOPPING: Final = Check(
    "stopping",
    "a machine that is stopped has time to hand over",
    'set kill_signal = "SIGTERM" and kill_timeout = "30s" in fly.toml, then `fly deploy`',
)
LIMITS: Final = Check(
    "limits",
    "requests go to another machine before one has too many",
    'set [http_service.concurrency] type = "requests", hard_limit below TKDB_MAX_CONCURRENCY, then `fly deploy`',
)
NO_SECRETS: Final = Check(
    "no-secrets",
    "no secret stands in plain configuration",
    "take it out of [env], `fly secrets set` a new one, and replace what was readable",
)

_DEFAULTS: Final = {setting.variable: setting.default or "" for setting in SETTINGS}


def configured(setups: Sequence[Setup] | Absent) -> list[Finding]:
    """Return what came of each rule. What is wrong in several places is said once, with all of them."""
    if isinstance(setups, Absent):
        return [check.unmade(setups) for check in RULES]
    return [check.judged(faults(rule, setups), listed(each.where for each in setups)) for check, rule in RULES.items()]


def faults(rule: Rule, setups: Iterable[Setup]) -> list[str]:
    """Return what is wrong by one rule, each with where it was found."""
    found: dict[str, list[str]] = {}
    for each in setups:
        for fault in rule(each.config):
            found.setdefault(fault, []).append(each.where)
    return [f"{listed(places)}: {fault}" for fault, places in found.items()]


def plain_http(config: Config) -> Iterator[str]:
    """Who calls a flycast address over plain HTTP would be redirected in a circle."""
    if any(port.force_https for service in config.services or () for port in service.ports or ()):
        yield "force_https is on"


def ports(config: Config) -> Iterator[str]:
    """The proxy serves one service, the authority's, where callers look for it, and nowhere else."""
    services = config.services or []
    if len(services) != 1:
        yield f"{len(services) or 'no'} services are served"
    address = _bind(config)
    for service in services:
        if service.protocol != "tcp":
            yield f"{service.protocol} is served"
        if address is not None and service.internal_port != address.port:
            yield f"port {service.internal_port} is served, and the authority is at {address}"
        given = service.ports or []
        open_at = {number for port in given for number in _numbers(port.port, port.start_port, port.end_port)}
        if not any(port.port == 80 and port.handlers == ["http"] for port in given):
            yield "port 80 has no plain http handler"
        if more := sorted(open_at - PORTS):
            yield f"port {more[0]} is open, too" if len(more) == 1 else f"{len(more)} more ports are open"


def bound(config: Config) -> Iterator[str]:
    """At an IPv6 address the authority could be reached past the proxy."""
    address = _bind(config)
    if address is None or address.host.version != 4:
        yield f"TKDB_BIND={_value(config, 'TKDB_BIND')}"
    elif address.loopback:
        yield f"TKDB_BIND={address}, where the proxy can't reach it"


def fly_src(config: Config, *, proven: bool) -> Iterator[str]:
    """Attestation is asked for. ``proven``: it is seen to be done, so that a variable that isn't here is a secret."""
    value = config.env.get("TKDB_FLY_SRC", "require" if proven else _value(config, "TKDB_FLY_SRC"))
    if value != "require":
        yield f"TKDB_FLY_SRC={value}"


def awake(config: Config) -> Iterator[str]:
    """A suspended machine's clocks stand still, and it would believe itself fresh."""
    if any(service.autostop == "suspend" for service in config.services or ()):
        yield "an idle machine is suspended"


def volumes(config: Config) -> Iterator[str]:
    """What a machine must not forget lies beside its database."""
    paths, database = [mount.path for mount in config.mounts or ()], _value(config, "TKDB_DB")
    if not paths:
        yield "there is no volume"
    elif not any(path and database.startswith(f"{path.rstrip('/')}/") for path in paths):
        yield f"the volume is at {listed(paths)}, and TKDB_DB={database}"


def readiness(config: Config) -> Iterator[str]:
    """A machine that is stale or full must get no requests."""
    checks = [check for service in config.services or () for check in service.checks or ()]
    paths = [check.path or "/" for check in checks if check.type == "http"]
    if not checks:
        yield "there is no check"
    elif not paths:
        yield "a connection is all that is checked"
    elif set(paths) != {"/readyz"}:
        yield f"{listed(sorted(set(paths)))} is asked"
    elif any((check.method or "GET").upper() != "GET" for check in checks):
        yield "/readyz is asked by another method than GET"


def stopping(config: Config) -> Iterator[str]:
    """What is in flight is answered, and a primary hands over."""
    timeout_ms, signal = _stop(config)
    needed_ms = _number(config, "TKDB_DRAIN_MS") + Limits().answer_ms
    if timeout_ms is None:
        yield "the kill_timeout can't be read"
    elif timeout_ms < needed_ms:
        yield f"it is killed after {timeout_ms / 1000:g} s, and needs {needed_ms / 1000:g} s"
    if signal not in ("SIGTERM", "SIGINT"):
        yield f"it is stopped by {signal}, which ends it at once"


def limits(config: Config) -> Iterator[str]:
    """Past the authority's own limit callers would get errors, where another machine has room."""
    own = _number(config, "TKDB_MAX_CONCURRENCY")
    for service in config.services or ():
        limit = service.concurrency
        if limit is None or not limit.hard_limit:
            yield "there is no hard_limit"
        elif limit.type != "requests":
            yield f"{limit.type} are counted, not requests"
        elif max(limit.hard_limit, limit.soft_limit) >= own:
            yield f"the limit is {max(limit.hard_limit, limit.soft_limit)}, and the authority takes {own}"


def no_secrets(config: Config) -> Iterator[str]:
    """Who may look at the app reads its plain variables. No value is repeated."""
    return (f"{name} is in the open" for name in sorted(SECRETS & config.env.keys()))


RULES: Final[Mapping[Check, Rule]] = {
    PLAIN_HTTP: plain_http,
    PORTS_SERVED: ports,
    BOUND: bound,
    AWAKE: awake,
    VOLUMES: volumes,
    READINESS: readiness,
    STOPPING: stopping,
    LIMITS: limits,
    NO_SECRETS: no_secrets,
}
"""What each check asks of one configuration."""


def _numbers(port: int | None, start: int | None, end: int | None) -> range:
    if port is not None:
        return range(port, port + 1)
    return range(max(start or 0, 0), min(65_535 if end is None else end, 65_535) + 1)


def _bind(config: Config) -> Address | None:
    try:
        return Address.parse(_value(config, "TKDB_BIND"))
    except errors.ConfigurationError:
        return None


def _value(config: Config, variable: str) -> str:
    return config.env.get(variable, _DEFAULTS[variable])


def _number(config: Config, variable: str) -> int:
    text = _value(config, variable)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else int(_DEFAULTS[variable])


def _stop(config: Config) -> tuple[int | None, str]:
    stop = config.stop_config or StopConfig()
    return KILL_TIMEOUT_MS if stop.timeout is None else duration_ms(stop.timeout), stop.signal or "SIGINT"


def differences(one: Config, other: Config) -> list[str]:
    """Return in what two configurations differ, of what is judged here; volumes are each machine's own.

    >>> differences(Config(env={"TKDB_FLY_SRC": "require"}), Config(env={"PRIMARY_REGION": "iad"}))
    ['TKDB_FLY_SRC']
    """
    names = {name for name in one.env.keys() | other.env.keys() if name.startswith(("TKDB_", "BUCKET_", "AWS_"))}
    found = sorted(name for name in names if one.env.get(name) != other.env.get(name))
    if _comparable(one.services) != _comparable(other.services):
        found.append("services")
    if {each.path for each in one.mounts or ()} != {each.path for each in other.mounts or ()}:
        found.append("mounts")
    if _stop(one) != _stop(other):
        found.append("kill_timeout or kill_signal")
    return found


def _comparable(services: Sequence[Service] | None) -> list[Service]:
    off_or_stop = {False: "off", True: "stop", None: "off"}
    return [
        msgspec.structs.replace(each, autostop=off_or_stop.get(each.autostop, each.autostop))  # type: ignore[arg-type]
        for each in services or ()
    ]
