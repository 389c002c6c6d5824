"""Checks of how machines are set up: nothing is served by mistake, and a machine survives stops and load. Pure.

The same rules judge every known configuration: the fly.toml's, and each machine's.

>>> setup = Setup("fly.toml", Config(env={"TKDB_SEAL_KEYS": "tkdbseal_…"}))
>>> [finding.found for finding in configured([setup]) if finding.check == "no-secrets"]
['fly.toml: TKDB_SEAL_KEYS is readable']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from tkdb import errors
from tkdb.server.limits import Limits
from tkdb.settings import SETTINGS, Address, problems
from tkdb_ops.doctor.deployment import KILL_TIMEOUT_MS, Config, Service, Setup, StopConfig, duration_ms
from tkdb_ops.doctor.findings import Absent, Check, Finding, listed
from tkdb_replication.bucket.settings import Bucket

Rule = Callable[[Config], Iterable[str]]
"""A rule that yields the faults of one configuration, each as a clause."""

PORTS: Final = frozenset({80, 443, 8080})
"""The ports at which the proxy may serve the authority: the two of an ``http_service``, and the port in Kubernetes."""

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
    "each machine has its own volume, and its database is there",
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
    "the proxy passes on as many requests as the authority accepts",
    'set [http_service.concurrency] type = "requests", hard_limit = 6000, soft_limit = 5500, then `fly deploy`',
)
NO_SECRETS: Final = Check(
    "no-secrets",
    "plain configuration contains no secret",
    "remove it from [env], `fly secrets set` a new one, and stop using the old one",
)

READABLE: Final = Check(
    "settings",
    "`tkdb serve` accepts every variable",
    "correct it in [env], then `fly deploy`",
)

_ANY_BUCKET: Final = {"BUCKET_NAME": "any", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
"""The variables that a bucket must have. They stand in for those that are secrets, and so aren't in [env]."""

_DEFAULTS: Final = {setting.variable: setting.default or "" for setting in SETTINGS}


def configured(setups: Sequence[Setup] | Absent) -> list[Finding]:
    """Return the finding of each rule. A fault that several configurations have is listed once, with all of them."""
    if isinstance(setups, Absent):
        return [check.unmade(setups) for check in RULES]
    return [check.judged(faults(rule, setups), listed(each.where for each in setups)) for check, rule in RULES.items()]


def faults(rule: Rule, setups: Iterable[Setup]) -> list[str]:
    """Return the faults by one rule, each with the configurations that have it."""
    found: dict[str, list[str]] = {}
    for each in setups:
        for fault in rule(each.config):
            found.setdefault(fault, []).append(each.where)
    return [f"{listed(places)}: {fault}" for fault, places in found.items()]


def plain_http(config: Config) -> Iterator[str]:
    """Yield a fault if plain HTTP is redirected. A caller of a flycast address would be redirected in a circle."""
    if any(port.force_https for service in config.services or () for port in service.ports or ()):
        yield "force_https is on"


def ports(config: Config) -> Iterator[str]:
    """Yield a fault unless the proxy serves only the authority, at the ports that callers use, and at no other port."""
    services = config.services or []
    if len(services) != 1:
        yield f"{len(services) or 'no'} services are served"
    address = _bind(config)
    for service in services:
        if service.protocol != "tcp":
            yield f"{service.protocol} is served"
        if address is not None and service.internal_port != address.port:
            yield f"port {service.internal_port} is served, but the authority listens at {address}"
        given = service.ports or []
        open_at = {number for port in given for number in _numbers(port.port, port.start_port, port.end_port)}
        if not any(port.port == 80 and port.handlers == ["http"] for port in given):
            yield "port 80 has no plain http handler"
        if more := sorted(open_at - PORTS):
            yield f"port {more[0]} is also open" if len(more) == 1 else f"{len(more)} more ports are open"


def bound(config: Config) -> Iterator[str]:
    """Yield a fault unless the authority listens at IPv4. At an IPv6 address, callers could bypass the proxy."""
    address = _bind(config)
    if address is None or address.host.version != 4:
        yield f"TKDB_BIND={_value(config, 'TKDB_BIND')}"
    elif address.loopback:
        yield f"TKDB_BIND={address}, where the proxy can't reach it"


def fly_src(config: Config, *, proven: bool) -> Iterator[str]:
    """Yield a fault unless attestation is required.

    ``proven`` means that machines do require it. A variable that is missing here is then set as a secret.
    """
    value = config.env.get("TKDB_FLY_SRC", "require" if proven else _value(config, "TKDB_FLY_SRC"))
    if value != "require":
        yield f"TKDB_FLY_SRC={value}"


def awake(config: Config) -> Iterator[str]:
    """Yield a fault if idle machines are suspended. The clocks of a suspended machine stop, so it would seem fresh."""
    if any(service.autostop == "suspend" for service in config.services or ()):
        yield "an idle machine is suspended"


def volumes(config: Config) -> Iterator[str]:
    """Yield a fault unless a volume contains the database. A machine stores next to it the facts it must not forget."""
    paths, database = [mount.path for mount in config.mounts or ()], _value(config, "TKDB_DB")
    if not paths:
        yield "there is no volume"
    elif not any(path and database.startswith(f"{path.rstrip('/')}/") for path in paths):
        yield f"the volume is at {listed(paths)}, but TKDB_DB={database}"


def readiness(config: Config) -> Iterator[str]:
    """Yield a fault unless the proxy checks /readyz. A machine that is stale or full must get no requests."""
    checks = [check for service in config.services or () for check in service.checks or ()]
    paths = [check.path or "/" for check in checks if check.type == "http"]
    if not checks:
        yield "there is no check"
    elif not paths:
        yield "only the connection is checked"
    elif set(paths) != {"/readyz"}:
        yield f"{listed(sorted(set(paths)))} is requested"
    elif any((check.method or "GET").upper() != "GET" for check in checks):
        yield "/readyz is requested with another method than GET"


def stopping(config: Config) -> Iterator[str]:
    """Yield a fault unless a stopped machine has time to answer requests in flight, and a primary to hand over."""
    timeout_ms, signal = _stop(config)
    needed_ms = _number(config, "TKDB_DRAIN_MS") + Limits().answer_ms
    if timeout_ms is None:
        yield "the kill_timeout can't be read"
    elif timeout_ms < needed_ms:
        yield f"it is killed after {timeout_ms / 1000:g} s, but needs {needed_ms / 1000:g} s"
    if signal not in ("SIGTERM", "SIGINT"):
        yield f"it is stopped by {signal}, which ends it immediately"


def limits(config: Config) -> Iterator[str]:
    """Yield a fault unless the proxy's limits are above the authority's.

    The proxy counts a request from its first byte on. With a lower limit, slow senders and long polls would use it up.
    """
    own = Limits(active_max=_number(config, "TKDB_MAX_CONCURRENCY")).requests_max
    for service in config.services or ():
        limit = service.concurrency
        if limit is None:
            continue
        lowest = min(filter(None, (limit.hard_limit, limit.soft_limit)), default=own)
        if limit.type != "requests":
            yield f"{limit.type} are counted, not requests"
        elif lowest < own:
            yield f"the limit is {lowest}, but the authority accepts {own} requests"


def no_secrets(config: Config) -> Iterator[str]:
    """Yield a fault for each secret in plain variables, because anyone who may look at the app can read it.

    The fault doesn't repeat the value.
    """
    return (f"{name} is readable" for name in sorted(SECRETS & config.env.keys()))


def readable(config: Config) -> Iterator[str]:
    """Yield a fault for each variable that ``tkdb serve`` wouldn't accept, by its own parsers: a placeholder is one."""
    yield from problems(config.env)
    try:
        Bucket.parse(_ANY_BUCKET | config.env)
    except errors.ConfigurationError as error:
        yield str(error)


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
    READABLE: readable,
}
"""The rule of each check."""


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
    """Return the judged settings in which two configurations differ. Volumes may differ: each machine has its own.

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
