"""The authority's configuration, read from the environment.

``SETTINGS`` lists every setting: its variable, its parser, its default, and a one-line description. Each can also be
given as ``NAME_FILE``, the path of a file with the value. All problems of a configuration are reported together, and no
value of a secret is ever repeated.

>>> Settings.parse({"TKDB_NAME": "tkdb.example", "TKDB_DRAIN": "1000", "TKDB_BIND": "here"})
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: 6 settings are wrong
  TKDB_DRAIN: there is no such setting; did you mean TKDB_DRAIN_MS?
  TKDB_AUTHORITY_KEY: it is missing
  TKDB_SEAL_KEYS: it is missing
  TKDB_SIGNERS: it is missing
  TKDB_DB: it is missing
  TKDB_BIND: an address and a port are expected: write 0.0.0.0:8080, or [::1]:8080
see docs/configuration.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final, Self

from tkdb import attestation, defaults, errors
from tkdb.channel.keys import AuthoritySecret, parse_name
from tkdb.journal.seal import SealKeys
from tkdb.signers import Signers

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
ANY: Final = "any"
_FILE: Final = "_FILE"
_LABEL: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_SOURCE_NAME: Final = re.compile(attestation.NAME).fullmatch


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a TCP port. Port 0 is any free port."""

    host: IPv4Address | IPv6Address
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address in ``text``, such as ``127.0.0.1:8080`` or ``[::1]:8080``.

        Raises:
            ConfigurationError: it is anything else. Names aren't resolved.
        """
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            address = ip_address(host[1:-1] if bracketed else host)
            number = int(port) if port.isascii() and port.isdigit() else -1
        except ValueError:
            number = -1
        if not 0 <= number <= 65_535 or bracketed != (address.version == 6):
            raise errors.ConfigurationError(
                "an address and a port are expected", hint="write 0.0.0.0:8080, or [::1]:8080"
            )
        return cls(address, number)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect: 127.0.0.0/8 or ::1."""
        return self.host.is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        variable: its name in the environment.
        attribute: its name in ``Settings``.
        parse: turns the text into the value. Raises ConfigurationError.
        default: the text of the default, or None if the setting is required.
        description: one line.
        instead: a variable of the platform that is used if this one is missing.
    """

    variable: str
    attribute: str
    parse: Callable[[str], Any]
    default: str | None
    description: str
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of one machine, as values. No secret appears in its repr.

    ``database`` is a path, or the text ``":memory:"`` for ``tkdb dev``.
    """

    name: str
    authority_keys: tuple[AuthoritySecret, ...]
    seal_keys: SealKeys
    signers: Signers = field(repr=False)
    database: Path | str
    bind: Address
    max_lifetime_s: int = defaults.MAX_LIFETIME_S
    max_revocations: int = defaults.MAX_REVOCATIONS
    drain_ms: int = 4_500
    max_concurrency: int = 256
    log_level: str = "info"
    region: str = "local"
    machine: str = "local"
    primary_regions: tuple[str, ...] = ()
    automatic_promotion: bool = True
    bound_ms: int = defaults.BOUND_MS
    lease_ms: int = defaults.LEASE_MS
    fly_src_required: bool = False
    fly_src_apps: tuple[str, ...] | None = None
    fly_src_orgs: tuple[str, ...] | None = None
    fly_src_key_file: Path = Path(attestation.KEY_FILE)

    @classmethod
    def parse(cls, environment: Mapping[str, str], *, read_file: Callable[[str], str] | None = None) -> Self:
        """Return the settings in ``environment``.

        Args:
            environment: names and values, as in ``os.environ``.
            read_file: returns a file's text. Default: from disk.

        Raises:
            ConfigurationError: lists all problems.
        """
        problems = [*_unknown(environment)]
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            try:
                values[setting.attribute] = setting.parse(_text(setting, environment, read_file or _read))
            except errors.ConfigurationError as error:
                problems.append(f"{setting.variable}: {error}")
        if problems:
            count = "1 setting is" if len(problems) == 1 else f"{len(problems)} settings are"
            lines = "".join(f"\n  {problem}" for problem in problems)
            raise errors.ConfigurationError(f"{count} wrong{lines}\nsee docs/configuration.md")
        return cls(**values)


def problems(environment: Mapping[str, str]) -> list[str]:
    """Return the problem of each variable in ``environment`` that ``Settings.parse`` wouldn't accept.

    A missing variable is no problem here, because a part of the configuration may be kept in another place, as secrets
    are. No file is read.
    """
    found = _unknown(environment)
    for setting in SETTINGS:
        in_file = setting.variable + _FILE in environment
        if setting.variable in environment or (setting.instead in environment and not in_file):
            try:
                setting.parse(_text(setting, environment, _read))
            except errors.ConfigurationError as error:
                found.append(f"{setting.variable}: {error}")
    return found


def _text(setting: Setting, environment: Mapping[str, str], read_file: Callable[[str], str]) -> str:
    value, path = environment.get(setting.variable), environment.get(setting.variable + _FILE)
    if value is not None and path is not None:
        raise errors.ConfigurationError(f"{setting.variable}{_FILE} is set too", hint="set one of them")
    if path is not None:
        try:
            value = read_file(path).strip()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise errors.ConfigurationError(f"the file {path} can't be read ({cause})") from None
    if value is None and setting.instead is not None:
        value = environment.get(setting.instead)
    if value is None:
        value = setting.default
    if value is None:
        raise errors.ConfigurationError("it is missing")
    if not value:
        raise errors.ConfigurationError("it is empty")
    return value


def _unknown(environment: Mapping[str, str]) -> list[str]:
    known = {setting.variable for setting in SETTINGS}
    known |= {name + _FILE for name in known} | CLIENT_VARIABLES
    found = sorted(name for name in environment if name.startswith("TKDB_") and name not in known)
    return [f"{name}: there is no such setting{_nearest(name, known)}" for name in found]


def _nearest(name: str, known: set[str]) -> str:
    nearest = get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _keys(text: str) -> tuple[AuthoritySecret, ...]:
    keys = tuple(AuthoritySecret.parse(part.strip()) for part in text.split(","))
    if len({key.public for key in keys}) != len(keys):
        raise errors.ConfigurationError("the same key is given twice")
    if len(keys) > 2:
        raise errors.ConfigurationError("one key is expected, or two during a rotation")
    return keys


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if not least <= number <= most:
            raise errors.ConfigurationError(f"a whole number from {least} to {most} is expected")
        return number

    return parse


def _path(text: str) -> Path:
    if text == ":memory:":
        raise errors.ConfigurationError(
            "the path of a file is expected", hint="for a database in memory, use `tkdb dev`"
        )
    return Path(text)


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise errors.ConfigurationError(f"one of {', '.join(LOG_LEVELS)} is expected")
    return text.lower()


def _label(text: str) -> str:
    # These values go into the head, into headers and into tables.
    if not _LABEL(text):
        raise errors.ConfigurationError("at most 64 letters, digits, dots, dashes and underscores are expected")
    return text


def _labels(text: str) -> tuple[str, ...]:
    return () if text == ANY else tuple(_label(part.strip()) for part in text.split(","))


def _required(text: str) -> bool:
    if text not in ("off", "require"):
        raise errors.ConfigurationError("off or require is expected")
    return text == "require"


def _source_names(text: str) -> tuple[str, ...] | None:
    if text == ANY:
        return None
    names = tuple(part.strip() for part in text.split(","))
    if not all(_SOURCE_NAME(name) for name in names):
        raise errors.ConfigurationError(
            "comma-separated names of letters, digits, dashes and underscores, or any, are expected"
        )
    return names


def _promotion(text: str) -> bool:
    if text not in ("automatic", "manual"):
        raise errors.ConfigurationError("automatic or manual is expected")
    return text == "automatic"


CLIENT_VARIABLES: Final = frozenset({"TKDB_URL", "TKDB_AUTHORITY", "TKDB_SIGNER", "TKDB_SIGNER_FILE", "TKDB_TOKEN"})
"""The variables of the client and the command line: they aren't settings of the authority, and aren't errors in its
environment."""


def _default(attribute: str) -> str:
    """Return the text of an attribute's default, which is stated in ``Settings``."""
    return str(next(each.default for each in fields(Settings) if each.name == attribute))


SETTINGS: Final = (
    Setting(
        "TKDB_NAME", "name", parse_name, None, "The authority's name: the location of its macaroons. It never changes."
    ),
    Setting(
        "TKDB_AUTHORITY_KEY",
        "authority_keys",
        _keys,
        None,
        "Secret. The authority's static Noise key (`tkdbauth_…`); during a rotation, two, comma-separated.",
    ),
    Setting(
        "TKDB_SEAL_KEYS",
        "seal_keys",
        SealKeys.parse,
        None,
        "Secret. The sealing secrets (`tkdbseal_…`), comma-separated: the first seals, all unseal.",
    ),
    Setting("TKDB_SIGNERS", "signers", Signers.parse_toml, None, "The signers, as TOML: see below."),
    Setting("TKDB_DB", "database", _path, None, "The path of the SQLite database."),
    Setting(
        "TKDB_BIND",
        "bind",
        Address.parse,
        "0.0.0.0:8080",
        "The address and port to listen at. It is IPv4, so that requests over 6PN past the proxy are refused.",
    ),
    Setting(
        "TKDB_MAX_LIFETIME_S",
        "max_lifetime_s",
        _integer(1, 10 * 366 * 86_400),
        _default("max_lifetime_s"),
        "The longest lifetime of any token, in seconds: 90 days.",
    ),
    Setting(
        "TKDB_MAX_REVOCATIONS",
        "max_revocations",
        _integer(100, 10_000_000),
        _default("max_revocations"),
        "The quota of each organization: its revoked lineages and branches, and also its revoked subjects.",
    ),
    Setting(
        "TKDB_DRAIN_MS",
        "drain_ms",
        _integer(0, 300_000),
        _default("drain_ms"),
        "How long to continue to answer after SIGTERM, in milliseconds: longer than a proxy pools connections.",
    ),
    Setting(
        "TKDB_MAX_CONCURRENCY",
        "max_concurrency",
        _integer(1, 100_000),
        _default("max_concurrency"),
        "The largest number of requests in progress. Long polls have a separate limit.",
    ),
    Setting("TKDB_LOG_LEVEL", "log_level", _log_level, _default("log_level"), "`debug`, `info`, `warning` or `error`."),
    Setting("TKDB_REGION", "region", _label, _default("region"), "The region of this machine.", instead="FLY_REGION"),
    Setting(
        "TKDB_MACHINE",
        "machine",
        _label,
        _default("machine"),
        "This machine's name, different on each: requests are replayed to it.",
        instead="FLY_MACHINE_ID",
    ),
    Setting(
        "TKDB_PRIMARY_REGIONS",
        "primary_regions",
        _labels,
        ANY,
        "With a bucket: the regions whose machines are preferred as primary, in this order, comma-separated.",
        instead="PRIMARY_REGION",
    ),
    Setting(
        "TKDB_PROMOTION",
        "automatic_promotion",
        _promotion,
        "automatic",
        "With a bucket: `automatic` lets a machine take over when a primary becomes silent; `manual` doesn't.",
    ),
    Setting(
        "TKDB_BOUND_MS",
        "bound_ms",
        _integer(1_000, 60_000),
        _default("bound_ms"),
        "With a bucket: the largest age of the data that a machine serves, in milliseconds. Beyond it, it refuses.",
    ),
    Setting(
        "TKDB_LEASE_MS",
        "lease_ms",
        _integer(3_000, 60_000),
        _default("lease_ms"),
        "With a bucket: how long other machines wait for a silent primary, in milliseconds.",
    ),
    Setting(
        "TKDB_FLY_SRC",
        "fly_src_required",
        _required,
        "off",
        "`require`: answer only callers that Fly's proxy attests. `off`: answer all.",
    ),
    Setting(
        "TKDB_FLY_SRC_APPS",
        "fly_src_apps",
        _source_names,
        ANY,
        "With `TKDB_FLY_SRC=require`: the apps that may call, comma-separated.",
    ),
    Setting(
        "TKDB_FLY_SRC_ORGS",
        "fly_src_orgs",
        _source_names,
        ANY,
        "With `TKDB_FLY_SRC=require`: the organizations on Fly that may call, comma-separated.",
    ),
    Setting(
        "TKDB_FLY_SRC_KEY_FILE",
        "fly_src_key_file",
        Path,
        attestation.KEY_FILE,
        "With `TKDB_FLY_SRC=require`: the path of the proxy's public key, which is read at start.",
        instead="FLYCAST_SRC_KEY_FILE",
    ),
)
