"""A fake of Fly's documented Machines API for one app. Tests can change its data, its actions and its answers.

The data has the form of https://fly.io/docs/machines/api/machines-resource/ and of Fly's client for Go, with fields
that tkdb doesn't read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_stub import Answer, HttpStub, Request

TOKEN = "fm2_lJPECAAAAAAAAAAxxBDkl2eMnRkRqLq5OXAMPLE"
APP = "acme-tkdb"

PRIVATE = {
    "ip": "fdaa:0:7ba5:0:1::7", "region": "global", "service_name": "", "shared": False, "egress": False,
    "created_at": "2026-09-01T10:00:00Z", "network": {"name": "", "org_slug": "acme"},
}  # fmt: skip
EGRESS = PRIVATE | {"ip": "137.66.12.9", "region": "iad", "egress": True, "network": None}
PUBLIC_V4 = PRIVATE | {"ip": "137.66.12.10", "network": None}
PUBLIC_V6 = PRIVATE | {"ip": "2a09:8280:1::1c:9a01:0", "network": None}
SHARED_V4 = PRIVATE | {"ip": "66.241.125.9", "shared": True, "network": None}


SIGNER_KEY = (
    "tkdbsignerpub_zfL76nbtJj_ARzVHuceHGyRTiys_a5h7jByRzA8HuHJ2-lq1zoqTeoMbbwE600Yu7P_DZmpynC9M-tiQEfKsTQ0s4gxF"
)


def filled(toml: str) -> str:
    """Return this repository's fly.toml with a signer's key instead of the placeholder."""
    assert toml.count("tkdbsignerpub_…") == 1
    return toml.replace("tkdbsignerpub_…", SIGNER_KEY)


def machine(name: str, region: str) -> dict[str, Any]:
    """A machine as `fly deploy` creates it from fly.toml."""
    return {
        "id": name,
        "name": f"winter-{name}",
        "state": "started",
        "region": region,
        "instance_id": "01J6ZV1DQ2M0JBFM1V0C4W9XQ8",
        "private_ip": "fdaa:0:7ba5:a7b:1f60:3c21:1:2",
        "image_ref": {
            "registry": "registry.fly.io",
            "repository": APP,
            "tag": "deployment-01J6",
            "digest": "sha256:4ddb2b3f2a31a0bfa5f3dbcbd8f2dcb3a4fb8aaa3b7a4e4d9df9a30f2a0a3b1c",
            "labels": {},
        },
        "created_at": "2026-09-01T10:00:00Z",
        "updated_at": "2026-09-01T10:01:00Z",
        "config": {
            "env": {
                "FLY_PROCESS_GROUP": "app",
                "PRIMARY_REGION": "iad",
                "TKDB_NAME": "tkdb.acme.example",
                "TKDB_BIND": "0.0.0.0:8080",
                "TKDB_DB": "/data/tkdb.db",
                "TKDB_FLY_SRC": "require",
            },
            "init": {},
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
            "metadata": {"fly_platform_version": "v2", "fly_process_group": "app"},
            "mounts": [
                {"encrypted": True, "path": "/data", "size_gb": 1, "volume": f"vol_{name}", "name": "tkdb_data"}
            ],
            "services": [
                {
                    "protocol": "tcp",
                    "internal_port": 8080,
                    "autostop": False,
                    "autostart": True,
                    "ports": [
                        {"port": 80, "handlers": ["http"], "force_https": False},
                        {"port": 443, "handlers": ["http", "tls"]},
                    ],
                    "checks": [
                        {
                            "type": "http",
                            "interval": "5s",
                            "timeout": "2s",
                            "grace_period": "10s",
                            "method": "GET",
                            "path": "/readyz",
                        }
                    ],
                    "concurrency": {"type": "requests", "hard_limit": 6_000, "soft_limit": 5_500},
                    "force_instance_key": None,
                }
            ],
            "image": f"registry.fly.io/{APP}:deployment-01J6",
            "restart": {"policy": "on-failure", "max_retries": 10},
            "stop_config": {"timeout": "30s", "signal": "SIGTERM"},
        },
        "events": [{"type": "start", "status": "started", "source": "flyd", "timestamp": 1756684800000}],
        "checks": [{"name": "servicecheck-00-http-8080", "status": "passing", "output": "ready"}],
        "host_status": "ok",
        "cordoned": False,
    }


class FakeFly(HttpStub):
    """The API, which answers while the ``with`` block runs.

    Attributes:
        ips: the addresses that are assigned to the app.
        machines: the app's machines.
        raw: response bodies to send instead, by the last part of the path.
        status: a status to send instead of 200.
        refusals: statuses for the next actions, in this order. A refused action isn't carried out.
        act: called to carry out an action, before the API answers.
        requests: the target and the Authorization header of each request.
        actions: the machine and the name of each requested action.
        bodies: the body of each requested action.
        unexpected: requests that aren't for this app, or that the API doesn't have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ips: list[dict[str, Any]] = [deepcopy(PRIVATE), deepcopy(EGRESS)]
        self.machines = [machine("148e21", "iad"), machine("3d8d41", "ams"), machine("90801f", "syd")]
        self.raw: dict[str, bytes] = {}
        self.status = 200
        self.refusals: list[int] = []
        self.act: Callable[[str, str, dict[str, Any]], None] = lambda machine, action, body: None
        self.requests: list[tuple[str, str]] = []
        self.actions: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.unexpected: list[str] = []

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the first machine."""
        found: dict[str, Any] = self.machines[0]["config"]
        return found

    @property
    def service(self) -> dict[str, Any]:
        """The service of the first machine."""
        found: dict[str, Any] = self.config["services"][0]
        return found

    @property
    def states(self) -> dict[str, str]:
        """The state of each machine, by its id."""
        return {each["id"]: each["state"] for each in self.machines}

    def update(self, name: str, **fields: Any) -> None:
        """Change fields of a listed machine."""
        next(each for each in self.machines if each["id"] == name).update(fields)

    def answer(self, request: Request) -> Answer:
        status, body = self._respond(request)
        return Answer(status, {"content-type": "application/json"}, body)

    def _respond(self, request: Request) -> tuple[int, bytes]:
        authorization = request.headers.get("authorization", "")
        self.requests.append((request.target, authorization))
        if authorization != f"FlyV1 {TOKEN}":
            return 401, b'{"error":"unauthorized"}'
        if self.status != 200:
            return self.status, b'{"error":"injected by a test"}'
        url = urlsplit(request.target)
        match request.method, *url.path.removeprefix(f"/v1/apps/{APP}/").split("/"):
            case "GET", ("ip_assignments" | "machines") as resource if resource in self.raw:
                return 200, self.raw[resource]
            case "GET", "ip_assignments":
                return 200, json.dumps({"ips": self.ips}).encode()
            case "GET", "machines":
                return 200, json.dumps(self.machines).encode()
            case "GET", "machines", name, "wait":
                return self._wait(name, **{key: values[0] for key, values in parse_qs(url.query).items()})
            case "POST", "machines", name, action:
                return self._do(name, action, json.loads(request.body or b"{}")), b'{"ok":true}'
        self.unexpected.append(f"{request.method} {request.target}")
        return 404, b'{"error":"not found"}'

    def _do(self, name: str, action: str, body: dict[str, Any]) -> int:
        """Carry out an action and return the HTTP status."""
        self.actions.append((name, action))
        self.bodies.append(body)
        if self.refusals:
            return self.refusals.pop(0)
        if name not in self.states:
            return 404
        match action:
            case "stop":
                if not set(body) <= {"signal", "timeout"} or body.get("signal") not in ("SIGTERM", "SIGKILL"):
                    return 400
                self.act(name, action, body)
                self.update(name, state="stopped")
            case "start":
                self.act(name, action, body)
                self.update(name, state="started")
            case "cordon" | "uncordon":
                self.update(name, cordoned=action == "cordon")
            case _:
                return 404
        return 200

    def _wait(self, name: str, state: str, timeout: str) -> tuple[int, bytes]:
        assert 1 <= int(timeout) <= 60
        give_up_s = time.monotonic() + min(int(timeout), 2)
        while time.monotonic() < give_up_s:
            if self.states.get(name) == state:
                return 200, b'{"ok":true}'
            time.sleep(0.02)
        return 408, b'{"error":"deadline_exceeded"}'
