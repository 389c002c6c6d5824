"""``tkdb status``: the machines that answer, the age of their data, and the primary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import typer

from tkdb.cli.machines import (
    Asked,
    Machines,
    Urls,
    age_cell,
    health_cell,
    is_led,
    newest,
    role_cell,
    seconds,
    urls,
)
from tkdb.cli.output import Cell, Output, Part, Rows, bad

if TYPE_CHECKING:
    from tkdb import api

_HEADER: Final = ("REGION", "MACHINE", "ROLE", "SEQ", "LAG", "FRESH", "HEALTH", "ANSWERED")


def status(output: Output, url: Urls = None) -> None:
    """Show the machines that answer, the age of their data, and the primary.

    For the URLs of several machines, this shows one row for each, the nearest first. Exit 3: a machine can't answer, or
    there is no primary.

    \b
    $ tkdb status --url http://syd.tkdb.internal:8080 --url http://iad.tkdb.internal:8080
    REGION  MACHINE  ROLE     SEQ   LAG  FRESH  HEALTH  ANSWERED
    syd     m-1a2b   replica  1412  0    0.2 s  ok      in 93.0 ms
    iad     m-5e6f   primary  1412  0    0.1 s  ok      in 225.1 ms
    primary m-5e6f in iad · epoch 7 · rev 31044 · seq 1412 · lease 9.0 s, last change seen 1.2 s ago
    """
    with Machines(urls(url)) as machines:
        asked = sorted(machines.ask(), key=lambda each: (each.report is None, each.rtt_ms))
    if len(asked) == 1 and asked[0].error is not None:
        raise asked[0].error
    head = newest(asked)
    ok = not any(each.fault for each in asked) and (head is None or is_led(head))
    document = {"ok": ok, "machines": [_document(each) for each in asked], "head": msgspec.to_builtins(head)}
    parts = _alone(asked[0]) if len(asked) == 1 else _table(asked, head)
    output.result(document, *parts, *([] if head is None else [_line(head)]))
    if not ok:
        raise typer.Exit(3)


def _document(asked: Asked) -> dict[str, Any]:
    if asked.report is None:
        return {"url": asked.url, "error": asked.fault}
    return {"url": asked.url, "rtt_ms": asked.rtt_ms, **msgspec.to_builtins(asked.report)}


def _alone(asked: Asked) -> list[Part]:
    """Return the whole report of one machine."""
    from tkdb.cli.formatting import distance

    report = asked.report
    assert report is not None  # noqa: S101  an error of the only machine was raised before
    rows: list[Sequence[Cell]] = [
        (health_cell(report.fault), report.name),
        *([("why", report.fault)] if report.fault else []),
        ("role", report.role),
        ("region", report.region),
        ("machine", report.machine),
        ("seq", str(report.position)),
        ("fresh", age_cell(report.age_ms)),
        ("version", report.version),
        ("up", distance(report.uptime_ms / 1000).removeprefix("in ")),
        ("answered", f"in {asked.rtt_ms} ms"),
    ]
    return [Rows(rows)]


def _table(asked: Sequence[Asked], head: api.Cluster | None) -> list[Part]:
    """Return a row for each machine, and then the reason for each machine that can't answer."""
    positions = [each.report.position for each in asked if each.report is not None]
    last = max([*positions, *([] if head is None else [head.seq])], default=0)
    faults = [(each.report.machine if each.report else each.url, each.fault) for each in asked if each.fault]
    parts: list[Part] = [Rows([_row(each, last) for each in asked], header=_HEADER)]
    return [*parts, Rows(faults, indent=2)] if faults else parts


def _row(asked: Asked, last: int) -> Sequence[Cell]:
    report = asked.report
    if report is None:
        return ("", asked.url, "", "", "", "", bad("unreachable"), "")
    return (
        report.region,
        report.machine,
        role_cell(report.role),
        str(report.position),
        str(max(0, last - report.position)),
        age_cell(report.age_ms),
        health_cell(report.fault),
        f"in {asked.rtt_ms} ms",
    )


def _line(head: api.Cluster) -> Cell:
    """Return the head on one line."""
    led = is_led(head)
    who = f"primary {head.primary} in {head.region}" if head.primary else "no primary"
    seen = f"last change seen {seconds(head.unchanged_ms)} ago" + ("" if led else ": another machine may take over")
    text = f"{who} · epoch {head.epoch} · rev {head.rev} · seq {head.seq} · lease {seconds(head.lease_ms)}, {seen}"
    return text if led else bad(text)
