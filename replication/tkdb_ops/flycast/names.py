"""DNS names, as the resolver in a Fly Machine answers them. It answers DNS queries from a layout. Pure.

::

    <app>.flycast   <service>.svc.<app>.flycast             AAAA  the app's anycast address
    <app>.internal  global.<app>.internal                   AAAA  its started machines, nearest first
    <region>.<app>.internal  top<N>.nearest.of.<app>.internal  <id>.vm.<app>.internal
    vms.<app>.internal  regions.<app>.internal  _apps.internal  _instances.internal    TXT

Source: https://fly.io/docs/networking/private-networking/ . RFC 1035 defines the form of messages.

>>> from tkdb_ops.flycast.addresses import Sixpn
>>> from tkdb_ops.flycast.layout import App, Layout
>>> layout = Layout.for_apps(App("tkdb", ("iad", "syd")), clients=["sin"])
>>> names = Names(layout, Sixpn(layout), {"s3.internal": "fdaa:0:1:0:a::2"})
>>> names.addresses("tkdb.flycast", "sin", layout.machines)
['fdaa:0:1:0:1::7']
>>> names.addresses("top1.nearest.of.tkdb.internal", "sin", layout.machines)
['fdaa:0:1:0:b:0:1:2']
>>> names.texts("regions.tkdb.internal", layout.machines)
'iad,syd'
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from ipaddress import IPv6Address
from typing import Final

from tkdb_ops.flycast.addresses import Sixpn
from tkdb_ops.flycast.layout import Layout, Slot

AAAA: Final = 28
TXT: Final = 16
TTL_S: Final = 5
QUERY_MAX: Final = 512

_HEADER: Final = struct.Struct("!6H")
_IN: Final = 1
_LABEL_MAX: Final = 63
_ANSWERS_MAX: Final = 12
_NEAREST: Final = re.compile(r"top(\d{1,3})\.nearest\.of\.([a-z0-9-]+)").fullmatch


class Names:
    """The names of a stand-in, and their addresses and texts.

    Args:
        layout: the apps and machines.
        addresses: their addresses.
        services: names and addresses of services outside the layout. The caller may change this mapping later.
    """

    def __init__(self, layout: Layout, addresses: Sixpn, services: Mapping[str, str]) -> None:
        self._layout = layout
        self._addresses = addresses
        self._services = services
        self._apps = {app.name for app in layout.apps}

    def answer(self, query: bytes, region: str, started: Collection[Slot]) -> bytes | None:
        """Return the answer to a DNS query; None if the datagram isn't a query.

        Args:
            query: the datagram.
            region: the region from which the query came.
            started: the running machines. ``.internal`` has no other machines.
        """
        if not _HEADER.size < len(query) <= QUERY_MAX:
            return None
        number, flags, questions, *_ = _HEADER.unpack_from(query)
        read = _question(query)
        if flags & 0x8000 or questions != 1 or read is None:
            return None
        name, kind, end = read
        records = self._records(name, kind, region, started)
        known = records or any(self._records(name, other, region, self._layout.machines) for other in (AAAA, TXT))
        said = 0x8180 | (0 if known else 3)  # An answer, with recursion available. Code 3: there is no such name.
        head = _HEADER.pack(number, said, 1, len(records), 0, 0)
        entries = [struct.pack("!HHHIH", 0xC00C, kind, _IN, TTL_S, len(data)) + data for data in records]
        return head + query[_HEADER.size : end] + b"".join(entries)

    def addresses(self, name: str, region: str, started: Collection[Slot]) -> list[str]:
        """Return the IPv6 addresses of ``name`` for a query from ``region``."""
        if name in self._services:
            return [self._services[name]]
        stem, _, top = name.rpartition(".")
        if top == "flycast":
            app = stem.rpartition(".svc.")[2]
            return [self._addresses.anycast(app)] if app in self._apps else []
        if top != "internal":
            return []
        return [self._addresses.private(machine) for machine in self._machines(stem, region, started)]

    def texts(self, name: str, started: Collection[Slot]) -> str:
        """Return the text of ``name``; empty if it has none."""
        what, _, app = name.removesuffix(".internal").partition(".")
        whole = what == "all"
        if whole:
            what, _, app = app.partition(".")
        machines = [machine for machine in self._layout.machines if whole or machine in started]
        if not app and what == "_apps":
            return ",".join(sorted(self._apps))
        if not app and what == "_instances":
            return ";".join(
                f"instance={one.id},app={one.app},ip={self._addresses.private(one)},region={one.region}"
                for one in machines
            )
        of_app = [machine for machine in machines if machine.app == app]
        if what == "vms":
            return ",".join(f"{machine.id} {machine.region}" for machine in of_app)
        return ",".join(dict.fromkeys(machine.region for machine in of_app)) if what == "regions" else ""

    def _machines(self, stem: str, region: str, started: Collection[Slot]) -> list[Slot]:
        found = _NEAREST(stem)
        first, _, app = stem.rpartition(".")
        machines = [one for one in self._layout.nearest(region, found[2] if found else app) if one in started]
        if found:
            return machines[: int(found[1])]
        if first.endswith(".vm"):
            return [machine for machine in machines if machine.id == first.removesuffix(".vm")]
        return [machine for machine in machines if first in ("", "global", machine.region)]

    def _records(self, name: str, kind: int, region: str, started: Collection[Slot]) -> list[bytes]:
        if kind == AAAA:
            return [IPv6Address(one).packed for one in self.addresses(name, region, started)[:_ANSWERS_MAX]]
        if kind == TXT and (text := self.texts(name, started).encode("ascii")):
            pieces = [text[start : start + 255] for start in range(0, len(text), 255)]
            return [b"".join(bytes([len(piece)]) + piece for piece in pieces)]
        return []


def _question(query: bytes) -> tuple[str, int, int] | None:
    """Return the first question's name, type and end. None if it is malformed or compressed."""
    labels, at = [], _HEADER.size
    while at < len(query) and (length := query[at]):
        if length > _LABEL_MAX or at + 1 + length >= len(query):
            return None
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    if at + 5 > len(query):
        return None
    kind, group = struct.unpack_from("!HH", query, at + 1)
    return (".".join(labels), kind, at + 5) if group == _IN else None
