"""The proxy's own parts, in Lua, for one region: what they know of the layout stands before their code. Pure.

>>> from tkdb_replication.flycast.layout import App, Layout
>>> print(source("dial", Layout.of(App("tkdb", ("iad", "syd"))), "syd").splitlines()[0])
local MACHINES = {["tkdb"]={"tkdb-syd-1","tkdb-iad-1"}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

from tkdb_replication.flycast import regions
from tkdb_replication.flycast.layout import Layout

STEPS_MAX: Final = 32
"""How many steps a plan has, at most."""

HOPS_MAX: Final = 5
"""How often a request is replayed, at most."""

_PARTS: Final = ("state.lua",)

_Value = str | int | Sequence[str] | Mapping[str, "_Value"]


def source(part: str, layout: Layout, region: str, **values: str | int) -> str:
    """Return the code of ``part`` (edge, replay, dial or wake), as the proxy of ``region`` runs it."""
    order = regions.nearest(region, layout.regions)
    constants: dict[str, _Value] = {
        "MACHINES": {app.name: [one.id for one in layout.nearest(region, app.name)] for app in layout.apps},
        "REGIONS": {app.name: [code for code in order if code in app.regions] for app in layout.apps},
        "WHERE": {one.id: one.region for one in layout.machines},
        "ALIASES": {name: dict.fromkeys(regions.alias(name, order), 1) for name in regions.ALIASES},
        "STEPS_MAX": STEPS_MAX,
        "HOPS_MAX": HOPS_MAX,
        **values,
    }
    folder = resources.files(__package__).joinpath("lua")
    texts = [folder.joinpath(name).read_text("utf-8") for name in (*_PARTS, f"{part}.lua")]
    return "\n".join([*(f"local {name} = {_lua(value)}" for name, value in constants.items()), *texts])


def _lua(value: _Value) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        return "{" + ",".join(f'["{key}"]={_lua(inner)}' for key, inner in value.items()) + "}"
    return "{" + ",".join(map(_lua, value)) + "}"
