"""Autostop and autostart: who stops machines that nobody asks, and starts them when somebody does.

Proxies reach it at a Unix socket::

    GET  /check/<machine>    a proxy's health check: of the machine while it runs; 200 while it may be started
    POST /wake/<machine>     before a request to a stopped machine: answered once the machine can take it

A check never wakes a machine: while one is stopped, only the agent is asked.

No request is cut by a stop. A machine has a **gate**, a file that stands while the gate is closed; the proxy beside the
machine looks at it as its last act before it sends a request, and asks to wake the machine where it is closed. So a
machine is stopped like this: close the gate; wait until every request that had found it open is counted by the proxy;
and open it again, unless none has come since the machine was found idle. Whoever comes to a closed gate waits until the
machine was stopped and started, or wasn't stopped at all.
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
"""How often one looks within the time after which a machine counts as idle."""


class Agent:
    """The agent of a stand-in.

    Args:
        files: where it is asked, and where the gates are.
        ground: where the machines and their proxies are.
        machines: the machines that may be stopped, by name, and after how many idle ms.
    """

    def __init__(self, files: Files, ground: Environment, machines: Mapping[str, tuple[VirtualMachine, int]]) -> None:
        self._files = files
        self._ground = ground
        self._machines = machines
        self._moving = {name: asyncio.Lock() for name in machines}
        self._watches: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Answer, and watch the machines."""
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
        """Start a machine, if it is stopped; return whether it takes requests now."""
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
        """Return whether a machine takes requests, or would once it is started."""
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
        """Stop a machine that had only this traffic, unless there is more by now."""
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
        """Return whether all requests that found the gate open are counted.

        The proxy's one worker thread looks at the gate and counts the request in one go. So it is done with those that
        came before once it has answered anything that it was asked after the gate was closed.
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
