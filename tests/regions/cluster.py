"""A cluster: machines as processes of their own, ``tkdb serve``, that share a real bucket."""

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
PATIENCE_S = 60
TOLD_MS = 3_000
"""How long a call lasts that is to be refused for a reason: it is told the reason, however busy the machine is."""


class Cluster:
    """Machines m1, m2, … in regions of their own, all with the same keys and bucket.

    Args:
        folder: each machine's volume is a folder in it.
        bucket: what they share.
        size: how many machines there are.
        via: the bucket as machines reach it: through a proxy, perhaps. The operator reaches it directly.
        keys: those of another cluster; by default they are new.
        settings: for all of them, by their variables.
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
        """A machine, not started. It may reach the bucket in a way of its own."""
        volume = self.folder / name
        volume.mkdir(exist_ok=True)
        own = {"TKDB_MACHINE": name, "TKDB_REGION": f"r{name.removeprefix('m')}"}
        self._settings[name] = {**self.settings, **own, **variables(bucket), **settings}
        return Node(volume / "tkdb.db", self.keys, **self._settings[name])

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a machine, at any free port."""
        return self.keys.environment(self.folder / name / "tkdb.db", **self._settings[name])

    def run(self, *arguments: str, code: int = 0, **settings: str) -> str:
        """Run a command of the cluster's operator; return what it says: where it fails, on stderr."""
        environment = self.keys.environment(self.folder / "operator.db", **self.settings, **settings)
        done = subprocess.run(
            [sys.executable, "-m", "tkdb.cli", *arguments],
            cwd=ROOT,
            env={**environment, **variables(self.bucket), **settings},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def start(self) -> Self:
        """Found the cluster, start every machine, and return once there is a primary and all are fresh."""
        self.run("init")
        for node in self.nodes.values():
            node.start()
        self.settled()
        return self

    def status(self, name: str) -> api.StatusReport | None:
        """What a machine says of itself; None where it doesn't answer."""
        node = self.nodes[name]
        try:
            with node.client(timeout_ms=TOLD_MS) as client:
                return client.status()
        except TkdbError:
            return None

    def readyz(self, name: str) -> tuple[int, str]:
        """What a machine says to a proxy that asks whether it is ready: the HTTP status, and the text."""
        return self._probed(name, "/readyz")

    def replicating(self, name: str) -> tuple[int, str]:
        """What a machine says to an alarm: the HTTP status, and the text."""
        return self._probed(name, "/livez/replication")

    def _probed(self, name: str, path: str) -> tuple[int, str]:
        answer = httpx.get(f"{self.nodes[name].url}{path}", timeout=PATIENCE_S)
        return answer.status_code, answer.text

    def log(self, name: str) -> str:
        """What a machine has logged, in all its lives."""
        return self.nodes[name].log.read_text()

    def primary(self) -> str:
        """Wait until one machine says that it is primary; return its name."""
        return until(
            lambda: next(
                (name for name in self.running() if (said := self.status(name)) and said.role == "primary"), None
            )
        )

    def running(self) -> list[str]:
        """The machines whose processes run."""
        return [name for name, node in self.nodes.items() if node.url and node.process.poll() is None]

    def settled(self) -> str:
        """Wait until there is a primary and every running machine is fresh; return the primary's name."""
        primary = self.primary()
        for name in self.running():
            until(lambda name=name: (said := self.status(name)) and not said.fault)  # type: ignore[misc]
        return primary

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            if node.url and node.process.poll() is None:
                node.kill()


def variables(bucket: Bucket) -> dict[str, str]:
    """The bucket, as the environment says it."""
    return {
        "BUCKET_NAME": bucket.name,
        "AWS_ENDPOINT_URL_S3": str(bucket.endpoint),
        "AWS_ACCESS_KEY_ID": bucket.credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": bucket.credentials.secret_access_key,
    }


def until(attempt: Callable[[], T | None]) -> T:
    """Return what ``attempt`` returns, once that is something. That it is unavailable is nothing."""

    def reached() -> T | None:
        with suppress(Unavailable):
            return attempt()
        return None

    return waiting.until(reached)
