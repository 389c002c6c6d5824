"""The proxy of one region of a stand-in. Like a Fly worker's proxy, it serves the region's machines and callers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tkdb_ops.flycast import regions
from tkdb_ops.flycast.addresses import Addresses
from tkdb_ops.flycast.layout import App, Layout, Slot
from tkdb_ops.flycast.site import Backend, Door, Site


@dataclass(frozen=True, slots=True)
class Files:
    """The files and sockets that a stand-in's processes share, in one folder with the same path for all."""

    folder: Path

    @property
    def agent(self) -> Path:
        """The socket of the agent, which starts machines."""
        return self.folder / "agent.sock"

    @property
    def attested(self) -> Path:
        """The folder of signed Fly-Src values, with a file for each caller's address."""
        return self.folder / "attested"

    def admin(self, region: str) -> Path:
        """Return the admin socket of the Envoy of ``region``."""
        return self.folder / f"envoy-{region}.sock"

    def gate(self, machine: Slot) -> Path:
        """Return the path of a machine's gate. While that file exists, the proxy asks the agent before each request."""
        return self.folder / "gates" / machine.id


def site(layout: Layout, addresses: Addresses, region: str, files: Files) -> Site:
    """Return the task of the proxy of ``region``.

    >>> from tkdb_ops.flycast.addresses import OnLoopback
    >>> layout = Layout.for_apps(App("tkdb", ("iad", "syd")))
    >>> made = site(layout, OnLoopback(layout, 3), "syd", Files(Path("/run/here")))
    >>> [(machine.id, machine.local is not None) for machine in made.doors[0].machines]
    [('tkdb-syd-1', True), ('tkdb-iad-1', False)]
    """

    def backend(app: App, machine: Slot) -> Backend:
        here = machine.region == region
        return Backend(
            machine.id,
            machine.region,
            local=addresses.local(machine) if here else None,
            backhaul=addresses.backhaul(machine),
            gate=str(files.gate(machine)) if here and app.autostop_ms is not None else None,
        )

    def door(app: App) -> Door:
        edges = (addresses.edge(region, app.name), addresses.also(region, app.name))
        machines = tuple(backend(app, machine) for machine in layout.nearest(region, app.name))
        return Door(app.name, tuple(filter(None, edges)), machines, check=app.check, hard_limit=app.hard_limit)

    order = regions.nearest(region, layout.regions)
    return Site(
        region,
        tuple(map(door, layout.apps)),
        aliases={name: regions.alias(name, order) for name in regions.ALIASES},
        workers=addresses.workers(),
        via="1.1 fly.io",
        server="Fly",
        admin=str(files.admin(region)),
        agent=str(files.agent),
        attested=str(files.attested),
    )
