"""The report shows all measurements, loads nothing, and is safe to open whatever text a machine sent."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import msgspec
import pytest

from tests.ops.drills.records import blinded, changed, good, with_calls
from tkdb_ops.drills.catalogue import DRILLS, find
from tkdb_ops.drills.chart import draw
from tkdb_ops.drills.objectives import Objectives
from tkdb_ops.drills.record import Audit, CallKind, CallOutcome, CallRecord, Event, MachineRecord, Observation, Record
from tkdb_ops.drills.report import Result, page
from tkdb_ops.drills.verdict import judge

HOSTILE = '<script>alert("x")</script>&\'" --></style>'


def result(record: Record) -> Result:
    return Result(find(record.drill), record, judge(record, Objectives()))


class ParsedPage(HTMLParser):
    """A page as a browser parses it: its tags, its links and its text. Every tag must be closed."""

    VOID = ("meta", "br", "rect", "line", "circle", "polyline", "polygon")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_page_contains_the_verdict_each_objective_and_the_command_to_repeat() -> None:
    parsed = ParsedPage(page([result(good())]))
    for text in (
        "The primary is killed",
        "pass",
        "7.3 s",
        "kill m-iad",
        "tkdb drill run primary-killed --seed 41",
        "0.1.0",
    ):
        assert text in parsed.text
    for finding in judge(good(), Objectives()).findings:
        assert finding.name in parsed.text


def test_a_missed_objective_is_marked_and_the_verdict_is_fail() -> None:
    slow = CallRecord(12_000, "sin", CallKind.VERIFY, 2_500, CallOutcome.OK, token=1)
    html = page([result(with_calls(good(), slow))])
    assert "fail" in ParsedPage(html).text
    assert re.search(r'class="tile missed"><b>2\.5 s', html)


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    html = page([result(good()), result(good())])
    parsed = ParsedPage(html)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(parsed.tags)
    assert all(link.startswith("#") for link in parsed.links)
    assert "url(http" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def hostile() -> Record:
    return changed(
        good(),
        target=HOSTILE,
        again=HOSTILE,
        began=HOSTILE,
        versions={HOSTILE: HOSTILE},
        machines=(MachineRecord(HOSTILE, HOSTILE), *good().machines),
        callers=(HOSTILE, *good().callers),
        events=(Event(5_000, "seen", HOSTILE), Event(6_000, "fault", HOSTILE)),
        sights=(*good().sights, Observation(1_000, HOSTILE, HOSTILE, HOSTILE, fault=HOSTILE)),
        audits=(Audit(HOSTILE, sound=False, said=HOSTILE),),
        calls=(*good().calls, CallRecord(1_000, HOSTILE, CallKind.LOOK, 5, CallOutcome.OK, by=HOSTILE, why=HOSTILE)),
    )


def test_no_text_of_a_machine_becomes_markup() -> None:
    parsed = ParsedPage(page([result(hostile()), result(hostile())]))
    assert "script" not in parsed.tags
    assert HOSTILE in parsed.text


@pytest.mark.parametrize(
    "record",
    [
        good(),
        hostile(),
        blinded(good(), "sin"),
        changed(good(), calls=(), writes=(), sights=(), events=(), audits=()),
        changed(good(), end_ms=0, fault_ms=0, healed_ms=0),
        changed(good(), end_ms=10_000_000),
    ],
    ids=["good", "hostile", "blind", "empty", "no time", "hours"],
)
def test_every_drawing_is_well_formed_and_inside_its_frame(record: Record) -> None:
    drawn = ET.fromstring(draw(record))  # noqa: S314 -- the text is our own
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    for element in drawn.iter():
        for name, limit in (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height), ("y2", height)):
            if name in element.attrib:
                assert 0 <= float(element.attrib[name]) <= limit, ET.tostring(element)


def test_every_drill_of_the_catalogue_can_be_reported() -> None:
    results = [result(msgspec.structs.replace(good(), drill=drill.name)) for drill in DRILLS]
    parsed = ParsedPage(page(results))
    assert f"{len(DRILLS)} of {len(DRILLS)} passed" in parsed.text


def test_a_report_without_results_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one result"):
        page([])
