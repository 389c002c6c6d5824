"""``tkdb regions``: the distance of each region from here, and the region that serves this caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import typer

from tkdb.cli.connect import connect
from tkdb.cli.machines import Urls, age_cell, health_cell, role_cell, urls
from tkdb.cli.output import Cell, Output, Part, Rows, bad

if TYPE_CHECKING:
    from tkdb_client import Region

_HEADER: Final = ("REGION", "MACHINE", "RTT", "ROLE", "SEQ", "FRESH", "HEALTH", "")


def regions(output: Output, url: Urls = None) -> None:
    """Show the distance of each region from here, and the region that serves you.

    The nearest region comes first, as a client would choose it. With one URL, a proxy chooses, and only the machine
    that answers is shown. Exit 3: no region can answer calls.

    \b
    $ tkdb regions --url http://syd.tkdb.internal:8080 --url http://iad.tkdb.internal:8080
    REGION  MACHINE  RTT     ROLE     SEQ   FRESH  HEALTH
    syd     m-1a2b   93 ms   replica  1412  0.2 s  ok      ← serving you
    iad     m-5e6f   225 ms  primary  1412  0.1 s  ok
    """
    with connect(url=urls(url)) as client:
        found = client.regions()
    ok = any(not each.fault for each in found)
    faults = [(each.machine or each.url, each.fault) for each in found if each.fault]
    parts: list[Part] = [Rows(map(_row, found), header=_HEADER)]
    output.result(
        {"ok": ok, "regions": [asdict(each) for each in found]}, *parts, *([Rows(faults, indent=2)] if faults else [])
    )
    if not ok:
        raise typer.Exit(3)


def _row(region: Region) -> Sequence[Cell]:
    if region.rtt_ms is None:
        return ("", region.url, "", "", "", "", bad("unreachable"), "")
    return (
        region.region,
        region.machine,
        _round_trip(region.rtt_ms),
        role_cell(region.role),
        str(region.seq),
        age_cell(region.age_ms),
        health_cell(region.fault),
        "← serving you" if region.serving else "",
    )


def _round_trip(rtt_ms: float) -> str:
    return f"{rtt_ms:.0f} ms" if rtt_ms >= 10 else f"{rtt_ms:.1f} ms"
