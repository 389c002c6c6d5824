"""A proxy's own parts, in Lua. Constants about its machines precede the code.

>>> from tkdb_ops.flycast.site import Backend, Door
>>> site = Site("syd", (Door("tkdb", (), (Backend("m2", "syd"), Backend("m1", "iad"))),))
>>> print(source("dial", site).splitlines()[0])
local MACHINES = {["tkdb"]={"m2","m1"}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

from tkdb_ops.flycast.site import Site

STEPS_MAX: Final = 32
"""The maximum number of steps in a plan."""

HOPS_MAX: Final = 5
"""The maximum number of replays of one request."""

_PARTS: Final = ("state.lua",)

_Value = str | int | Sequence[str] | Mapping[str, "_Value"]


def source(part: str, site: Site, **values: str | int) -> str:
    """Return the code of ``part`` (attest, edge, replay, dial or wake) for the proxy of ``site``."""
    constants: dict[str, _Value] = {
        "MACHINES": {door.app: [one.id for one in door.machines] for door in site.doors},
        "REGIONS": {door.app: site.regions(door.app) for door in site.doors},
        "WHERE": {one.id: one.region for door in site.doors for one in door.machines},
        "ALIASES": {name: dict.fromkeys(codes, 1) for name, codes in site.aliases.items()},
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
