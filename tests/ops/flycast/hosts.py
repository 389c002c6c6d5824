"""Machines on loopback ports, behind one region's Envoy with the configuration of `tkdb flycast config`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.cli.processes import tkdb
from tests.ops.flycast.stand_in import ECHO, TIMEOUT_S, Answer
from tests.replication.seaweed import free_ports
from tests.waiting import until


class Hosts:
    """A fleet whose machines answer with their name and the request.

    Args:
        envoy: the path of Envoy.
        folder: the folder for configurations and logs.
        regions: the number of machines of each region. All machines are numbered together: m1, m2, …
        here: the region whose proxy runs.
        settings: more lines for the fleet's file.
    """

    def __init__(self, envoy: str, folder: Path, regions: Mapping[str, int], *, here: str, settings: str = "") -> None:
        self._envoy, self._folder, self._here = envoy, folder, here
        numbers = iter(range(1, 1 + sum(regions.values())))
        self._regions = {region: [f"m{next(numbers)}" for _ in range(count)] for region, count in regions.items()}
        names = [name for machines in self._regions.values() for name in machines]
        listen, admin, *ports = free_ports(2 + len(names))
        self.url, self._admin = f"http://127.0.0.1:{listen}", f"http://127.0.0.1:{admin}"
        self._addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
        self._fleet = f'listen = "127.0.0.1:{listen}"\nadmin = "127.0.0.1:{admin}"\n{settings}\n'
        for region, machines in self._regions.items():
            addresses = ", ".join(f'{name} = "{self._addresses[name]}"' for name in machines)
            self._fleet += f'[[region]]\nname = "{region}"\nmachines = {{ {addresses} }}\n'
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._http = httpx.Client()

    def start(self, name: str) -> None:
        """Start or restart a machine."""
        region = next(region for region, machines in self._regions.items() if name in machines)
        self._run(
            name,
            [sys.executable, "-I", "-S", str(ECHO)],
            {
                "BIND": self._addresses[name],
                "FLY_MACHINE_ID": name,
                "FLY_REGION": region,
                "UNREADY": str(self.unready(name)),
            },
        )

    def unready(self, name: str) -> Path:
        """Return the path of a file. While it exists, the machine's health check fails."""
        return self._folder / f"{name}.unready"

    @contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Kill a machine, and let the kernel drop all packets to its port, so that a new connection hangs."""
        self.signal(name, signal.SIGKILL)
        host, _, port = self._addresses[name].rpartition(":")
        with ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            full.bind((host, int(port)))
            full.listen(0)
            while True:  # Linux drops new connections once the listener's queue is full.
                one = stack.enter_context(socket.socket())
                one.settimeout(1)
                try:
                    one.connect((host, int(port)))
                except TimeoutError:
                    break
            yield

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a machine. After SIGKILL, wait until it has ended."""
        self._processes[name].send_signal(number)
        if number is signal.SIGKILL:
            self._processes.pop(name).wait()

    def ask(self, body: bytes | None = None, *, path: str = "/", **headers: str) -> Answer:
        """Send a request as a caller in this region: POST if it has a body. Underscores in headers become dashes."""
        got = self._http.request(
            "GET" if body is None else "POST",
            self.url + path,
            content=body,
            timeout=TIMEOUT_S,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        echoed: dict[str, Any] = got.json() if got.text.startswith("{") else {}
        return Answer(got.status_code, got.headers, echoed.get("machine", ""), echoed, got.text)

    def request_count(self, name: str) -> int:
        """Return the number of requests that a machine was sent, without health checks."""
        stats = self._http.get(
            f"{self._admin}/stats", params={"filter": f"^cluster[.]machine-{name}[.]upstream_rq_total$"}
        )
        return int(stats.text.partition(": ")[2])

    def until_healthy(self, *names: str) -> None:
        """Wait until the proxy considers exactly these machines healthy."""
        wanted = {self._addresses[name] for name in names}
        until(lambda: self._healthy() == wanted)

    def _healthy(self) -> set[str]:
        try:
            clusters = self._http.get(f"{self._admin}/clusters", params={"format": "json"}).json()["cluster_statuses"]
        except httpx.TransportError:
            return set()
        inside = {
            host["address"]["envoy_internal_address"]["server_listener_name"].removeprefix("backhaul-")
            for cluster in clusters
            if cluster["name"] == "app-tkdb"
            for host in cluster["host_statuses"]
            if set(host["health_status"].items()) == {("eds_health_status", "HEALTHY")}
        }
        return {self._addresses[name] for name in inside}

    def _run(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                arguments, env={"PATH": os.environ["PATH"], **environment}, stdout=log, stderr=log
            )

    def __enter__(self) -> Self:
        fleet, config = self._folder / "fleet.toml", self._folder / "envoy.json"
        fleet.write_text(self._fleet)
        ran = tkdb("flycast", "config", str(fleet), "--region", self._here)
        assert ran.code == 0, ran.err
        config.write_text(ran.out)
        for name in self._addresses:
            self.start(name)
        self._run("envoy", [self._envoy, "-c", str(config), "--concurrency", "1", "--disable-hot-restart"], {})
        try:
            self.until_healthy(*self._addresses)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
