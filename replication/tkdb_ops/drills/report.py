"""The report: one self-contained HTML page, for light and dark screens and for paper. Pure.

>>> from tkdb_ops.drills.catalogue import find
>>> from tkdb_ops.drills.verdict import judge
>>> from tkdb_ops.drills.objectives import Objectives
>>> record = Record("primary-killed", "lab", 1, "2026-11-26T17:00:00Z", {}, 5_000, (), ("<sin>",), 0, 0, 0, 10)
>>> html = page([Result(find("primary-killed"), record, judge(record, Objectives()))])
>>> "<sin>" in html, "&lt;sin&gt;" in html, "http" in html.replace("http://www.w3.org/2000/svg", "")
(False, True, False)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Final

import msgspec

from tkdb_ops.drills.chart import draw, notable, series
from tkdb_ops.drills.drill import Drill
from tkdb_ops.drills.figures import Latency
from tkdb_ops.drills.record import Record
from tkdb_ops.drills.verdict import ObjectiveFinding, Verdict, format_value

_NONE: Final = "\N{EN DASH}"
_TILES: Final = ("writes_back_ms", "longest_read_ms", "failed_reads", "revoked_p99_ms", "lost_writes", "stale_accepts")


class Result(msgspec.Struct, frozen=True):
    """A drill that was run, its record, and the verdict."""

    drill: Drill
    record: Record
    verdict: Verdict


def page(results: Sequence[Result]) -> str:
    """Return the page for one or more drills.

    Raises:
        ValueError: ``results`` is empty.
    """
    if not results:
        raise ValueError("a report needs at least one result")
    one = results[0] if len(results) == 1 else None
    title = one.drill.title if one else f"{len(results)} failover drills"
    passed = sum(each.verdict.passed for each in results)
    verdict = _outcome(one.verdict) if one else _badge(passed == len(results), f"{passed} of {len(results)} passed")
    style = files("tkdb_ops.drills").joinpath("report.css").read_text("utf-8")
    first = results[0].record
    about = f"{_when(first.began)} · {escape(first.target)} · seed {first.seed}"
    body = "".join(_section(each, alone=one is not None) for each in results)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · tkdb</title><style>{style}</style></head><body><main>"
        f'<header class="top"><p class="kicker">tkdb failover drill</p><h1>{escape(title)}</h1>'
        f'<p class="about">{verdict}<span>{about}</span></p></header>'
        f"{'' if one else _summary(results)}{body}{_footer(first)}</main></body></html>\n"
    )


def _section(result: Result, *, alone: bool) -> str:
    record, verdict = result.record, result.verdict
    heading = (
        f'<p class="lead">{escape(result.drill.shows)}</p>'
        if alone
        else f'<h2 id="{escape(record.drill)}">{escape(result.drill.title)} {_outcome(verdict)}</h2>'
        f'<p class="lead">{escape(result.drill.shows)}</p>'
    )
    return (
        f'<section class="drill">{heading}{_tiles(verdict.findings)}'
        f'<figure class="chart"><div class="scroll">{draw(record)}</div></figure>'
        f'<div class="columns"><div><h3>What happened</h3>{_events(record)}</div>'
        f"<div><h3>Objectives</h3>{_objectives(verdict.findings)}</div></div>"
        f"{_remarks(result)}{_latencies(verdict.figures.latencies)}{_audits(record)}"
        f'<p class="again">Again: <code>{escape(record.again)}</code></p></section>'
    )


def _summary(results: Sequence[Result]) -> str:
    rows = "".join(
        f'<tr><td><a href="#{escape(each.record.drill)}">{escape(each.record.drill)}</a></td>'
        f'<td class="wide">{escape(each.drill.title)}</td>'
        + "".join(_cell(_finding(each.verdict.findings, name)) for name in _TILES)
        + f"<td>{_outcome(each.verdict)}</td></tr>"
        for each in results
    )
    names = "".join(f"<th>{escape(_finding(results[0].verdict.findings, name).name)}</th>" for name in _TILES)
    return (
        '<section class="summary"><div class="scroll"><table class="numbers">'
        f'<thead><tr><th>drill</th><th class="wide">fault</th>{names}<th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _tiles(findings: Sequence[ObjectiveFinding]) -> str:
    tiles = "".join(
        f'<div class="tile {"met" if each.met else "missed"}"><b>{_measured(each)}</b><span>{escape(each.name)}</span>'
        f"<i>{_limit(each)}</i></div>"
        for each in (_finding(findings, name) for name in _TILES)
    )
    return f'<div class="tiles">{tiles}</div>'


def _events(record: Record) -> str:
    rows = "".join(
        f'<li class="{event.what}"><b>{number}</b><time>{event.at_ms / 1000:.1f} s</time>'
        f"<span>{escape(event.text)}</span></li>"
        for number, event in enumerate(notable(record), 1)
    )
    return f'<ol class="events">{rows}</ol>'


def _objectives(findings: Iterable[ObjectiveFinding]) -> str:
    rows = "".join(
        f'<tr class="{"met" if each.met else "missed"}"><td>{escape(each.name)}</td><td>{_limit(each)}</td>'
        f"<td><b>{_measured(each)}</b></td><td>{'✓' if each.met else '✗'}</td></tr>"
        for each in findings
    )
    return (
        '<table class="numbers objectives"><thead><tr><th>objective</th><th>at most</th><th>measured</th><th></th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _remarks(result: Result) -> str:
    figures, record = result.verdict.figures, result.record
    remarks = [
        f"{figures.calls:,} calls, {figures.acknowledged:,} writes acknowledged",
        _after("detected", figures.detected_ms),
        _after("another machine was primary", figures.took_over_ms),
        _after("callers without a fresh machine were refused", figures.refused_ms),
        f"tokens revoked in the fault: refused everywhere in {format_value('_ms', figures.revoked_in_fault_ms)}, p99"
        if figures.revoked_in_fault_ms is not None
        else "",
        figures.old_primary,
        f"published bound: {record.bound_ms / 1000:g} s",
        f"scheduling delay of the machine that ran the drill: {record.delay}" if record.delay.samples else "",
    ]
    return "<ul class=remarks>" + "".join(f"<li>{escape(each)}</li>" for each in remarks if each) + "</ul>"


def _after(what: str, after_ms: int | None) -> str:
    return "" if after_ms is None else f"{what} {format_value('_ms', after_ms)} after the fault began"


def _latencies(latencies: Sequence[Latency]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.phase)}</td><td>{escape(each.region)}</td><td>{escape(each.kind)}</td><td>{each.calls:,}</td>"
        f'<td class="{"missed" if each.failed else ""}">{each.failed:,}</td>'
        f"<td>{_ms(each.p50_ms)}</td><td>{_ms(each.p99_ms)}</td><td>{_ms(each.longest_ms)}</td></tr>"
        for each in latencies
    )
    return (
        "<details><summary>Calls by phase, region and kind</summary><div class=scroll><table class=numbers>"
        "<thead><tr><th>phase</th><th>from</th><th>kind</th><th>calls</th><th>failed</th><th>p50</th><th>p99</th>"
        f"<th>longest</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _audits(record: Record) -> str:
    regions = {machine.id: machine.region for machine in record.machines}
    words = {True: "passes its audit", False: "does not pass its audit", None: "wasn't audited"}
    rows = "".join(
        f'<tr><td><i class="dot {series(record.machines, each.machine)}"></i>{escape(each.machine)}</td>'
        f"<td>{escape(regions.get(each.machine, ''))}</td>"
        f'<td>{each.checked:,}</td><td class="{"missed" if each.accepted or each.missing else ""}">'
        f'{len(each.accepted) + len(each.missing)}</td><td class="{"missed" if each.sound is False else ""}">'
        f"{words[each.sound]}{escape(': ' + each.said if each.said else '')}</td></tr>"
        for each in record.audits
    )
    return (
        "<details><summary>The final check of each machine</summary><div class=scroll><table class=numbers>"
        "<thead><tr><th>machine</th><th>region</th><th>acknowledged writes checked</th><th>missing</th>"
        "<th>journal</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div></details>"
    )


def _footer(record: Record) -> str:
    versions = " · ".join(f"{escape(name)} {escape(number)}" for name, number in record.versions.items())
    machines = ", ".join(escape(each.region) for each in record.machines)
    callers = ", ".join(map(escape, record.callers))
    return (
        f"<footer><p>Machines in {machines}; callers in {callers}. "
        "All times are from the clock of the machine that ran the drill.</p>"
        f"<p>{versions}</p></footer>"
    )


def _outcome(verdict: Verdict) -> str:
    word = "pass" if verdict.passed else "not measurable here" if verdict.unmeasurable else "fail"
    return _badge(verdict.passed, word)


def _badge(passed: bool, word: str) -> str:
    return f'<span class="badge {"pass" if passed else "fail"}">{escape(word)}</span>'


def _finding(findings: Iterable[ObjectiveFinding], objective: str) -> ObjectiveFinding:
    return next(each for each in findings if each.objective == objective)


def _cell(finding: ObjectiveFinding) -> str:
    return f'<td class="{"" if finding.met else "missed"}">{_measured(finding)}</td>'


def _measured(finding: ObjectiveFinding) -> str:
    return _NONE if finding.measured is None else format_value(finding.objective, finding.measured)


def _limit(finding: ObjectiveFinding) -> str:
    return "none" if finding.limit == 0 else f"≤ {format_value(finding.objective, finding.limit)}"


def _ms(value: int | None) -> str:
    return _NONE if value is None else f"{value:,} ms"


def _when(began: str) -> str:
    return escape(began.replace("T", " ").replace("Z", " UTC"))
