"""The addresses at which each part listens: on a separate 6PN in namespaces, or on this machine's loopback. Pure.

A 6PN address is ``fdaa`` (16 bits) network (32) host (32) machine (32) free (16). Here, each region is one host, and
machine 0 of it is the worker, with the proxy. Source: https://fly.io/docs/networking/private-networking/

>>> from tkdb_ops.flycast.layout import App, Layout
>>> layout = Layout.for_apps(App("tkdb", ("iad", "syd")), clients=["sin"])
>>> Sixpn(layout).edge("syd", "tkdb"), Sixpn(layout).private(layout.machines[1])
(Endpoint(host='fdaa:0:1:0:1::7', port=80), 'fdaa:0:1:0:b:0:1:2')
>>> OnLoopback(layout, 3).edge("syd", "tkdb"), OnLoopback(layout, 3).bind(layout.machines[1])
(Endpoint(host='127.3.2.200', port=8080), Endpoint(host='127.3.2.1', port=8080))
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final, Protocol

from tkdb_ops.flycast.layout import App, Layout, Slot

RESOLVER: Final = "fdaa::3"
"""The address of the resolver for machines."""

KUBERNETES_PORT: Final = 8080
"""The port at which ``<service>.svc.<app>.flycast`` answers on Fly's Kubernetes."""

_BACKHAUL_PORT: Final = 9100
HOST_FIRST: Final = 0xA
"""The 16 bits of the first region. The other regions have the next numbers."""
_ANYCAST_FIRST: Final = 7
_EDGES_FIRST: Final = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Addresses(Protocol):
    """The addresses of a stand-in's parts."""

    def edge(self, region: str, app: str) -> Endpoint:
        """Return the address at which callers in ``region`` reach ``app``."""

    def also(self, region: str, app: str) -> Endpoint | None:
        """Return the second such address; None if there is none."""

    def backhaul(self, machine: Slot) -> Endpoint:
        """Return the address at which other regions' proxies reach ``machine``, through the proxy next to it."""

    def local(self, machine: Slot) -> Endpoint:
        """Return the address at which the proxy next to ``machine`` reaches it."""

    def bind(self, machine: Slot) -> Endpoint:
        """Return the address at which the program on ``machine`` must listen."""

    def source(self, machine: Slot) -> str | None:
        """Return the address that identifies ``machine`` as a caller; None if there is no such address."""

    def workers(self) -> tuple[str, ...]:
        """Return the only addresses from which a backhaul takes connections; none if callers can't be identified."""


class Sixpn:
    """Addresses of a 6PN: one namespace for each machine, and one for each region's worker."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._apps = {app.name: app for app in layout.apps}

    def anycast(self, app: str) -> str:
        """Return the flycast address of ``app``, the same in every region."""
        return _text((0xFDAA, 0, 1, 0, 1, 0, 0, _ANYCAST_FIRST + list(self._apps).index(app)))

    def edge(self, region: str, app: str) -> Endpoint:
        return Endpoint(self.anycast(app), 80)

    def also(self, region: str, app: str) -> Endpoint | None:
        return Endpoint(self.anycast(app), KUBERNETES_PORT)

    def backhaul(self, machine: Slot) -> Endpoint:
        return Endpoint(self.worker(machine.region), _BACKHAUL_PORT + machine.number)

    def local(self, machine: Slot) -> Endpoint:
        return Endpoint(self.inside(machine), self._port(machine))

    def bind(self, machine: Slot) -> Endpoint:
        return Endpoint("0.0.0.0", self._port(machine))  # noqa: S104  as on Fly: IPv4 only, so 6PN is refused

    def source(self, machine: Slot) -> str | None:
        return self.private(machine)

    def workers(self) -> tuple[str, ...]:
        return tuple(self.worker(region) for region in self._layout.regions)

    def private(self, machine: Slot) -> str:
        """Return the 6PN address of ``machine``."""
        return _text((0xFDAA, 0, 1, 0, self.host(machine.region), 0, machine.number, 2))

    def worker(self, region: str) -> str:
        """Return the 6PN address of the worker of ``region``."""
        return _text((0xFDAA, 0, 1, 0, self.host(region), 0, 0, 2))

    def inside(self, machine: Slot) -> str:
        """Return the private IPv4 address at which the worker's proxy reaches ``machine``."""
        return f"172.16.{machine.number}.2"

    def outside(self, machine: Slot) -> str:
        """Return the private IPv4 address from which the worker's proxy reaches ``machine``."""
        return f"172.16.{machine.number}.1"

    def host(self, region: str) -> int:
        """Return the 16 bits of an address, from bit 64 on, that identify ``region``."""
        return HOST_FIRST + self._layout.regions.index(region)

    def _port(self, machine: Slot) -> int:
        app: App | None = self._apps.get(machine.app)
        return app.port if app else KUBERNETES_PORT


class OnLoopback:
    """Addresses in 127.0.0.0/8: ``127.<net>.<region>.<machine>``. The apps' edges follow after the machines."""

    def __init__(self, layout: Layout, net: int) -> None:
        self._layout = layout
        self._net = net
        self._apps = {app.name: app for app in layout.apps}

    def edge(self, region: str, app: str) -> Endpoint:
        return Endpoint(self._address(region, _EDGES_FIRST + list(self._apps).index(app)), KUBERNETES_PORT)

    def also(self, region: str, app: str) -> Endpoint | None:
        return None

    def backhaul(self, machine: Slot) -> Endpoint:
        return Endpoint(self._address(machine.region, 254), _BACKHAUL_PORT + machine.number)

    def local(self, machine: Slot) -> Endpoint:
        return self.bind(machine)

    def bind(self, machine: Slot) -> Endpoint:
        app: App | None = self._apps.get(machine.app)
        return Endpoint(self._address(machine.region, machine.number), app.port if app else KUBERNETES_PORT)

    def source(self, machine: Slot) -> str | None:
        return self._address(machine.region, machine.number)

    def workers(self) -> tuple[str, ...]:
        return ()

    def _address(self, region: str, last: int) -> str:
        return f"127.{self._net}.{self._layout.regions.index(region) + 1}.{last}"


def _text(groups: tuple[int, ...]) -> str:
    return str(IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups)))
