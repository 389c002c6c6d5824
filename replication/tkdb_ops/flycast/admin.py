"""The admin socket of a region's Envoy, and the state that Envoy reports there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpcore

from tkdb import errors

_TIMEOUTS: Final = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of a machine.

    Attributes:
        total: the number of requests that were sent to it so far.
        active: the number of requests that aren't answered yet, including those that wait to be sent.
    """

    total: int
    active: int


class Admin:
    """The admin socket of one Envoy."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ready(self) -> bool:
        """Return True if this Envoy serves requests."""
        try:
            return (await self._get("/ready")).strip() == b"LIVE"
        except errors.Unavailable:
            return False

    async def healthy(self, app: str) -> frozenset[str]:
        """Return the endpoints, as ``host:port``, to which this Envoy would send requests for ``app`` now.

        Raises:
            Unavailable: this Envoy doesn't answer.
        """
        found = set()
        for cluster in json.loads(await self._get("/clusters?format=json")).get("cluster_statuses", []):
            if cluster["name"] == f"app-{app}":
                found |= {_endpoint(host) for host in cluster.get("host_statuses", []) if _is_well(host)}
        return frozenset(found)

    async def traffic(self, machine: str) -> Traffic:
        """Return the traffic of a machine of this Envoy's region. Health checks don't count.

        Raises:
            Unavailable: this Envoy doesn't answer.
        """
        prefix = f"cluster.machine-{machine}.upstream_rq_"
        # Read the waiting requests first. A request is counted as sent before it stops waiting, so none is missed.
        waiting = await self._number(f"{prefix}pending_active")
        active = await self._number(f"{prefix}active")
        return Traffic(await self._number(f"{prefix}total"), waiting + active)

    async def _number(self, name: str) -> int:
        said = await self._get(f"/stats?filter=^{name.replace('.', '[.]')}$")
        return int(said.decode("ascii").partition(": ")[2] or 0)

    async def _get(self, target: str) -> bytes:
        try:
            async with httpcore.AsyncConnectionPool(uds=str(self._socket)) as pool:
                answer = await pool.request("GET", f"http://admin{target}", extensions={"timeout": _TIMEOUTS})
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            answer = None
        if answer is None or answer.status != 200:
            raise errors.Unavailable("a region's proxy doesn't answer", hint="see its log, next to its configuration")
        return answer.content


def _endpoint(host: dict[str, Any]) -> str:
    address = host["address"]["socket_address"]
    name = address["address"]
    return f"[{name}]:{address['port_value']}" if ":" in name else f"{name}:{address['port_value']}"


def _is_well(host: dict[str, Any]) -> bool:
    status = dict(host.get("health_status", {}))
    return status.pop("eds_health_status", "HEALTHY") == "HEALTHY" and not any(status.values())
