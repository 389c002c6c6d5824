"""The figures of a record: those that decide the verdict, and those that explain it. Pure.

While a caller can reach no machine that can read the object store (``Record.blind``), the authority has to refuse the
caller. These calls don't count as failed reads, and not for the duration of reads. Calls count again from the end of
that time. A token that is accepted in it, later than the bound allows, is a ``blind_accept``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from math import ceil
from typing import Final

import msgspec

from tkdb_ops.drills.record import Blind, CallKind, CallOutcome, CallRecord, Observation, Record

_QUIET_MS: Final = 1_000
"""A revocation that is acknowledged less than this before the fault counts as one during the fault."""

PHASES: Final = ("before", "during", "after")


class Latency(msgspec.Struct, frozen=True):
    """The calls of one kind from one region in one phase. The times, in ms, are of the answered calls only."""

    phase: str
    region: str
    kind: str
    calls: int
    failed: int
    p50_ms: int | None
    p99_ms: int | None
    longest_ms: int | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The measured figures, each None if there was nothing to measure. The first twelve are as in ``Objectives``.

    Attributes:
        calls: the number of calls.
        reads: the number of verifications and mints.
        acknowledged: the number of acknowledged writes.
        checked: the number of acknowledged writes that each machine was asked about at the end, at least.
        detected_ms: the time from the fault until the first reaction: another machine answered a caller or took over,
            or a caller was refused.
        took_over_ms: the time from the fault until another machine was primary.
        refused_ms: the time until callers without a fresh machine were first refused.
        revoked_in_fault_ms: the same as ``revoked_p99_ms``, for tokens that were revoked during the fault.
        old_primary: the later state of the machine that was primary, in words.
    """

    failed_reads: int
    longest_read_ms: int | None
    reads_back_ms: int | None
    writes_back_ms: int | None
    revoked_p99_ms: int | None
    lost_writes: int
    stale_accepts: int
    blind_accepts: int
    wrong_denials: int
    two_writers: int
    unsound_journals: int
    undone_steps: int
    calls: int
    reads: int
    acknowledged: int
    checked: int
    detected_ms: int | None
    took_over_ms: int | None
    refused_ms: int | None
    revoked_in_fault_ms: int | None
    old_primary: str
    latencies: tuple[Latency, ...]


def measure(record: Record) -> Figures:
    """Return the figures of a record."""
    reads = [call for call in record.calls if call.kind.reads]
    back_ms = {region: _back_ms(record, region) for region in record.callers}
    judged = [call for call in reads if not _excused(record, call, back_ms)]
    calm, shaken = _reaches_ms(record)
    return Figures(
        failed_reads=sum(call.failed for call in judged),
        longest_read_ms=max((call.took_ms for call in judged), default=None),
        reads_back_ms=None if None in back_ms.values() else max(filter(None, back_ms.values()), default=None),
        writes_back_ms=_longest_write_ms(record),
        revoked_p99_ms=percentile(calm, 99),
        lost_writes=len(set(chain.from_iterable((*each.accepted, *each.missing) for each in record.audits))),
        stale_accepts=_stale_accepts(record),
        blind_accepts=_blind_accepts(record),
        wrong_denials=_wrong_denials(record),
        two_writers=_two_writers(record.sights),
        unsound_journals=sum(each.sound is False for each in record.audits),
        undone_steps=len(record.undone),
        calls=len(record.calls),
        reads=len(reads),
        acknowledged=sum(write.acknowledged_ms is not None for write in record.writes),
        checked=min((each.checked for each in record.audits), default=0),
        detected_ms=_detected_ms(record),
        took_over_ms=_took_over_ms(record),
        refused_ms=_refused_ms(record),
        revoked_in_fault_ms=percentile(shaken, 99),
        old_primary=_old_primary(record),
        latencies=tuple(_latencies(record)),
    )


def percentile(values: Iterable[int], percent: int) -> int | None:
    """Return the percentile by nearest rank: ``percent`` of the values don't exceed it. None if there are no values.

    >>> percentile([5, 1, 9], 50), percentile(range(1, 101), 99), percentile([], 99)
    (5, 99, None)
    """
    ordered = sorted(values)
    return ordered[ceil(len(ordered) * percent / 100) - 1] if ordered else None


def phase(record: Record, at_ms: int) -> str:
    """Return the one of ``PHASES`` that contains ``at_ms``."""
    if at_ms < record.fault_ms:
        return "before"
    return "during" if at_ms < record.healed_ms else "after"


def _blind_of(record: Record, region: str) -> Sequence[Blind]:
    return [span for span in record.blind if region in span.callers]


def _excused(record: Record, call: CallRecord, back_ms: dict[str, int | None]) -> bool:
    """Return True if no machine could answer during the call, or reads from its region hadn't recovered since then."""
    grace_ms = back_ms.get(call.region) or 0
    return any(
        call.at_ms < span.to_ms + grace_ms and call.end_ms > span.from_ms for span in _blind_of(record, call.region)
    )


def _back_ms(record: Record, region: str) -> int | None:
    """Return the time until reads from ``region`` were answered and no later read failed; None if none was answered.

    The time counts from the fault, or from the later moment when a machine could answer again.
    """
    since_ms = max([record.fault_ms, *(span.to_ms for span in _blind_of(record, region))])
    later = [each for each in record.calls if each.region == region and each.kind.reads and each.at_ms >= since_ms]
    last_failed_ms = max((call.at_ms for call in later if call.failed), default=since_ms - 1)
    answered = [call.end_ms for call in later if not call.failed and call.end_ms > last_failed_ms]
    return min(answered) - since_ms if answered else None


def _longest_write_ms(record: Record) -> int | None:
    """Return the longest time that a write waited for its acknowledgement, from when a machine could acknowledge it."""
    waits = []
    for write in record.writes:
        done_ms = record.end_ms if write.acknowledged_ms is None else write.acknowledged_ms
        spans = [span for span in _blind_of(record, write.region) if span.from_ms < done_ms]
        since_ms = max([write.asked_ms, *(min(span.to_ms, done_ms) for span in spans if span.to_ms > write.asked_ms)])
        waits.append(done_ms - since_ms)
    return max(waits, default=None)


def _reaches_ms(record: Record) -> tuple[list[int], list[int]]:
    """Return the times from each revocation's acknowledgement until every region had refused the token, as two lists.

    The first list is for revocations outside the fault, the second for those from shortly before the fault until the
    authority had settled.
    """
    denied: dict[int, dict[str, int]] = {}
    for call in record.calls:
        if call.kind.verifies and call.token >= 0 and call.outcome is CallOutcome.DENIED:
            ends = denied.setdefault(call.token, {})
            ends[call.region] = min(call.end_ms, ends.get(call.region, call.end_ms))
    calm: list[int] = []
    shaken: list[int] = []
    for write in record.writes:
        ends = denied.get(write.token, {})
        if write.acknowledged_ms is None or len(ends) < len(record.callers):
            continue
        reach_ms = max(0, max(ends.values()) - write.acknowledged_ms)
        quiet = write.acknowledged_ms + _QUIET_MS < record.fault_ms or write.acknowledged_ms >= record.settled_ms
        (calm if quiet else shaken).append(reach_ms)
    return calm, shaken


def _stale_accepts(record: Record) -> int:
    dead = {write.token: write.acknowledged_ms for write in record.writes if write.token >= 0}
    return sum(
        call.at_ms > done_ms + record.bound_ms
        for call in record.calls
        if call.kind.verifies and call.outcome is CallOutcome.OK and (done_ms := dead.get(call.token)) is not None
    )


def _blind_accepts(record: Record) -> int:
    return sum(
        call.kind.verifies
        and call.outcome is CallOutcome.OK
        and any(
            call.at_ms > span.from_ms + record.bound_ms and call.end_ms < span.to_ms
            for span in _blind_of(record, call.region)
        )
        for call in record.calls
    )


def _wrong_denials(record: Record) -> int:
    asked = {write.token: write.asked_ms for write in record.writes if write.token >= 0}
    return sum(
        call.kind.verifies
        and call.outcome is CallOutcome.DENIED
        and asked.get(call.token, call.end_ms + 1) > call.end_ms
        for call in record.calls
    )


def _two_writers(sights: Iterable[Observation]) -> int:
    leaders: dict[int, set[str]] = {}
    for sight in sights:
        if sight.role == "primary" and sight.epoch is not None:
            leaders.setdefault(sight.epoch, set()).add(sight.machine)
    return sum(len(machines) > 1 for machines in leaders.values())


def _leader(record: Record, before_ms: int) -> Observation | None:
    led = [sight for sight in record.sights if sight.role == "primary" and sight.at_ms <= before_ms]
    return led[-1] if led else None


def _took_over_ms(record: Record) -> int | None:
    first = _leader(record, record.fault_ms)
    for sight in record.sights:
        leads = sight.role == "primary" and sight.at_ms > record.fault_ms
        if leads and first and sight.machine != first.machine and (sight.epoch or 0) > (first.epoch or 0):
            return sight.at_ms - record.fault_ms
    return None


def _refused_ms(record: Record) -> int | None:
    spans = record.blind
    refused = [
        call.end_ms - span.from_ms
        for span in spans
        for call in record.calls
        if call.kind.verifies and call.failed and call.region in span.callers and call.end_ms > span.from_ms
    ]
    return min(refused, default=None)


def _detected_ms(record: Record) -> int | None:
    found = [_took_over_ms(record), _refused_ms(record)]
    looks = sorted(
        (each for each in record.calls if each.kind is CallKind.LOOK and each.by), key=lambda each: each.region
    )
    for _, those in groupby(looks, key=lambda each: each.region):
        usual = ""
        for look in those:
            if look.end_ms <= record.fault_ms or not usual:
                usual = look.by
            elif look.by != usual:
                found.append(look.end_ms - record.fault_ms)
                break
    return min((each for each in found if each is not None), default=None)


def _old_primary(record: Record) -> str:
    """Return, in words, the later state of the machine that was primary when the fault began."""
    first = _leader(record, record.fault_ms)
    if first is None:
        return ""
    later = [sight for sight in record.sights if sight.machine == first.machine and sight.at_ms > record.fault_ms]
    if not later or _took_over_ms(record) is None:
        return f"{first.machine} stayed primary" if later and later[-1].role == "primary" else ""
    last = later[-1]
    if last.health != "ok":
        return f"{first.machine} is {last.health} at the end"
    if last.role == "primary":
        return f"{first.machine} is primary again, in epoch {last.epoch}"
    return f"{first.machine} came back as a replica, and follows epoch {last.epoch}"


def _latencies(record: Record) -> Iterable[Latency]:
    kinds = [kind for kind in CallKind if kind is not CallKind.LOOK]
    grouped: dict[tuple[str, str, CallKind], list[CallRecord]] = {}
    for call in record.calls:
        grouped.setdefault((phase(record, call.at_ms), call.region, call.kind), []).append(call)
    for name in PHASES:
        for region in record.callers:
            for kind in kinds:
                calls = grouped.get((name, region, kind), [])
                if not calls:
                    continue
                took_ms = [call.took_ms for call in calls if not call.failed]
                yield Latency(
                    name, region, kind.value, len(calls), len(calls) - len(took_ms),
                    percentile(took_ms, 50), percentile(took_ms, 99), max(took_ms, default=None),
                )  # fmt: skip
