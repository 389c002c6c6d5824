"""Machines on loopback ports, and the Envoy of one region before them, configured as `tkdb flycast config` does."""

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
from tests.ops.flycast.standing import ECHO, PATIENCE_S, Answer
from tests.replication.seaweed import free_ports
from tests.waiting import until


class Hosts:
    """A fleet whose machines say who they are.

    Args:
        envoy: the program.
        folder: where configurations and logs are.
        regions: each region's machines; they are numbered over all: m1, m2, …
        here: the region whose proxy is run.
        further: lines of the fleet's file.
    """

    def __init__(self, envoy: str, folder: Path, regions: Mapping[str, int], *, here: str, further: str = "") -> None:
        self._envoy, self._folder, self._here = envoy, folder, here
        numbers = iter(range(1, 1 + sum(regions.values())))
        self._regions = {region: [f"m{next(numbers)}" for _ in range(count)] for region, count in regions.items()}
        names = [name for machines in self._regions.values() for name in machines]
        listen, admin, *ports = free_ports(2 + len(names))
        self.url, self._admin = f"http://127.0.0.1:{listen}", f"http://127.0.0.1:{admin}"
        self._places = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
        self._fleet = f'listen = "127.0.0.1:{listen}"\nadmin = "127.0.0.1:{admin}"\n{further}\n'
        for region, machines in self._regions.items():
            places = ", ".join(f'{name} = "{self._places[name]}"' for name in machines)
            self._fleet += f'[[region]]\nname = "{region}"\nmachines = {{ {places} }}\n'
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._http = httpx.Client()

    def start(self, name: str) -> None:
        """Start a machine, or start it again."""
        region = next(region for region, machines in self._regions.items() if name in machines)
        self._run(
            name,
            [sys.executable, "-I", "-S", str(ECHO)],
            {
                "BIND": self._places[name],
                "FLY_MACHINE_ID": name,
                "FLY_REGION": region,
                "UNREADY": str(self.unready(name)),
            },
        )

    def unready(self, name: str) -> Path:
        """The file that has a machine say that it isn't ready."""
        return self._folder / f"{name}.unready"

    @contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Lose a machine, and have the kernel drop whatever is sent to it: a connection to it hangs."""
        self.signal(name, signal.SIGKILL)
        host, _, port = self._places[name].rpartition(":")
        with ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            full.bind((host, int(port)))
            full.listen(0)
            while True:  # until no more fit into its queue; Linux then drops what would open a connection
                one = stack.enter_context(socket.socket())
                one.settimeout(1)
                try:
                    one.connect((host, int(port)))
                except TimeoutError:
                    break
            yield

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a machine a signal; after SIGKILL, wait until it is gone."""
        self._processes[name].send_signal(number)
        if number is signal.SIGKILL:
            self._processes.pop(name).wait()

    def ask(self, body: bytes | None = None, *, path: str = "/", **headers: str) -> Answer:
        """Send a request as a caller here: POST if it has a body. Underscores in headers are dashes."""
        got = self._http.request(
            "GET" if body is None else "POST",
            self.url + path,
            content=body,
            timeout=PATIENCE_S,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        said: dict[str, Any] = got.json() if got.text.startswith("{") else {}
        return Answer(got.status_code, got.headers, said.get("machine", ""), said, got.text)

    def counted(self, name: str) -> int:
        """Return how many requests a machine was sent; health checks don't count."""
        said = self._http.get(
            f"{self._admin}/stats", params={"filter": f"^cluster[.]machine-{name}[.]upstream_rq_total$"}
        )
        return int(said.text.partition(": ")[2])

    def until_well(self, *names: str) -> None:
        """Wait until the proxy would send requests to exactly these machines."""
        wanted = {self._places[name] for name in names}
        until(lambda: self._well() == wanted)

    def _well(self) -> set[str]:
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
        return {self._places[name] for name in inside}

    def _run(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                arguments, env={"PATH": os.environ["PATH"], **environment}, stdout=log, stderr=log
            )

    def __enter__(self) -> Self:
        fleet, made = self._folder / "fleet.toml", self._folder / "envoy.json"
        fleet.write_text(self._fleet)
        ran = tkdb("flycast", "config", str(fleet), "--region", self._here)
        assert ran.code == 0, ran.err
        made.write_text(ran.out)
        for name in self._places:
            self.start(name)
        self._run("envoy", [self._envoy, "-c", str(made), "--concurrency", "1", "--disable-hot-restart"], {})
        try:
            self.until_well(*self._places)
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
