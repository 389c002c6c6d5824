"""Autostop and autostart: the agent, which stops machines without traffic, and starts them for the next request.

Proxies reach it at a Unix socket::

    GET  /check/<machine>    a proxy's health check: of the machine while it runs; 200 while it may be started
    POST /wake/<machine>     before a request to a stopped machine: answered once the machine can take it

A check never wakes a machine, because the agent answers it while the machine is stopped.

A stop never cuts a request. Each machine has a **gate**, which is closed while its file exists. The proxy next to the
machine checks the gate immediately before it sends a request. If the gate is closed, the proxy asks the agent to wake
the machine. The agent stops a machine in three steps. It closes the gate. It waits until the proxy has counted every
request that found the gate open. Then it stops the machine if there was no request since the machine was found idle;
otherwise it opens the gate again. A request at a closed gate waits until the machine has been stopped and started, or
until the gate is open again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from tkdb import errors
from tkdb_ops.flycast import health_check
from tkdb_ops.flycast.admin import Admin, Traffic
from tkdb_ops.flycast.environment import WORKER, Environment
from tkdb_ops.flycast.envoy import HEALTH_PATH
from tkdb_ops.flycast.machines import VirtualMachine
from tkdb_ops.flycast.worker import Files

_LOOKS: Final = 4
"""The number of looks within the time after which a machine counts as idle."""


class Agent:
    """The agent of a stand-in.

    Args:
        files: the paths of its socket and of the gates.
        ground: the ground on which the machines and their proxies run.
        machines: the machines that may be stopped, by name, each with its idle time in ms.
    """

    def __init__(self, files: Files, ground: Environment, machines: Mapping[str, tuple[VirtualMachine, int]]) -> None:
        self._files = files
        self._ground = ground
        self._machines = machines
        self._moving = {name: asyncio.Lock() for name in machines}
        self._watches: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Start to answer and to watch the machines."""
        for machine, _ in self._machines.values():
            self._files.gate(machine.slot).parent.mkdir(exist_ok=True)
            self._close_if_down(machine)
        self._server = await asyncio.start_unix_server(self._serve, self._files.agent)
        self._watches = [asyncio.create_task(self._watch(*one)) for one in self._machines.values()]

    async def close(self) -> None:
        """Stop watching and answering."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def wake(self, name: str) -> bool:
        """Start a machine if it is stopped. Return True if it takes requests now."""
        if name not in self._machines:
            return False
        machine, _ = self._machines[name]
        async with self._moving[name]:
            if not machine.running and not machine.startable:
                return False
            try:
                await machine.start()
            except errors.Unavailable:
                return False
            self._files.gate(machine.slot).unlink(missing_ok=True)
        return True

    async def check(self, name: str) -> bool:
        """Return True if a machine takes requests, or would once it is started."""
        if name not in self._machines:
            return False
        machine, _ = self._machines[name]
        self._close_if_down(machine)
        waits = self._files.gate(machine.slot).exists() and (machine.running or machine.startable)
        return waits or await machine.healthy()

    def _close_if_down(self, machine: VirtualMachine) -> None:
        if machine.startable:
            self._files.gate(machine.slot).touch()

    async def _watch(self, machine: VirtualMachine, idle_ms: int) -> None:
        admin = Admin(self._files.admin(machine.slot.region))
        last, quiet = Traffic(0, 0), 0
        while True:
            await asyncio.sleep(idle_ms / 1000 / _LOOKS)
            with suppress(errors.Unavailable):
                now = await admin.traffic(machine.id)
                quiet = quiet + 1 if now == last and now.active == 0 and machine.running else 0
                last = now
                if quiet >= _LOOKS:
                    await self._stop(machine, admin, last)
                    quiet = 0

    async def _stop(self, machine: VirtualMachine, admin: Admin, idle: Traffic) -> None:
        """Stop a machine, unless it has had more traffic than ``idle`` by now."""
        async with self._moving[machine.id]:
            gate = self._files.gate(machine.slot)
            gate.touch()
            try:
                if await self._all_counted(machine) and await admin.traffic(machine.id) == idle:
                    await machine.stop()
            finally:
                if machine.running:
                    gate.unlink(missing_ok=True)

    async def _all_counted(self, machine: VirtualMachine) -> bool:
        """Return True if all requests that found the gate open are counted.

        The proxy's single worker thread checks the gate and counts the request without interruption. If it answers a
        request that was sent after the gate was closed, it has therefore counted all earlier requests.
        """
        place, where = WORKER + machine.slot.region, self._ground.addresses.backhaul(machine.slot)
        return await health_check.status(self._ground, place, where, HEALTH_PATH) is not None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                _, what, name = path.split("/", 2)
                well = await (self.wake(name) if (method, what) == ("POST", "wake") else self.check(name))
                status = "200 OK" if well else "503 Service Unavailable"
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode("ascii"))
                await writer.drain()
        writer.close()
