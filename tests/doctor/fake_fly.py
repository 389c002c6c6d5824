"""Fly's Machines API, as it is documented, for one app: what it lists can be changed, and so can how it answers.

The forms are those of https://fly.io/docs/machines/api/machines-resource/ and of Fly's own client for Go: fields that
nobody here reads are in them, too.
"""

from __future__ import annotations

import json
import threading
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

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


def machine(name: str, region: str) -> dict[str, Any]:
    """A machine as fly.toml has it made."""
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
                    "concurrency": {"type": "requests", "hard_limit": 250, "soft_limit": 200},
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


class FakeFly:
    """The API, while the ``with`` lasts.

    Attributes:
        ips: what is assigned to the app.
        machines: its machines.
        raw: bodies that are sent instead, by the last part of the path.
        status: a status that is sent instead.
        seen: the targets that were asked for, each with its Authorization.
    """

    def __init__(self) -> None:
        self.ips: list[dict[str, Any]] = [deepcopy(PRIVATE), deepcopy(EGRESS)]
        self.machines = [machine("148e21", "iad"), machine("3d8d41", "ams"), machine("90801f", "syd")]
        self.raw: dict[str, bytes] = {}
        self.status = 200
        self.seen: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.fly = self  # type: ignore[attr-defined]  what its handlers answer from
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.05))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of its first machine."""
        found: dict[str, Any] = self.machines[0]["config"]
        return found

    @property
    def service(self) -> dict[str, Any]:
        """The service of its first machine."""
        found: dict[str, Any] = self.config["services"][0]
        return found

    def answer(self, target: str, authorization: str) -> tuple[int, bytes]:
        self.seen.append((target, authorization))
        what = target.rpartition("/")[2]
        if authorization != f"FlyV1 {TOKEN}":
            return 401, b'{"error":"unauthorized"}'
        if self.status != 200:
            return self.status, b'{"error":"it was planted"}'
        if what in self.raw:
            return 200, self.raw[what]
        known = {
            f"/v1/apps/{APP}/ip_assignments": {"ips": self.ips},
            f"/v1/apps/{APP}/machines": self.machines,
        }
        found = known.get(target)
        return (404, b'{"error":"app not found"}') if found is None else (200, json.dumps(found).encode())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        fly: FakeFly = self.server.fly  # type: ignore[attr-defined]
        status, body = fly.answer(self.path, self.headers.get("authorization", ""))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
