"""On a machine that is too busy, a drill that misses only objectives in time is not measurable; others still fail."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.processes import quick
from tests.ops.drills.records import changed, good, with_calls
from tkdb.cli import drill_progress
from tkdb_ops.drills import history, verdict
from tkdb_ops.drills.catalogue import find
from tkdb_ops.drills.delay import DelaySampler
from tkdb_ops.drills.objectives import Objectives
from tkdb_ops.drills.record import Audit, CallKind, CallOutcome, CallRecord, Delay, Record
from tkdb_ops.drills.report import Result, page
from tkdb_ops.drills.verdict import judge

QUIET, BUSY = Delay(1_000, 3, 40), Delay(1_000, 350, 2_200)
SLOW = CallRecord(12_000, "sin", CallKind.VERIFY, 2_500, CallOutcome.OK, token=1)
LOST = (Audit("m-iad", missing=("acme",), checked=4, sound=True),)


def result(record: Record) -> Result:
    return Result(find(record.drill), record, judge(record, Objectives()))


@pytest.mark.parametrize(
    ("record", "delay", "passed", "failed", "unmeasurable"),
    [
        (good(), QUIET, True, False, False),
        (good(), BUSY, True, False, False),
        (with_calls(good(), SLOW), QUIET, False, True, False),
        (with_calls(good(), SLOW), BUSY, False, False, True),
        (changed(good(), undone=("m-iad didn't come back",)), BUSY, False, False, True),
        (changed(good(), audits=LOST), BUSY, False, True, False),
        (changed(with_calls(good(), SLOW), audits=LOST), BUSY, False, True, False),
    ],
)
def test_a_delay_excuses_only_objectives_in_time(
    record: Record, delay: Delay, passed: bool, failed: bool, unmeasurable: bool
) -> None:
    found = judge(changed(record, delay=delay), Objectives())
    assert (found.passed, found.failed, found.unmeasurable) == (passed, failed, unmeasurable)


def test_without_the_rule_a_delay_would_excuse_a_lost_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "TIMED", frozenset(Objectives.__struct_fields__))
    assert judge(changed(good(), audits=LOST, delay=BUSY), Objectives()).unmeasurable


def test_the_outputs_name_a_drill_that_was_not_measurable() -> None:
    shown = result(changed(with_calls(good(), SLOW), delay=BUSY))
    document = msgspec.to_builtins(drill_progress.document(shown))
    assert document["passed"] is None
    assert document["delay"] == {"samples": 1_000, "p99_ms": 350, "longest_ms": 2_200}
    assert history.Run.from_record(shown.record, shown.verdict).passed is None
    assert "not measurable here" in page([shown])
    assert "at least 350 ms late, the latest 2,200 ms" in page([shown])
    text = str(list(drill_progress.summary(shown)))
    assert "not measurable here, because this machine is too busy" in text


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([changed(good(), delay=BUSY)], 0),
        ([changed(with_calls(good(), SLOW), delay=BUSY)], 3),
        ([changed(with_calls(good(), SLOW), delay=BUSY), changed(with_calls(good(), SLOW), delay=QUIET)], 1),
    ],
)
def test_the_exit_code_is_3_if_a_drill_was_not_measurable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, records: list[Record], code: int
) -> None:
    async def run(*_: Any) -> Any:
        return [result(each) for each in records], False

    monkeypatch.setattr(drill_progress, "run", run)
    monkeypatch.setattr("tkdb.cli.drill._possible", lambda target: [find("primary-killed") for _ in records])
    ran = quick("drill", "run", "all", "--json", "--folder", str(tmp_path))
    assert ran.code == code, ran.err
    assert len(json.loads(ran.out)["drills"]) == len(records)


def test_the_sampler_measures_how_late_it_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = time.sleep
    monkeypatch.setattr("tkdb_ops.drills.delay.time.sleep", lambda seconds: slept(seconds + 0.15))
    with DelaySampler() as sampler:
        while sampler.delay.samples < 2:
            slept(0.01)
    assert sampler.delay.p99_ms >= 150
    assert sampler.delay.is_too_long
