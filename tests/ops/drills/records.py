"""Records written by hand: a drill that passes, and functions that change it for tests."""

from __future__ import annotations

from typing import Any

import msgspec

from tkdb_ops.drills.record import (
    Audit,
    Blind,
    CallKind,
    CallOutcome,
    CallRecord,
    Event,
    MachineRecord,
    Observation,
    Record,
    WriteRecord,
)

FAULT_MS, HEALED_MS, SETTLED_MS, END_MS = 10_000, 20_000, 21_500, 30_000
BOUND_MS = 5_000
CALLERS = ("sin", "lhr")
MACHINES = (MachineRecord("m-iad", "iad"), MachineRecord("m-ams", "ams"), MachineRecord("m-syd", "syd"))
KILLED = "m-iad"
NEXT = "m-ams"


def good() -> Record:
    """Return a record: the primary is killed at 10 s, another leads from 18 s on, and the old one returns at 21 s."""
    calls = [
        CallRecord(at_ms + offset, region, kind, took_ms, CallOutcome.OK, token=token)
        for region, took_ms in (("sin", 95), ("lhr", 20))
        for at_ms in range(0, END_MS, 500)
        for offset, kind, token in (
            (0, CallKind.VERIFY, 1),
            (100, CallKind.FIRST, at_ms + 1_000),
            (200, CallKind.MINT, -1),
        )
    ]
    writes = [WriteRecord(2_000, "sin", 2_200, token=2), WriteRecord(2_500, "lhr", 2_600, organization="acme")]
    writes += [WriteRecord(11_000, "sin", 18_300, token=3), WriteRecord(22_000, "sin", 22_200, token=4)]
    for write in writes:
        acknowledged_ms = write.acknowledged_ms or 0
        if write.token >= 0:
            calls += [
                CallRecord(acknowledged_ms, each, CallKind.VERIFY, 300, CallOutcome.DENIED, token=write.token)
                for each in CALLERS
            ]
    calls += [
        CallRecord(at_ms, "sin", CallKind.LOOK, 95, CallOutcome.OK, by="m-syd") for at_ms in range(0, END_MS, 500)
    ]
    return Record(
        drill="primary-killed", target="lab", seed=41, began="2026-11-26T17:00:00Z", versions={"tkdb": "0.1.0"},
        bound_ms=BOUND_MS, machines=MACHINES, callers=CALLERS,
        fault_ms=FAULT_MS, healed_ms=HEALED_MS, settled_ms=SETTLED_MS, end_ms=END_MS,
        again="tkdb drill run primary-killed --seed 41",
        calls=tuple(sorted(calls, key=lambda call: call.at_ms)), writes=tuple(writes),
        events=(
            Event(0, "phase", "warm up"),
            Event(FAULT_MS, "fault", "kill m-iad"),
            Event(HEALED_MS, "heal", "start m-iad"),
        ),
        sights=tuple(_sights()),
        audits=tuple(Audit(each.id, checked=4, sound=True) for each in MACHINES),
    )  # fmt: skip


def _sights() -> list[Observation]:
    sights = []
    for at_ms in range(0, END_MS, 500):
        if at_ms < FAULT_MS:
            sights.append(Observation(at_ms, KILLED, "ok", "primary", 10, 1, 100))
        elif at_ms < 21_000:
            sights.append(Observation(at_ms, KILLED, "down"))
        else:
            sights.append(Observation(at_ms, KILLED, "ok", "replica", 12, 2, 200))
        leads = at_ms >= 18_000
        sights.append(Observation(at_ms, NEXT, "ok", "primary" if leads else "replica", 11, 2 if leads else 1, 200))
        sights.append(Observation(at_ms, "m-syd", "ok", "replica", 11, 2 if leads else 1, 200))
    return sights


def changed(record: Record, **fields: Any) -> Record:
    """Return the record with other fields."""
    return msgspec.structs.replace(record, **fields)


def with_calls(record: Record, *calls: CallRecord) -> Record:
    """Return the record with more calls."""
    return changed(record, calls=tuple(sorted((*record.calls, *calls), key=lambda call: call.at_ms)))


def blinded(record: Record, *callers: str) -> Record:
    """Return the record as if these callers could reach no fresh machine during the fault."""
    return changed(record, blind=(Blind(FAULT_MS, HEALED_MS, callers),))
