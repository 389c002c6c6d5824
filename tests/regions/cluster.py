"""A cluster: machines that run as separate processes, ``tkdb serve``, and share a real bucket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

import httpx

from tests import waiting
from tests.end_to_end.node import ROOT, Keys, Node
from tests.regions.heads import HeadObject
from tkdb import api
from tkdb.errors import TkdbError, Unavailable
from tkdb_replication.bucket.settings import Bucket

T = TypeVar("T")

LEASE_MS = 3_000
TIMEOUT_S = 60
REFUSAL_TIMEOUT_MS = 3_000
"""The timeout of calls that must fail with a reason: long enough for the reason to arrive from a busy machine."""


class Cluster:
    """Machines m1, m2, … in regions r1, r2, …, all with the same keys and bucket.

    Args:
        folder: the folder that contains a folder for each machine's volume.
        bucket: the bucket that the machines share.
        size: the number of machines.
        via: the bucket as machines reach it, for example through a proxy. The operator reaches it directly.
        keys: the keys of another cluster. Default: new keys.
        settings: environment variables for all machines.
    """

    def __init__(
        self,
        folder: Path,
        bucket: Bucket,
        *,
        size: int = 3,
        via: Bucket | None = None,
        keys: Keys | None = None,
        **settings: str,
    ) -> None:
        self.keys = keys or Keys()
        self.folder = folder
        self.head = HeadObject(bucket, self.keys.seal)
        self.settings = {"TKDB_LEASE_MS": str(LEASE_MS), "TKDB_PRIMARY_REGIONS": "r1,r2,r3", **settings}
        self._settings: dict[str, dict[str, str]] = {}
        self.nodes = {f"m{number}": self.node(f"m{number}", via or bucket) for number in range(1, size + 1)}
        self.bucket = bucket

    def node(self, name: str, bucket: Bucket, **settings: str) -> Node:
        """Return a machine that isn't started. It reaches the bucket through ``bucket``."""
        volume = self.folder / name
        volume.mkdir(exist_ok=True)
        own = {"TKDB_MACHINE": name, "TKDB_REGION": f"r{name.removeprefix('m')}"}
        self._settings[name] = {**self.settings, **own, **variables(bucket), **settings}
        return Node(volume / "tkdb.db", self.keys, **self._settings[name])

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a machine that listens on any free port."""
        return self.keys.environment(self.folder / name / "tkdb.db", **self._settings[name])

    def run(self, *arguments: str, code: int = 0, **settings: str) -> str:
        """Run a command as the cluster's operator. Return its stdout, or its stderr if it must fail with ``code``."""
        environment = self.keys.environment(self.folder / "operator.db", **self.settings, **settings)
        done = subprocess.run(
            [sys.executable, "-m", "tkdb.cli", *arguments],
            cwd=ROOT,
            env={**environment, **variables(self.bucket), **settings},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def start(self) -> Self:
        """Create the cluster, start every machine, and return once there is a primary and all are fresh."""
        self.run("init")
        for node in self.nodes.values():
            node.start()
        self.settled()
        return self

    def status(self, name: str) -> api.StatusReport | None:
        """Return a machine's status, or None if it doesn't answer."""
        node = self.nodes[name]
        try:
            with node.client(timeout_ms=REFUSAL_TIMEOUT_MS) as client:
                return client.status()
        except TkdbError:
            return None

    def readyz(self, name: str) -> tuple[int, str]:
        """Return the HTTP status and the text of a machine's readiness check, which proxies use."""
        return self._probe(name, "/readyz")

    def replicating(self, name: str) -> tuple[int, str]:
        """Return the HTTP status and the text of a machine's replication check, which alarms use."""
        return self._probe(name, "/livez/replication")

    def _probe(self, name: str, path: str) -> tuple[int, str]:
        answer = httpx.get(f"{self.nodes[name].url}{path}", timeout=TIMEOUT_S)
        return answer.status_code, answer.text

    def log(self, name: str) -> str:
        """Return the log of a machine, over all its starts."""
        return self.nodes[name].log.read_text()

    def primary(self) -> str:
        """Wait until one machine reports that it is primary, and return its name."""
        return until(
            lambda: next(
                (name for name in self.running() if (report := self.status(name)) and report.role == "primary"), None
            )
        )

    def running(self) -> list[str]:
        """Return the names of machines whose processes run."""
        return [name for name, node in self.nodes.items() if node.url and node.process.poll() is None]

    def settled(self) -> str:
        """Wait until there is a primary and every running machine is fresh. Return the primary's name."""
        primary = self.primary()
        for name in self.running():
            until(lambda name=name: (report := self.status(name)) and not report.fault)  # type: ignore[misc]
        return primary

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            if node.url and node.process.poll() is None:
                node.kill()


def variables(bucket: Bucket) -> dict[str, str]:
    """Return the environment variables that name the bucket."""
    return {
        "BUCKET_NAME": bucket.name,
        "AWS_ENDPOINT_URL_S3": str(bucket.endpoint),
        "AWS_ACCESS_KEY_ID": bucket.credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": bucket.credentials.secret_access_key,
    }


def until(attempt: Callable[[], T | None]) -> T:
    """Repeat ``attempt`` until it returns a true value, and return that. ``Unavailable`` counts as no value."""

    def reached() -> T | None:
        with suppress(Unavailable):
            return attempt()
        return None

    return waiting.until(reached)
