"""Records written by hand: a drill that went well, to be spoilt in one way at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from tkdb_ops.drills.record import Audit, Blind, Call, Event, Kind, Machine, Outcome, Record, Sight, Write

FAULT_MS, HEALED_MS, SETTLED_MS, END_MS = 10_000, 20_000, 21_500, 30_000
BOUND_MS = 5_000
CALLERS = ("sin", "lhr")
MACHINES = (Machine("m-iad", "iad"), Machine("m-ams", "ams"), Machine("m-syd", "syd"))
KILLED = "m-iad"
NEXT = "m-ams"


def good() -> Record:
    """A primary was killed at 10 s, another led from 18 s on, the old one came back at 21 s."""
    calls = [
        Call(at_ms + offset, region, kind, took_ms, Outcome.OK, token=token)
        for region, took_ms in (("sin", 95), ("lhr", 20))
        for at_ms in range(0, END_MS, 500)
        for offset, kind, token in ((0, Kind.VERIFY, 1), (100, Kind.FIRST, at_ms + 1_000), (200, Kind.MINT, -1))
    ]
    writes = [Write(2_000, "sin", 2_200, token=2), Write(2_500, "lhr", 2_600, organization="acme")]
    writes += [Write(11_000, "sin", 18_300, token=3), Write(22_000, "sin", 22_200, token=4)]
    for write in writes:
        acknowledged_ms = write.acknowledged_ms or 0
        if write.token >= 0:
            calls += [
                Call(acknowledged_ms, each, Kind.VERIFY, 300, Outcome.DENIED, token=write.token) for each in CALLERS
            ]
    calls += [Call(at_ms, "sin", Kind.LOOK, 95, Outcome.OK, by="m-syd") for at_ms in range(0, END_MS, 500)]
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


def _sights() -> list[Sight]:
    sights = []
    for at_ms in range(0, END_MS, 500):
        if at_ms < FAULT_MS:
            sights.append(Sight(at_ms, KILLED, "ok", "primary", 10, 1, 100))
        elif at_ms < 21_000:
            sights.append(Sight(at_ms, KILLED, "down"))
        else:
            sights.append(Sight(at_ms, KILLED, "ok", "replica", 12, 2, 200))
        leads = at_ms >= 18_000
        sights.append(Sight(at_ms, NEXT, "ok", "primary" if leads else "replica", 11, 2 if leads else 1, 200))
        sights.append(Sight(at_ms, "m-syd", "ok", "replica", 11, 2 if leads else 1, 200))
    return sights


def changed(record: Record, **fields: Any) -> Record:
    """Return the record with other fields."""
    return msgspec.structs.replace(record, **fields)


def with_calls(record: Record, *calls: Call) -> Record:
    """Return the record with more calls."""
    return changed(record, calls=tuple(sorted((*record.calls, *calls), key=lambda call: call.at_ms)))


def blinded(record: Record, *callers: str) -> Record:
    """Return the record as though these callers had reached nobody fresh while the fault lasted."""
    return changed(record, blind=(Blind(FAULT_MS, HEALED_MS, callers),))
