"""``tkdb status``: who answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from tkdb.cli.authority import connect
from tkdb.cli.output import Cell, Output, Rows, good


def status(output: Output) -> None:
    """Ask the authority who answers, and how long that takes.

    \b
    $ tkdb status
    ok        tkdb.example
    role      primary
    region    syd
    machine   m-1a2b
    version   0.1.0
    up        3 h
    answered  in 4.1 ms
    """
    from tkdb.cli.words import distance

    with connect() as client:
        client.status()  # the first call looks up the name and connects
        started = time.perf_counter()
        report = client.status()
        rtt_ms = round((time.perf_counter() - started) * 1000, 1)
    rows: list[Sequence[Cell]] = [
        (good("ok"), report.name),
        ("role", report.role),
        ("region", report.region),
        ("machine", report.machine),
        ("version", report.version),
        ("up", distance(report.uptime_ms / 1000).removeprefix("in ")),
        ("answered", f"in {rtt_ms} ms"),
    ]
    output.result({**msgspec.to_builtins(report), "rtt_ms": rtt_ms}, Rows(rows))
