"""The backbone between regions, in user space: it moves each packet from TUN to TUN after half of the round trip.

It runs in a separate process, so that nothing else delays packets. It recognizes a region by 16 bits of the address.
Packets within one region don't pass through it. It takes orders as JSON lines on a Unix socket.

>>> rules = Rules(["iad", "syd"])
>>> rules.delay_s("iad", "syd", chance=0.5)
0.0995
>>> rules.carry_out({"do": "cut", "one": "iad", "other": "syd"})
>>> rules.delay_s("iad", "syd", chance=0.5) is None
True
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from tkdb import errors
from tkdb_ops.flycast import regions

_BURST: Final = 64
_PACKET_MAX: Final = 65_536
_HEADER: Final = 40
_WHERE: Final = slice(32, 34)
"""The position of the host's lower 16 bits in an IPv6 header: bits 64 to 79 of the destination."""


class Rules:
    """The rules for packets between two regions. Pure: the caller passes in the random number."""

    def __init__(self, codes: Iterable[str]) -> None:
        self._codes = tuple(codes)
        self._round_trip_ms = {pair: regions.round_trip_ms(*pair) for pair in permutations(self._codes, 2)}
        self._cut: set[tuple[str, str]] = set()
        self._loss: dict[tuple[str, str], float] = {}

    def delay_s(self, source: str, target: str, *, chance: float) -> float | None:
        """Return the delay of a packet, or None if it is lost. ``chance`` is a uniform random number in 0…1."""
        pair = (source, target)
        if pair not in self._round_trip_ms or pair in self._cut or chance < self._loss.get(pair, 0.0):
            return None
        return self._round_trip_ms[pair] / 2000

    def carry_out(self, order: dict[str, Any]) -> None:
        """Change the rules: ``cut``, ``isolate``, ``loss``, ``latency`` or ``heal``."""
        match order["do"]:
            case "cut":
                self._cut |= _both(order["one"], order["other"])
            case "isolate":
                for other in self._codes:
                    if other != order["one"]:
                        self._cut |= _both(order["one"], other)
            case "loss":
                self._loss |= dict.fromkeys(_both(order["one"], order["other"]), order["share"])
            case "latency":
                self._round_trip_ms |= dict.fromkeys(_both(order["one"], order["other"]), order["ms"])
            case "heal":
                self._cut.clear()
                self._loss.clear()


def _both(one: str, other: str) -> set[tuple[str, str]]:
    return {(one, other), (other, one)}


class Backbone:
    """The orders that a stand-in's owner gives to its backbone.

    Args:
        socket: the path of the socket at which the backbone takes orders.
        codes: the codes of all regions.
    """

    def __init__(self, socket: Path, codes: Iterable[str]) -> None:
        self._socket = socket
        self._codes = frozenset(codes)

    async def cut(self, one: str, other: str) -> None:
        """Drop every packet between two regions. Both stay connected to the others."""
        await self._order("cut", one, other)

    async def isolate(self, region: str) -> None:
        """Drop every packet to and from ``region``. Packets within the region aren't affected."""
        await self._order("isolate", region)

    async def loss(self, one: str, other: str, share: float) -> None:
        """Drop a share (0…1) of the packets between two regions, at random.

        Raises:
            ConfigurationError: the share isn't in 0…1.
        """
        if not 0 <= share <= 1:
            raise errors.ConfigurationError(f"the loss is {share}", hint="give a share from 0 to 1")
        await self._order("loss", one, other, share=share)

    async def latency(self, one: str, other: str, round_trip_ms: float) -> None:
        """Set the round trip between two regions.

        Raises:
            ConfigurationError: ``round_trip_ms`` is negative.
        """
        if round_trip_ms < 0:
            raise errors.ConfigurationError(f"the round trip is {round_trip_ms} ms", hint="give 0 or more")
        await self._order("latency", one, other, ms=round_trip_ms)

    async def heal(self) -> None:
        """End all cuts, isolations and losses. Changed round trips stay."""
        await self._order("heal")

    async def answers(self) -> bool:
        """Return True if the backbone takes orders."""
        try:
            await self._order("nothing")
        except errors.Unavailable:
            return False
        return True

    async def _order(self, what: str, one: str | None = None, other: str | None = None, **values: float) -> None:
        for region in (one, other):
            if region is not None and region not in self._codes:
                hint = "there is " + " ".join(sorted(self._codes))
                raise errors.ConfigurationError(f"the backbone has no region {region!r:.20}", hint=hint)
        order = {"do": what, "one": one, "other": other, **values}
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
            writer.write(json.dumps(order).encode() + b"\n")
            said = await reader.readline()
            writer.close()
            await writer.wait_closed()
        except OSError:
            said = b""
        if not said:
            raise errors.Unavailable("the backbone doesn't answer", hint="start the stand-in again")


class Carrier:
    """The backbone's process: it reads each TUN, and writes to the others."""

    def __init__(self, tuns: dict[str, tuple[int, bytes]], rules: Rules) -> None:
        self._tuns = {region: descriptor for region, (descriptor, _) in tuns.items()}
        self._regions = {host: region for region, (_, host) in tuns.items()}
        self._rules = rules

    async def run(self, socket: Path) -> None:
        """Carry packets and take orders at ``socket``, until killed."""
        loop = asyncio.get_running_loop()
        for region, descriptor in self._tuns.items():
            loop.add_reader(descriptor, self._read, region, loop)
        server = await asyncio.start_unix_server(self._take_orders, socket)
        await server.serve_forever()

    def _read(self, source: str, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(_BURST):
            try:
                packet = os.read(self._tuns[source], _PACKET_MAX)
            except BlockingIOError:
                return
            if len(packet) < _HEADER or packet[0] >> 4 != 6:
                continue
            target = self._regions.get(packet[_WHERE])
            delay_s = self._rules.delay_s(source, target, chance=random.random()) if target else None  # noqa: S311
            if target and delay_s is not None:
                loop.call_later(delay_s, self._write, target, packet)

    def _write(self, target: str, packet: bytes) -> None:
        with suppress(OSError):  # A full queue loses packets, as in a network.
            os.write(self._tuns[target], packet)

    async def _take_orders(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self._rules.carry_out(json.loads(line))
            writer.write(b"{}\n")
            await writer.drain()
        writer.close()


def main(socket: str, *arguments: str) -> None:
    """Run the backbone. Each argument is a region and its TUN's descriptor, in the order of the regions' addresses."""
    from tkdb_ops.flycast.addresses import HOST_FIRST

    tuns = {}
    for index, argument in enumerate(arguments):
        region, _, descriptor = argument.partition("=")
        tuns[region] = (int(descriptor), (HOST_FIRST + index).to_bytes(2, "big"))
    import uvloop

    uvloop.run(Carrier(tuns, Rules(tuns)).run(Path(socket)))


if __name__ == "__main__":
    main(*sys.argv[1:])
