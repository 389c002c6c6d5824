"""How many requests all machines make to the object store in an hour, and what a month of them costs.

>>> round(month_usd({"PUT": 1_200, "GET": 2_400, "GET, unchanged": 50_000}), 2)
5.26
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from bench.caller import Caller
from bench.counted import Counts
from bench.rows import Row
from tests.regions.cluster import Cluster

CLASS_A: Final = ("PUT", "POST", "LIST")
CLASS_A_USD: Final = 0.005 / 1_000
CLASS_B_USD: Final = 0.0005 / 1_000
"""Tigris's prices, https://www.tigrisdata.com/pricing/, in October 2025."""
MONTH_H: Final = 730

READ_AGAIN_S: Final = 0.02
WRITE_AGAIN_S: Final = 1.0


def counted(cluster: Cluster, counts: Counts, kid: bytes, *, quiet_s: float, measured_s: float) -> list[Row]:
    """Count while nobody asks, and then while callers read at each machine and write once a second.

    Args:
        cluster: machines whose bucket lies behind ``counts``.
        counts: the proxy.
        kid: a root key, to write under.
        quiet_s: how long a machine takes to notice that nobody asks.
        measured_s: how long each count lasts.
    """
    primary = cluster.settled()
    time.sleep(quiet_s)
    idle = _per_hour(counts, measured_s)
    enough = threading.Event()
    threads = [threading.Thread(target=_read, args=(cluster, name, enough)) for name in cluster.nodes]
    threads.append(threading.Thread(target=_write, args=(cluster, primary, kid, enough)))
    for thread in threads:
        thread.start()
    try:
        busy = _per_hour(counts, measured_s)
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    return [*_rows("requests idle", idle), *_rows("requests busy", busy)]


def month_usd(per_hour: Mapping[str, int]) -> float:
    """Return what a month of so many requests an hour costs at Tigris.

    Answers 304, 409 and 412 cost nothing there, nor does DELETE.
    """
    class_a = sum(per_hour.get(kind, 0) for kind in CLASS_A)
    class_b = sum(per_hour.get(kind, 0) for kind in ("GET", "HEAD"))
    return MONTH_H * (class_a * CLASS_A_USD + class_b * CLASS_B_USD)


def _per_hour(counts: Counts, measured_s: float) -> Counter[str]:
    before = counts.so_far()
    time.sleep(measured_s)
    counted = counts.so_far() - before
    return Counter({kind: round(count * 3_600 / measured_s) for kind, count in counted.items()})


def _rows(what: str, per_hour: Counter[str]) -> list[Row]:
    return [
        Row(what, "all", "tkdb", per_hour.total(), "1/h"),
        *(Row(what, kind, "tkdb", count, "1/h") for kind, count in sorted(per_hour.items())),
        Row(f"{what}, cost", "Tigris", "tkdb", round(month_usd(per_hour), 2), "$/month"),
    ]


def _read(cluster: Cluster, name: str, enough: threading.Event) -> None:
    with cluster.nodes[name].client() as client:
        token = client.mint("acme")
        while not enough.wait(READ_AGAIN_S):
            client.verify(token)


def _write(cluster: Cluster, primary: str, kid: bytes, enough: threading.Event) -> None:
    with Caller(cluster.nodes[primary]) as caller:
        while not enough.wait(WRITE_AGAIN_S):
            caller.revoke(kid)
