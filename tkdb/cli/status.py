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
    role_of,
    seconds,
    urls,
)
from tkdb.cli.output import Cell, Output, Part, Rows, bad

if TYPE_CHECKING:
    from tkdb import api

_HEADER: Final = ("REGION", "MACHINE", "ROLE", "SEQ", "LAG", "FRESH", "HEALTH", "ANSWERED")


def status(output: Output, url: Urls = None) -> None:
    """Show the machines that answer, the age of their data, and the primary.

    For the URLs of several machines, this shows one row for each, the nearest first. A reading beyond the bound is
    unknown. Exit 3: a machine can't answer, or no primary is known.

    \b
    $ tkdb status --url http://syd.tkdb.internal:8080 --url http://iad.tkdb.internal:8080
    REGION  MACHINE  ROLE     SEQ   LAG  FRESH  HEALTH  ANSWERED
    syd     m-1a2b   replica  1412  0    0.2 s  ok      in 93.0 ms
    iad     m-5e6f   primary  1412  0    0.1 s  ok      in 225.1 ms
    primary m-5e6f in iad · epoch 7 · rev 31044 · seq 1412
    lease 9.0 s · last change 1.2 s ago · read 0.1 s ago
    """
    with Machines(urls(url)) as machines:
        asked = sorted(machines.ask(), key=lambda each: (each.report is None, each.rtt_ms))
    if len(asked) == 1 and asked[0].error is not None:
        raise asked[0].error
    head = newest(asked)
    ok = not any(each.fault for each in asked) and (head is None or is_led(head))
    document = {"ok": ok, "machines": [_document(each) for each in asked], "head": msgspec.to_builtins(head)}
    parts = _alone(asked[0]) if len(asked) == 1 else _table(asked, head)
    output.result(document, *parts, *([] if head is None else _head(head)))
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
        ("role", role_cell(role_of(report))),
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
    is_current = head is None or head.is_current
    faults = [(each.report.machine if each.report else each.url, each.fault) for each in asked if each.fault]
    parts: list[Part] = [Rows([_row(each, last if is_current else None) for each in asked], header=_HEADER)]
    return [*parts, Rows(faults, indent=2)] if faults else parts


def _row(asked: Asked, last: int | None) -> Sequence[Cell]:
    report = asked.report
    if report is None:
        return ("", asked.url, "", "", "", "", bad("unreachable"), "")
    return (
        report.region,
        report.machine,
        role_cell(role_of(report)),
        str(report.position),
        "unknown" if last is None else str(max(0, last - report.position)),
        age_cell(report.age_ms),
        health_cell(report.fault),
        f"in {asked.rtt_ms} ms",
    )


def _head(head: api.Cluster) -> list[Part]:
    """Return the head on two lines, with the age of the reading. Past the bound, its primary is unknown."""
    who = f"{head.primary} in {head.region}" if head.primary else "none"
    place = f"epoch {head.epoch} · rev {head.rev} · seq {head.seq}"
    read = f"read {seconds(head.read_ms)} ago"
    if not head.is_current:
        last = "no primary was known" if not head.primary else f"the primary was {who}"
        return [
            bad(f"primary unknown · {read}, the bound is {seconds(head.bound_ms)}"),
            f"at that time {last} · {place}",
        ]
    changed = f"last change {seconds(head.unchanged_ms + head.read_ms)} ago"
    if is_led(head):
        return [f"primary {who} · {place}", f"lease {seconds(head.lease_ms)} · {changed} · {read}"]
    return [bad(f"primary {who} · {place}"), bad(f"{changed} · {read}: another machine may take over")]
