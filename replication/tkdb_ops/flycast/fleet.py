"""A fleet of ordinary hosts in regions, and the task of the proxy in each region: flycast without Fly. Pure.

A fleet is a TOML document, which docs/deploy-hosts.md describes.

>>> fleet = Fleet.parse('''
... listen = "127.0.0.1:7070"
... [[region]]
... name = "fra"
... machines = { m1 = "10.1.0.1:8080" }
... [[region]]
... name = "syd"
... machines = { m2 = "10.2.0.1:8080", m3 = "10.2.0.2:8080" }
... [[region]]
... name = "sin"
... ''')
>>> [machine.id for machine in fleet.site("sin").doors[0].machines]
['m2', 'm3', 'm1']
>>> fleet.site("ams")
Traceback (most recent call last):
...
tkdb.errors.ConfigurationError: the fleet has no region 'ams': it has fra, syd, sin
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Self

import msgspec

from tkdb import errors
from tkdb.settings import Address
from tkdb_ops.flycast import regions
from tkdb_ops.flycast.addresses import Endpoint
from tkdb_ops.flycast.site import Backend, Door, Site

APP: Final = "tkdb"
"""The name of the proxy's only app."""

MACHINES_MAX: Final = 256

_Label = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
_ANY: Final = "any"


class _Region(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: _Label
    machines: dict[_Label, str] = {}
    nearest: list[_Label] | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    listen: str
    region: list[_Region]
    admin: str | None = None
    check: Annotated[str, msgspec.Meta(pattern=r"^/[A-Za-z0-9/_.-]{0,100}\Z")] = "/readyz"
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 6_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts in regions. Create it with ``parse``.

    Args:
        listen: the address at which each proxy takes requests, the same everywhere.
        machines: for each region, the machines, and the addresses at which the proxies of all regions reach them.
        nearest: for each region, all regions that have machines, nearest first.
        admin: the address at which each proxy reports its state; None for no such reports.
        check: the path of a machine's health check.
        limit: the limit of requests that one proxy has in flight at one machine.
    """

    listen: Endpoint
    machines: Mapping[str, Mapping[str, Endpoint]]
    nearest: Mapping[str, tuple[str, ...]]
    admin: Endpoint | None
    check: str
    limit: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the fleet that the TOML document ``text`` describes.

        Raises:
            ConfigurationError: the document doesn't describe a fleet. The message contains the reason.
        """
        try:
            document = msgspec.convert(tomllib.loads(text), _Document)
        except (ValueError, RecursionError) as error:  # msgspec's and tomllib's errors are ValueErrors
            why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise errors.ConfigurationError(
                f"the fleet can't be read: {why}", hint="see docs/deploy-hosts.md for an example"
            ) from None
        names = [region.name for region in document.region]
        _check_once("region", names, hint="name each once")
        if _ANY in names:
            raise errors.ConfigurationError(
                "a region has the name 'any'", hint="choose another, callers mean all by it"
            )
        machines = {
            region.name: {name: _endpoint(f"machine {name!r}", text) for name, text in region.machines.items()}
            for region in document.region
        }
        _check_machines(machines)
        admin = None if document.admin is None else _endpoint("admin", document.admin)
        if admin is not None and not Address.parse(str(admin)).loopback:
            raise errors.ConfigurationError(
                f"admin is {admin}, which other hosts can reach: anyone who reaches it can stop the proxy",
                hint="give it an address of 127.0.0.0/8, or ::1",
            )
        return cls(
            _endpoint("listen", document.listen),
            machines,
            {region.name: _order(region, machines) for region in document.region},
            admin,
            document.check,
            document.limit,
        )

    def site(self, region: str) -> Site:
        """Return the task of the proxy of a host in ``region``.

        Raises:
            ConfigurationError: there is no such region.
        """
        if region not in self.nearest:
            raise errors.ConfigurationError(
                f"the fleet has no region {region!r:.80}", hint=f"it has {', '.join(self.nearest)}"
            )
        machines = tuple(
            Backend(name, code, local=address)
            for code in self.nearest[region]
            for name, address in self.machines[code].items()
        )
        door = Door(APP, (self.listen,), machines, check=self.check, hard_limit=self.limit)
        return Site(region, (door,), admin=self.admin)


def _endpoint(what: str, text: str) -> Endpoint:
    try:
        address = Address.parse(text)
    except errors.ConfigurationError as error:
        raise errors.ConfigurationError(f"{what} is {text!r:.80}: {error.message}", hint=error.hint) from None
    if not address.port:
        raise errors.ConfigurationError(f"{what} is {text!r}, without a port", hint="choose one from 1 to 65535")
    return Endpoint(str(address.host), address.port)


def _check_machines(machines: Mapping[str, Mapping[str, Endpoint]]) -> None:
    names = [name for here in machines.values() for name in here]
    places = [place for here in machines.values() for place in here.values()]
    if not names:
        raise errors.ConfigurationError(
            "the fleet has no machines", hint='write machines = { m1 = "10.1.0.1:8080" } in a region'
        )
    if len(names) > MACHINES_MAX:
        raise errors.ConfigurationError(f"{len(names)} machines are too many", hint=f"{MACHINES_MAX} at most")
    _check_once("machine", names, hint="give each machine a different name, its TKDB_MACHINE")
    _check_once("address", list(map(str, places)), hint="give each machine a different address")
    for name, place in ((name, place) for here in machines.values() for name, place in here.items()):
        if Address.parse(str(place)).host.is_unspecified:
            raise errors.ConfigurationError(
                f"machine {name!r} is {str(place)!r}, which isn't a host's", hint="write the address that others use"
            )


def _order(region: _Region, machines: Mapping[str, Mapping[str, Endpoint]]) -> tuple[str, ...]:
    """Return all regions that have machines, nearest to ``region`` first, starting with itself if it has any."""
    filled = [name for name, here in machines.items() if here]
    others = [name for name in filled if name != region.name]
    if region.nearest is None:
        unknown = [name for name in (region.name, *others) if name not in regions.REGIONS]
        if unknown and len(others) > 1:
            raise errors.ConfigurationError(
                f"the distances from region {region.name!r} aren't known",
                hint=f"give it nearest = {_quoted(others)}, nearest first",
            )
        order: Sequence[str] = others if unknown else regions.nearest(region.name, others)
    else:
        _check_once(f"region nearest to {region.name!r}", region.nearest, hint="name each once")
        if set(region.nearest) != set(others):
            raise errors.ConfigurationError(
                f"nearest of the region {region.name!r} is {_quoted(region.nearest)}",
                hint=f"name every other region that has machines: {_quoted(others)}, nearest first",
            )
        order = region.nearest
    return (*([region.name] if region.name in filled else []), *order)


def _check_once(what: str, names: Sequence[str], *, hint: str) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise errors.ConfigurationError(f"there are two of the {what} {name!r}", hint=hint)


def _quoted(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
