"""Fly's Machines API, as far as drills use it: an HTTP server that takes what the real one is documented to take."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

APP = "acme-tkdb"
TOKEN = "fm2_secret"
STATES = {"start": "started", "stop": "stopped"}


@dataclass
class Fly:
    """The app's machines, and all that was asked. Use it as a context.

    Attributes:
        states: by machine.
        cordoned: the machines that the proxy passes over.
        asked: each action: the machine, and what was to be done.
        refuse: statuses with which the next actions are answered instead, first come first served.
        act: carries an action out, before it is answered.
    """

    states: dict[str, str]
    regions: dict[str, str]
    act: Callable[[str, str, dict[str, Any]], None] = lambda machine, action, body: None
    cordoned: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.fly = self  # type: ignore[attr-defined]  # a plain server has no such place
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), name="fly")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def listed(self) -> list[dict[str, Any]]:
        """The machines, with more fields than anybody reads, as the real one has them."""
        return [
            {
                "id": name, "name": f"{name}-name", "state": state, "region": self.regions[name],
                "instance_id": "01J", "private_ip": "fdaa:0:1::2", "config": {"image": "registry.fly.io/acme"},
                "created_at": "2026-11-26T17:00:00Z",
            }
            for name, state in self.states.items()
        ]  # fmt: skip

    def done(self, machine: str, action: str, body: dict[str, Any]) -> int:
        """Carry an action out; return the status."""
        self.asked.append((machine, action))
        self.bodies.append(body)
        if self.refuse:
            return self.refuse.pop(0)
        if machine not in self.states:
            return 404
        match action:
            case "stop":
                if not set(body) <= {"signal", "timeout"} or body.get("signal") not in ("SIGTERM", "SIGKILL"):
                    return 400
                self.act(machine, action, body)
                self.states[machine] = "stopped"
            case "start":
                self.act(machine, action, body)
                self.states[machine] = "started"
            case "cordon":
                self.cordoned.add(machine)
            case "uncordon":
                self.cordoned.discard(machine)
            case _:
                return 404
        return 200


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _take(self) -> None:
        fly: Fly = self.server.fly  # type: ignore[attr-defined]  # as above
        raw = self.rfile.read(int(self.headers.get("content-length", "0")))
        url = urlsplit(self.path)
        start, _, rest = url.path.partition(f"/v1/apps/{APP}/machines")
        status, answer = 404, {"error": "not found"}
        if self.headers.get("authorization") not in (f"Bearer {TOKEN}", f"FlyV1 {TOKEN}"):
            status, answer = 401, {"error": "unauthorized"}
        elif start or not url.path.startswith("/v1/apps/"):
            fly.wrong.append(self.path)
        elif (self.command, rest) == ("GET", ""):
            status, answer = 200, fly.listed()  # type: ignore[assignment]  # a list, not an object
        elif self.command == "GET" and rest.endswith("/wait"):
            status, answer = self._wait(fly, rest.split("/")[1], parse_qs(url.query))
        elif self.command == "POST" and rest.count("/") == 2:
            _, machine, action = rest.split("/")
            status, answer = fly.done(machine, action, json.loads(raw) if raw else {}), {"ok": True}  # type: ignore[dict-item]
        else:
            fly.wrong.append(f"{self.command} {self.path}")
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PUT = _take  # noqa: N815  as the standard library calls them

    @staticmethod
    def _wait(fly: Fly, machine: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str]]:
        wanted, timeout_s = query["state"][0], int(query["timeout"][0])
        assert 1 <= timeout_s <= 60
        give_up_s = time.monotonic() + min(timeout_s, 2)
        while time.monotonic() < give_up_s:
            if fly.states.get(machine) == wanted:
                return 200, {"ok": "true"}
            time.sleep(0.02)
        return 408, {"error": "deadline_exceeded"}

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
