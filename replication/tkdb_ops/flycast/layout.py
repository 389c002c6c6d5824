"""The layout of a stand-in: its apps, the regions of their machines, and the regions of callers. Pure.

>>> layout = Layout.for_apps(App("tkdb", ("iad", "syd")), clients=["sin"])
>>> [machine.id for machine in layout.machines], layout.regions
(['tkdb-iad-1', 'tkdb-syd-1', 'client-sin-1'], ('iad', 'syd', 'sin'))
>>> layout.nearest("sin", "tkdb")[0].id
'tkdb-syd-1'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from tkdb import errors
from tkdb_ops.flycast import regions

CLIENT: Final = "client"
"""The app of callers' machines. They serve nothing, and the proxy attests their identity."""

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}").fullmatch
_PATH: Final = re.compile(r"/[A-Za-z0-9/_.-]{0,100}").fullmatch
_MACHINES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class App:
    """An app, as its ``fly.toml`` describes it.

    Args:
        name: the app's name. It answers at ``http://<name>.flycast``.
        regions: the regions of its machines; the first is its primary region.
        per_region: the number of machines in each region.
        port: the ``internal_port`` at which its machines listen.
        check: the path of its health check.
        hard_limit: the limit of requests in flight at one machine. Requests above it go to the next region.
        autostop_ms: a machine without traffic for this long is stopped, and the next request starts it. If None,
            machines are never stopped.
    """

    name: str
    regions: tuple[str, ...]
    per_region: int = 1
    port: int = 8080
    check: str = "/readyz"
    hard_limit: int = 400
    autostop_ms: int | None = None

    def __post_init__(self) -> None:
        """Check the values that go into a proxy's configuration.

        Raises:
            ConfigurationError: a value can't be used.
        """
        right = _NAME(self.name) and _PATH(self.check) and 0 < self.port < 65_536 and self.hard_limit > 0
        if not right or not self.regions or len(set(self.regions)) != len(self.regions) or self.per_region < 1:
            raise errors.ConfigurationError(
                f"the app {self.name!r:.40} can't be laid out",
                hint="give it a name such as tkdb, each region once, a path such as /readyz, and limits above 0",
            )
        for region in self.regions:
            regions.find(region)


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a machine: its name, its app, its region, and its number among the region's machines, from 1."""

    id: str
    app: str
    region: str
    number: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All apps and all machines of a stand-in. Create it with ``for_apps``."""

    apps: tuple[App, ...]
    machines: tuple[Slot, ...]
    regions: tuple[str, ...] = field(default=())

    @classmethod
    def for_apps(cls, *apps: App, clients: Iterable[str] = ()) -> Self:
        """Lay out ``apps``, and a caller's machine in each region of ``clients``.

        Raises:
            ConfigurationError: two apps have the same name, or there are too many machines.
        """
        callers = tuple(dict.fromkeys(clients))
        laid_out = [*apps, *([App(CLIENT, callers)] if callers else [])]
        if len({app.name for app in laid_out}) != len(laid_out):
            raise errors.ConfigurationError("two apps have the same name", hint=f"use each once, but not {CLIENT!r}")
        counts: dict[str, int] = {}
        machines = []
        for app in laid_out:
            for region in app.regions:
                for index in range(1, app.per_region + 1):
                    counts[region] = counts.get(region, 0) + 1
                    machines.append(Slot(f"{app.name}-{region}-{index}", app.name, region, counts[region]))
        if len(machines) > _MACHINES_MAX:
            raise errors.ConfigurationError(f"{len(machines)} machines are too many", hint=f"{_MACHINES_MAX} at most")
        return cls(tuple(apps), tuple(machines), tuple(counts))

    def app(self, name: str) -> App:
        """Return the app of this name.

        Raises:
            ConfigurationError: there is no such name.
        """
        for app in self.apps:
            if app.name == name:
                return app
        raise errors.ConfigurationError(f"there is no app {name!r:.40}", hint=f"there is {self._names(self.apps)}")

    def machine(self, name: str) -> Slot:
        """Return the machine of this name.

        Raises:
            ConfigurationError: there is no such name.
        """
        for machine in self.machines:
            if machine.id == name:
                return machine
        hint = "there is " + " ".join(machine.id for machine in self.machines)
        raise errors.ConfigurationError(f"there is no machine {name!r:.40}", hint=hint)

    def of_app(self, app: str) -> tuple[Slot, ...]:
        """Return the machines of ``app``."""
        return tuple(machine for machine in self.machines if machine.app == app)

    def in_region(self, region: str) -> tuple[Slot, ...]:
        """Return the machines of all apps that serve in ``region``, without those of callers."""
        return tuple(machine for machine in self.machines if machine.region == region and machine.app != CLIENT)

    def nearest(self, origin: str, app: str) -> tuple[Slot, ...]:
        """Return the machines of ``app``, starting with those of the region nearest to ``origin``."""
        machines = self.of_app(app)
        order = regions.nearest(origin, {machine.region for machine in machines})
        return tuple(sorted(machines, key=lambda machine: (order.index(machine.region), machine.number)))

    @staticmethod
    def _names(apps: Sequence[App]) -> str:
        return " ".join(app.name for app in apps)
