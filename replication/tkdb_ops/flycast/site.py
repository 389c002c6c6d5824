"""The task of one proxy: the apps that it opens to callers, and the addresses of their machines. Pure.

If each machine has a proxy next to it, as on Fly, a proxy sends a request to the *backhaul* of that proxy, which
enforces the machine's limit. If not, the backhaul is a part of this proxy, which then reaches the machine directly.

>>> one = Backend("m1", "iad", local=Endpoint("10.0.0.1", 8080))
>>> two = Backend("m2", "syd", local=Endpoint("10.0.1.1", 8080))
>>> site = Site("syd", (Door("tkdb", (Endpoint("127.0.0.1", 80),), (two, one)),))
>>> site.regions("tkdb")
('syd', 'iad')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tkdb_ops.flycast.addresses import Endpoint


@dataclass(frozen=True, slots=True)
class Backend:
    """A machine, from the point of view of a proxy.

    Args:
        id: its name, as in ``fly-replay: instance=…``.
        region: its region.
        local: the address at which this proxy reaches it; None if only the proxy next to it can reach it.
        backhaul: the address at which the proxy next to it takes its requests; None if that is a part of this proxy.
        gate: the path of the gate file, if the machine may be stopped. While the file exists, requests must wake the
            machine first.
    """

    id: str
    region: str
    local: Endpoint | None = None
    backhaul: Endpoint | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class Door:
    """An app that a proxy opens to callers.

    Args:
        app: the app's name.
        addresses: the addresses at which callers connect.
        machines: all machines of the app, those of the nearest region first.
        check: the path of a machine's health check.
        hard_limit: the limit of requests in flight at one machine. Requests above it go to the next region.
    """

    app: str
    addresses: tuple[Endpoint, ...]
    machines: tuple[Backend, ...]
    check: str = "/readyz"
    hard_limit: int = 400

    @property
    def direct(self) -> bool:
        """True if this proxy reaches the machines directly, because they have no other proxy next to them."""
        return all(machine.backhaul is None for machine in self.machines)


@dataclass(frozen=True, slots=True)
class Site:
    """The task of one proxy.

    Args:
        region: the proxy's region.
        doors: the apps.
        aliases: names that stand for several regions, such as "eu".
        workers: the only addresses from which its backhauls take connections; empty for any address.
        via: the proxy's name in the Via header.
        server: the proxy's name in the Server header. If None, the app's header is kept.
        admin: the address or socket path at which the proxy reports its state; None for no such reports.
        agent: the path of the agent's socket, if any machine may be stopped. The agent starts machines.
        attested: the folder of signed Fly-Src values, with a file for each caller's address. If None, no caller is
            attested.
    """

    region: str
    doors: tuple[Door, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    via: str = "1.1 tkdb-flycast"
    server: str | None = None
    admin: Endpoint | str | None = None
    agent: str | None = None
    attested: str | None = None

    def regions(self, app: str) -> tuple[str, ...]:
        """Return the regions in which ``app`` has machines, nearest first."""
        machines = [machine for door in self.doors if door.app == app for machine in door.machines]
        return tuple(dict.fromkeys(machine.region for machine in machines))
