"""The number of requests that all machines send to the object store in an hour, and their cost a month.

The machines are never without requests: the proxy checks ``/readyz`` of each machine, as ``fly.toml`` configures.

>>> round(month_usd({"PUT": 1_200, "GET": 2_400, "GET, unchanged": 50_000}), 2)
5.26
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from bench.caller import Caller
from bench.counted import Counts
from bench.node import is_ready
from bench.rows import Row
from tests.regions.cluster import Cluster

CLASS_A: Final = ("PUT", "POST", "LIST")
CLASS_A_USD: Final = 0.005 / 1_000
CLASS_B_USD: Final = 0.0005 / 1_000
"""Tigris's prices (https://www.tigrisdata.com/docs/pricing/) for a bucket in one region or global, standard tier."""
MONTH_H: Final = 730

HEALTH_CHECK_S: Final = 5.0
READ_AGAIN_S: Final = 0.02
WRITE_AGAIN_S: Final = 1.0


def counted(cluster: Cluster, counts: Counts, kid: bytes, *, quiet_s: float, measured_s: float) -> list[Row]:
    """Count requests while only health checks arrive. Then count them while callers read at each machine and write once
    a second.

    Args:
        cluster: the machines. They reach their bucket through ``counts``.
        counts: the proxy.
        kid: the root key to write under.
        quiet_s: how long a machine takes to notice that no callers are left.
        measured_s: how long each count lasts.
    """
    primary, names = cluster.settled(), list(cluster.nodes)
    with ExitStack() as idle:
        for name in names:
            idle.enter_context(_again_and_again(partial(is_ready, _port(cluster, name)), HEALTH_CHECK_S))
        time.sleep(quiet_s)
        idle_per_hour = _per_hour(counts, measured_s)
        with ExitStack() as busy:
            for name in names:
                client = busy.enter_context(cluster.nodes[name].client())
                busy.enter_context(_again_and_again(partial(client.verify, client.mint("acme")), READ_AGAIN_S))
            caller = busy.enter_context(Caller(cluster.nodes[primary]))
            busy.enter_context(_again_and_again(partial(caller.revoke, kid), WRITE_AGAIN_S))
            busy_per_hour = _per_hour(counts, measured_s)
    return [*_rows("requests idle", idle_per_hour), *_rows("requests busy", busy_per_hour)]


def month_usd(per_hour: Mapping[str, int]) -> float:
    """Return the cost at Tigris of a month with this number of requests an hour.

    Answers 304, 409 and 412 cost nothing there, and DELETE costs nothing either.
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


@contextmanager
def _again_and_again(ask: Callable[[], object], wait_s: float) -> Iterator[None]:
    """Call ``ask`` in another thread, with pauses of ``wait_s``, during the ``with`` block."""
    enough = threading.Event()

    def go_on() -> None:
        while not enough.wait(wait_s):
            ask()

    thread = threading.Thread(target=go_on, name="asking")
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def _port(cluster: Cluster, name: str) -> int:
    return int(cluster.nodes[name].url.rpartition(":")[2])
