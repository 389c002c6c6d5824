"""Checks of the network: the authority can be reached at a private address, and only through the proxy. Pure.

>>> door = Door("tkdb.flycast", ("fdaa:0:1:0:1::7",))
>>> private_address([door]).found
'tkdb.flycast is fdaa:0:1:0:1::7'
>>> past_the_proxy([Knock("tkdb-syd-1", "[fdaa:0:1:0:b:0:1:2]:8080", Came.ANSWER, "HTTP 200")]).found
'tkdb-syd-1 answers at [fdaa:0:1:0:b:0:1:2]:8080, past the proxy (HTTP 200)'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Network, ip_address
from typing import Final

from tkdb_ops.doctor.findings import Absent, Check, Finding, Unlearned, listed

SIXPN: Final = IPv6Network("fdaa::/16")
"""Fly's private networks, and the addresses of flycast in them."""

PRIVATE_ADDRESS: Final = Check(
    "private-address",
    "the authority is called at a private address",
    "call it at http://<app>.flycast, and release the other addresses: `fly ips list`, `fly ips release`",
)
PAST_THE_PROXY: Final = Check(
    "past-the-proxy",
    "past the proxy, connections are refused",
    "listen at IPv4 only, TKDB_BIND=0.0.0.0:8080, then `fly deploy`",
)


def app_of(host: str) -> str | None:
    """Return the Fly app of a host ``<app>.flycast`` or ``<service>.svc.<app>.flycast``; None for any other host.

    >>> app_of("api.svc.tkdb.flycast"), app_of("tkdb.example")
    ('tkdb', None)
    """
    stem, _, top = host.rstrip(".").rpartition(".")
    return (stem.rpartition(".svc.")[2] or None) if top == "flycast" else None


@dataclass(frozen=True, slots=True)
class Door:
    """The host of one of the authority's URLs, and the addresses that its name resolves to."""

    host: str
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return self.host if self.addresses == (self.host,) else f"{self.host} is {listed(self.addresses)}"


@dataclass(frozen=True, slots=True)
class KnownMachine:
    """The name and region of a known machine."""

    machine: str
    region: str


class Came(StrEnum):
    """The result of a request that bypasses the proxy."""

    REFUSAL = "refusal"
    ANSWER = "answer"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Knock:
    """A request that is sent directly to a machine, past the proxy.

    Attributes:
        machine: the machine's name.
        where: the machine's address and port.
        came: the result.
        said: the result in words.
    """

    machine: str
    where: str
    came: Came
    said: str = ""


def private_address(doors: Sequence[Door] | Absent) -> Finding:
    """Judge the addresses that callers use."""
    if isinstance(doors, Absent):
        return PRIVATE_ADDRESS.unmade(doors)
    faults = []
    for door in doors:
        public = [each for each in door.addresses if not _private(each, sixpn=app_of(door.host) is not None)]
        faults += [f"{door.host} is {listed(public)}, which isn't private"] if public else []
    return PRIVATE_ADDRESS.judged(faults, "; ".join(map(str, doors)))


def past_the_proxy(knocks: Sequence[Knock] | Absent) -> Finding:
    """Judge whether machines refuse connections that bypass the proxy."""
    if isinstance(knocks, Absent):
        return PAST_THE_PROXY.unmade(knocks)
    if not knocks:
        return PAST_THE_PROXY.unmade(Unlearned("no machine of the app has an address on the private network"))
    open_to = [each for each in knocks if each.came is Came.ANSWER]
    if open_to:
        return PAST_THE_PROXY.judged(
            (f"{each.machine} answers at {each.where}, past the proxy ({each.said})" for each in open_to), ""
        )
    silent = [each for each in knocks if each.came is Came.NOTHING]
    if silent:
        names = listed(f"{each.machine} at {each.where}" for each in silent)
        return PAST_THE_PROXY.unmade(Unlearned(f"neither refused nor answered: {names}"))
    where = listed(dict.fromkeys(each.where.rpartition(":")[2] for each in knocks))
    return PAST_THE_PROXY.passed(f"port {where} of {listed(dict.fromkeys(each.machine for each in knocks))}")


def _private(address: str, *, sixpn: bool) -> bool:
    found = ip_address(address)
    return found in SIXPN if sixpn else not found.is_global
