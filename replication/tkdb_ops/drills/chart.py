"""The chart of one drill over time: latency by region, writes, the machine that served each region, and each machine's
state. Pure.

All rows share one time axis, so a cause is directly above its effect. Colours are CSS variables of the page, so one
drawing works for light and dark screens and for paper.

>>> machines = (MachineRecord("m", "syd"),)
>>> record = Record("gone", "lab", 1, "2026-11-26T17:00:00Z", {}, 5_000, machines, ("sin",), 0, 0, 0, 9)
>>> svg = draw(record)
>>> svg.startswith("<svg") and svg.endswith("</svg>")
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from math import log10
from statistics import median
from typing import Final

from tkdb_ops.drills.record import CallKind, CallRecord, Event, MachineRecord, Observation, Record

WIDTH: Final = 1_000
_LEFT: Final = 108
_RIGHT: Final = 12
_TOP: Final = 34
_PANEL: Final = 74
_ROW: Final = 18
_GAP: Final = 14
_HEAD: Final = 22
_BUCKET_MS: Final = 500
_LATENCY_MS: Final = (1, 10_000)
_TICKS_MS: Final = ((10, "10 ms"), (100, "100 ms"), (1_000, "1 s"), (10_000, "10 s"))
_HATCH: Final = (
    '<defs><pattern id="{0}" width="6" height="6" patternTransform="rotate(45)" patternUnits="userSpaceOnUse">'
    '<line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>'
)
_SERIES: Final = 6
"""The number of colours for machines. If there are more machines, colours repeat."""


def draw(record: Record) -> str:
    """Return the chart of a record, as SVG."""
    canvas = _Canvas(record)
    canvas.latencies()
    canvas.writes()
    canvas.served()
    canvas.machines()
    return canvas.svg()


def series(machines: Sequence[MachineRecord], machine: str) -> str:
    """Return the CSS class of a machine's colour."""
    names = [each.id for each in machines]
    return f"s{names.index(machine) % _SERIES}" if machine in names else "s-none"


class _Canvas:
    """A canvas with rows below each other."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._hatch = f"hatch-{escape(record.drill)}"  # A page may contain several charts, and ids must differ.
        self._span_ms = max(1, record.end_ms)
        self._y = float(_TOP)
        self._parts: list[str] = []

    def svg(self) -> str:
        """Return the whole chart."""
        height = self._y + 6
        label = escape(f"{record_title(self._record)}: latency, writes, serving machines and their states, over time")
        body = "".join([*self._parts, *self._axis(height), *self._marks(height)])
        return (
            f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}" '
            f'xmlns="http://www.w3.org/2000/svg">{_HATCH.format(self._hatch)}{body}</svg>'
        )

    def latencies(self) -> None:
        """Add a panel for each region of callers: median and longest duration of reads, and the failed reads."""
        self._heading("Duration of reads, by the callers' region", "median and longest in each half second")
        reads = [call for call in self._record.calls if call.kind.reads]
        for region in self._record.callers:
            own = [call for call in reads if call.region == region]
            self._label(region, self._y + _PANEL / 2)
            self._panel(own)
            self._y += _PANEL + 8
        self._y += _GAP - 8

    def writes(self) -> None:
        """Add each write as a line, from its first attempt to its acknowledgement."""
        self._heading("Writes, from the first attempt to the acknowledgement", "")
        rows = sorted(self._record.writes, key=lambda each: each.asked_ms)
        lanes = 6
        height = lanes * 5 + 4
        self._label(f"{sum(each.acknowledged_ms is not None for each in rows)} acked", self._y + height / 2)
        self._parts.append(f'<rect class="panel" x="{_LEFT}" y="{self._y:.1f}" width="{_inner()}" height="{height}"/>')
        for number, write in enumerate(rows):
            y = self._y + 4 + number % lanes * 5
            done_ms = write.acknowledged_ms
            end_ms = self._span_ms if done_ms is None else done_ms
            said = "never" if done_ms is None else f"{(done_ms - write.asked_ms) / 1000:.2f} s"
            kind = "lost" if done_ms is None else ("slow" if done_ms - write.asked_ms > 2_000 else "write")
            x = self._x(write.asked_ms)
            end = max(self._x(end_ms), x + 2)
            self._parts.append(
                f'<line class="{kind}" x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}">'
                f"<title>{escape(said)}</title></line>"
            )
        self._y += height + _GAP

    def served(self) -> None:
        """Add a row for each region of callers: the machine that answered it."""
        machines = self._record.machines
        self._heading("Machine that served each region", "by machine")
        self._legend()
        for region in self._record.callers:
            self._label(region, self._y + _ROW / 2)
            looks = [call for call in self._record.calls if call.kind is CallKind.LOOK and call.region == region]
            self._row(_runs(looks, self._span_ms, lambda each: each.by if not each.failed else "nobody"), machines)
            self._y += _ROW + 3
        self._y += _GAP - 3

    def machines(self) -> None:
        """Add a row for each machine: primary, replica, or unhealthy."""
        self._heading("State of each machine", "solid: primary · light: replica · hatched: can't answer · empty: down")
        for machine in self._record.machines:
            self._label(machine.region, self._y + _ROW / 2)
            sights = [each for each in self._record.sights if each.machine == machine.id]
            colour = series(self._record.machines, machine.id)
            for start_ms, end_ms, state in _states(sights, self._span_ms):
                x, width = self._x(start_ms), self._x(end_ms) - self._x(start_ms)
                words = escape(f"{machine.id} {state}, {start_ms / 1000:.1f}-{end_ms / 1000:.1f} s")
                self._parts.append(
                    f'<rect class="{colour} {_class(state)}" x="{x:.1f}" y="{self._y:.1f}" width="{width:.1f}" '
                    f'height="{_ROW}"><title>{words}</title></rect>'
                )
                if _class(state) in ("faulty", "silent"):
                    self._parts.append(
                        f'<rect fill="url(#{self._hatch})" x="{x:.1f}" y="{self._y:.1f}" width="{width:.1f}" '
                        f'height="{_ROW}"/>'
                    )
            self._y += _ROW + 3

    # The parts of the rows.

    def _panel(self, calls: Sequence[CallRecord]) -> None:
        bottom = self._y + _PANEL
        self._parts.append(f'<rect class="panel" x="{_LEFT}" y="{self._y:.1f}" width="{_inner()}" height="{_PANEL}"/>')
        for at_ms, text in _TICKS_MS[:-1]:
            y = self._level(at_ms, bottom)
            self._parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{_LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{text}</text>'
            )
        middles, longests = [], []
        for at_ms, bucket in _buckets(calls):
            answered = [call.took_ms for call in bucket if not call.failed]
            failed = len(bucket) - len(answered)
            x = self._x(at_ms + _BUCKET_MS / 2)
            if answered:
                middles.append((x, self._level(median(answered), bottom)))
                longests.append((x, self._level(max(answered), bottom)))
            if failed:
                height = min(_PANEL - 2, 6 + 3 * failed)
                self._parts.append(
                    f'<rect class="failed" x="{x - 1.5:.1f}" y="{bottom - height:.1f}" width="3" height="{height:.1f}">'
                    f"<title>{failed} failed at {at_ms / 1000:.1f} s</title></rect>"
                )
        gap = self._x(2.5 * _BUCKET_MS) - self._x(0)
        for first, last in _unbroken([x for x, _ in middles], gap):
            middle, longest = middles[first:last], longests[first:last]
            area = [*longest, *reversed(middle)]
            self._parts.append(f'<polygon class="spread" points="{_points(area)}"/>')
            self._parts.append(f'<polyline class="longest" points="{_points(longest)}"/>')
            self._parts.append(f'<polyline class="middle" points="{_points(middle)}"/>')

    def _row(self, runs: Iterable[tuple[int, int, str]], machines: Sequence[MachineRecord]) -> None:
        for start_ms, end_ms, machine in runs:
            x, width = self._x(start_ms), self._x(end_ms) - self._x(start_ms)
            words = escape(f"{machine}, {start_ms / 1000:.1f}-{end_ms / 1000:.1f} s")
            self._parts.append(
                f'<rect class="{series(machines, machine)} served" x="{x:.1f}" y="{self._y:.1f}" width="{width:.1f}" '
                f'height="{_ROW}"><title>{words}</title></rect>'
            )

    def _legend(self) -> None:
        x = float(WIDTH - _RIGHT)
        for machine in reversed(self._record.machines):
            text = f"{machine.region}"
            x -= 10 + 6.6 * len(text)
            self._parts.append(f'<text class="note" x="{x:.1f}" y="{self._y - 8:.1f}">{escape(text)}</text>')
            x -= 13
            colour = series(self._record.machines, machine.id)
            self._parts.append(
                f'<rect class="{colour} served" x="{x:.1f}" y="{self._y - 16:.1f}" width="9" height="9" rx="2"/>'
            )
            x -= 6

    def _axis(self, height: float) -> Iterator[str]:
        """Yield the time axis at the top, and the shaded span of the fault."""
        fault, healed = self._x(self._record.fault_ms), self._x(self._record.healed_ms)
        if healed > fault:
            yield (
                f'<rect class="fault" x="{fault:.1f}" y="{_TOP - 12}" width="{healed - fault:.1f}" '
                f'height="{height - _TOP + 12:.1f}"/>'
            )
        step_s = next(
            each for each in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3_600) if self._span_ms / each <= 12_000
        )
        for at_s in range(0, self._span_ms // 1_000 + 1, step_s):
            x = self._x(at_s * 1_000)
            yield f'<text class="tick" x="{x:.1f}" y="11" text-anchor="middle">{at_s} s</text>'
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="15" y2="18"/>'

    def _marks(self, height: float) -> Iterator[str]:
        """Yield a mark for each event, with the event's number in the list next to the chart."""
        last = -100.0
        for number, event in enumerate(notable(self._record), 1):
            x = self._x(event.at_ms)
            shown = max(x, last + 15)
            last = shown
            yield f'<line class="mark {event.what}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 2}" y2="{height - 4:.1f}"/>'
            yield (
                f'<g class="flag {event.what}"><title>{escape(event.text)}</title>'
                f'<circle cx="{shown:.1f}" cy="{_TOP - 7}" r="7"/>'
                f'<text x="{shown:.1f}" y="{_TOP - 3.8:.1f}" text-anchor="middle">{number}</text></g>'
            )

    def _heading(self, text: str, note: str) -> None:
        self._y += _HEAD
        further = f' <tspan class="note">{escape(note)}</tspan>' if note else ""
        self._parts.append(f'<text class="head" x="{_LEFT}" y="{self._y - 8:.1f}">{escape(text)}{further}</text>')

    def _label(self, text: str, y: float) -> None:
        self._parts.append(f'<text class="label" x="6" y="{y + 4:.1f}">{escape(text)}</text>')

    def _x(self, at_ms: float) -> float:
        return _LEFT + _inner() * min(1.0, max(0.0, at_ms / self._span_ms))

    @staticmethod
    def _level(took_ms: float, bottom: float) -> float:
        low, high = (log10(each) for each in _LATENCY_MS)
        share = (log10(min(_LATENCY_MS[1], max(_LATENCY_MS[0], took_ms))) - low) / (high - low)
        return bottom - 1 - share * (_PANEL - 2)


def notable(record: Record) -> list[Event]:
    """Return the events that are marked in the chart: all events except phases, until the end."""
    return [event for event in record.events if event.what != "phase" and event.at_ms <= record.end_ms]


def record_title(record: Record) -> str:
    """Return the title of the chart."""
    return f"{record.drill} on {record.target}"


def _inner() -> int:
    return WIDTH - _LEFT - _RIGHT


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _buckets(calls: Sequence[CallRecord]) -> Iterator[tuple[int, list[CallRecord]]]:
    ordered = sorted(calls, key=lambda each: each.at_ms)
    for number, bucket in groupby(ordered, key=lambda each: each.at_ms // _BUCKET_MS):
        yield number * _BUCKET_MS, list(bucket)


def _unbroken(places: Sequence[float], gap: float) -> Iterator[tuple[int, int]]:
    """Yield the first and the end index of each stretch without a gap. A line across a gap would show invented values.

    >>> list(_unbroken([1, 2, 9, 10], 3)), list(_unbroken([], 3))
    ([(0, 2), (2, 4)], [])
    """
    first = 0
    for number in range(1, len(places) + 1):
        if number == len(places) or places[number] - places[number - 1] > gap:
            yield first, number
            first = number


def _runs(
    looks: Sequence[CallRecord], span_ms: int, name: Callable[[CallRecord], str]
) -> Iterator[tuple[int, int, str]]:
    """Yield each span in which the same machine answered: its start, its end and the machine."""
    ordered = sorted(looks, key=lambda each: each.end_ms)
    yield from _joined([(each.end_ms, name(each)) for each in ordered], span_ms)


def _states(sights: Sequence[Observation], span_ms: int) -> Iterator[tuple[int, int, str]]:
    """Yield each span in which a machine was in the same state: its start, its end and the state."""
    yield from _joined([(each.at_ms, each.role if each.health == "ok" else each.health) for each in sights], span_ms)


def _joined(moments: Sequence[tuple[int, str]], span_ms: int) -> Iterator[tuple[int, int, str]]:
    """Yield each span with the same value. The first observed value counts from the beginning."""
    start_ms, was = 0, ""
    for at_ms, what in moments:
        if what != was and at_ms < span_ms:
            if was:
                yield start_ms, at_ms, was
                start_ms = at_ms
            was = what
    if was:
        yield start_ms, span_ms, was


def _class(state: str) -> str:
    return state if state in ("primary", "replica", "down", "silent", "faulty") else "down"
