"""The time without writes: after the primary is killed, and during a planned move."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from bench.caller import Caller
from bench.rows import Row
from tests.regions.cluster import Cluster, until
from tkdb import api, errors

AGAIN_S = 0.02
MOVE_WITHIN_MS = 15_000


class Write(NamedTuple):
    """An acknowledged write: the time of its answer, and the machine that answered."""

    at_s: float
    machine: str


class Writer:
    """A writer of one revocation after the other, at any machine that takes them. ``acknowledged`` only grows."""

    def __init__(self, cluster: Cluster, kid: bytes) -> None:
        self.acknowledged: list[Write] = []
        self._cluster = cluster
        self._kid = kid
        self._enough = threading.Event()

    def write(self) -> None:
        """Write until ``stop``. If a machine doesn't take a write, try the next machine."""
        with ExitStack() as stack:
            callers = {name: stack.enter_context(Caller(node)) for name, node in self._cluster.nodes.items()}
            names = list(callers)
            while not self._enough.is_set():
                try:
                    callers[names[0]].revoke(self._kid)
                except errors.TkdbError:
                    names.append(names.pop(0))
                    time.sleep(AGAIN_S)
                else:
                    self.acknowledged.append(Write(time.perf_counter(), names[0]))

    def stop(self) -> None:
        """Make ``write`` end."""
        self._enough.set()

    def first(self, machines: set[str], after_s: float) -> float | None:
        """Return the time of the first write that one of ``machines`` acknowledged after ``after_s``, or None."""
        return next((at_s for at_s, machine in self.acknowledged if machine in machines and at_s > after_s), None)


@contextmanager
def writing(cluster: Cluster, kid: bytes) -> Iterator[Writer]:
    """Run a writer during the ``with`` block, which begins after its first writes."""
    writer = Writer(cluster, kid)
    thread = threading.Thread(target=writer.write, name="writer")
    thread.start()
    try:
        until(lambda: len(writer.acknowledged) > 10)
        yield writer
    finally:
        writer.stop()
        thread.join()


def killed(cluster: Cluster, kid: bytes, rounds: int) -> list[Row]:
    """Kill the primary repeatedly. Return how long it took until another machine acknowledged a write."""
    took_ms = [_kill_ms(cluster, kid) for _ in range(rounds)]
    return [
        Row("primary killed", rounds, "tkdb", round(max(took_ms)), "ms"),
        Row("primary killed, median", rounds, "tkdb", round(median(took_ms)), "ms"),
    ]


def _kill_ms(cluster: Cluster, kid: bytes) -> float:
    primary = cluster.settled()
    with writing(cluster, kid) as writer:
        began_s = time.perf_counter()
        cluster.nodes[primary].kill()
        again_s: float = until(lambda: writer.first(set(cluster.nodes) - {primary}, began_s))
    cluster.nodes[primary].start()
    return 1_000 * (again_s - began_s)


def moved(cluster: Cluster, kid: bytes, rounds: int) -> list[Row]:
    """Move the primary repeatedly. Return how long it took until the new primary acknowledged a write, and the longest
    gap between writes."""
    took_ms, gaps_ms = zip(*(_move_ms(cluster, kid) for _ in range(rounds)), strict=True)
    return [
        Row("planned move", rounds, "tkdb", round(median(took_ms)), "ms"),
        Row("planned move, worst", rounds, "tkdb", round(max(took_ms)), "ms"),
        Row("planned move, longest gap", rounds, "tkdb", round(max(gaps_ms)), "ms"),
    ]


def _move_ms(cluster: Cluster, kid: bytes) -> tuple[float, float]:
    primary, names = cluster.settled(), list(cluster.nodes)
    to = names[(names.index(primary) + 1) % len(names)]
    with writing(cluster, kid) as writer, Caller(cluster.nodes[primary], timeout_ms=MOVE_WITHIN_MS) as operator:
        began_s = time.perf_counter()
        operator.ask(api.WRITE, api.HandOver(to))
        there_s: float = until(lambda: writer.first({to}, began_s))
    return 1_000 * (there_s - began_s), _longest_gap_ms(writer.acknowledged, there_s)


def _longest_gap_ms(writes: list[Write], through_s: float) -> float:
    times_s = [write.at_s for write in writes if write.at_s <= through_s]
    return 1_000 * max(later - earlier for earlier, later in pairwise(times_s))
