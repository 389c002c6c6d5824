"""What one proxy is to do: the apps that it opens a door to, and where their machines are. Pure.

Where machines have a proxy beside them, as on Fly, a proxy sends a request to that one's *backhaul*, which holds the
machine's limit. Where they haven't, the backhaul is a part of this proxy: then it reaches the machine itself.

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
    """A machine, as a proxy knows it.

    Args:
        id: its name, as in ``fly-replay: instance=…``.
        region: where it is.
        local: where this proxy reaches it; None where only the proxy beside it does.
        backhaul: where the proxy beside it takes requests for it; None where that is a part of this proxy.
        gate: the path of a file that stands while requests have to wake it first, if it may be stopped.
    """

    id: str
    region: str
    local: Endpoint | None = None
    backhaul: Endpoint | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class Door:
    """An app, as a proxy opens it to callers.

    Args:
        app: its name.
        addresses: where callers connect.
        machines: all of its machines, those of the nearest region first.
        check: the path that a machine's health check asks for.
        hard_limit: how many requests a machine is sent at once, at most; what is more spills to the next region.
    """

    app: str
    addresses: tuple[Endpoint, ...]
    machines: tuple[Backend, ...]
    check: str = "/readyz"
    hard_limit: int = 400

    @property
    def direct(self) -> bool:
        """Whether this proxy reaches the machines itself: there is no other beside them."""
        return all(machine.backhaul is None for machine in self.machines)


@dataclass(frozen=True, slots=True)
class Site:
    """What one proxy is to do.

    Args:
        region: where it is.
        doors: the apps.
        aliases: names that stand for several regions, such as "eu".
        workers: the addresses from which alone its backhauls take connections; any if empty.
        via: what it calls itself in the header Via.
        server: what it calls itself in the header Server; the app's own is left if None.
        admin: where it says how it is: an address, or the path of a socket; nowhere if None.
        agent: the path of the socket of who starts machines, where any may be stopped.
        attested: the folder of signed Fly-Src values, a file for each caller's address; none are signed if None.
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
        """Return where ``app`` has machines, nearest first."""
        machines = [machine for door in self.doors if door.app == app for machine in door.machines]
        return tuple(dict.fromkeys(machine.region for machine in machines))
