"""The verdict contains each missed objective, and none for a drill that went well."""

from __future__ import annotations

import msgspec
import pytest

from tests.ops.drills.records import (
    BOUND_MS,
    CALLERS,
    END_MS,
    FAULT_MS,
    HEALED_MS,
    KILLED,
    NEXT,
    blinded,
    changed,
    good,
    with_calls,
)
from tkdb_ops.drills.figures import measure
from tkdb_ops.drills.objectives import ALWAYS, USUAL, Objectives
from tkdb_ops.drills.record import CallKind, CallOutcome, CallRecord, Observation, Record, WriteRecord
from tkdb_ops.drills.verdict import judge


def missed(record: Record) -> set[str]:
    return {finding.objective for finding in judge(record, Objectives()).findings if not finding.met}


def test_a_drill_that_went_well_passes() -> None:
    verdict = judge(good(), Objectives())
    assert verdict.passed, verdict.findings
    figures = verdict.figures
    assert (figures.writes_back_ms, figures.longest_read_ms, figures.reads_back_ms) == (7_300, 300, 95)
    assert (figures.took_over_ms, figures.detected_ms) == (8_000, 8_000)
    assert (figures.revoked_p99_ms, figures.revoked_in_fault_ms) == (300, 300)
    assert figures.old_primary == "m-iad came back as a replica, and follows epoch 2"


def test_every_objective_has_a_finding() -> None:
    assert {finding.objective for finding in judge(good(), Objectives()).findings} == {*USUAL, *ALWAYS}
    assert {*USUAL, *ALWAYS} == set(Objectives.__struct_fields__)


READ = CallRecord(12_000, "sin", CallKind.VERIFY, 90, CallOutcome.OK, token=1)


@pytest.mark.parametrize("outcome", [CallOutcome.UNAVAILABLE, CallOutcome.STALE, CallOutcome.REFUSED])
@pytest.mark.parametrize("at_ms", [1_000, 15_000, 25_000])
def test_a_read_without_an_answer_is_a_failed_read_in_every_phase(outcome: CallOutcome, at_ms: int) -> None:
    failed = msgspec.structs.replace(READ, at_ms=at_ms, outcome=outcome)
    assert missed(with_calls(good(), failed)) >= {"failed_reads"}


def test_a_slow_read_misses_its_objective() -> None:
    assert missed(with_calls(good(), msgspec.structs.replace(READ, took_ms=2_001))) == {"longest_read_ms"}


def test_reads_are_back_once_no_read_fails_in_any_region() -> None:
    failing = [
        CallRecord(at_ms, "lhr", CallKind.MINT, 10, CallOutcome.UNAVAILABLE)
        for at_ms in range(FAULT_MS, FAULT_MS + 3_001, 100)
    ]
    record = with_calls(good(), *failing)
    assert missed(record) == {"failed_reads", "reads_back_ms"}
    assert 3_000 < (measure(record).reads_back_ms or 0) < 3_600


def test_reads_that_are_never_answered_again_are_not_back() -> None:
    record = good()
    silent = [
        msgspec.structs.replace(call, outcome=CallOutcome.UNAVAILABLE)
        if call.region == "lhr" and call.at_ms >= FAULT_MS
        else call
        for call in record.calls
    ]
    assert {"reads_back_ms", "failed_reads"} <= missed(changed(record, calls=tuple(silent)))


def test_a_late_write_and_an_unacknowledged_write_miss_their_objective() -> None:
    late = WriteRecord(11_000, "lhr", 26_001, organization="late")
    assert missed(changed(good(), writes=(*good().writes, late))) == {"writes_back_ms"}
    never = WriteRecord(END_MS - 15_001, "lhr", None, organization="never")
    assert missed(changed(good(), writes=(*good().writes, never))) == {"writes_back_ms"}


def test_a_revoked_token_accepted_after_the_bound_is_a_stale_accept() -> None:
    acknowledged_ms = good().writes[0].acknowledged_ms or 0
    in_time = msgspec.structs.replace(READ, at_ms=acknowledged_ms + BOUND_MS, token=2)
    assert missed(with_calls(good(), in_time)) == set()
    late = msgspec.structs.replace(in_time, at_ms=in_time.at_ms + 1)
    assert missed(with_calls(good(), late)) == {"stale_accepts"}


def test_a_denied_token_without_a_revocation_is_a_wrong_denial() -> None:
    assert missed(with_calls(good(), msgspec.structs.replace(READ, outcome=CallOutcome.DENIED))) == {"wrong_denials"}
    early = msgspec.structs.replace(READ, at_ms=1_000, token=2, outcome=CallOutcome.DENIED)
    assert missed(with_calls(good(), early)) == {"wrong_denials"}


def test_a_write_that_a_machine_lacks_at_the_end_is_lost() -> None:
    first, *others = good().audits
    revived = msgspec.structs.replace(first, accepted=(2,))
    assert missed(changed(good(), audits=(revived, *others))) == {"lost_writes"}
    forgotten = msgspec.structs.replace(first, missing=("acme",))
    assert missed(changed(good(), audits=(forgotten, *others))) == {"lost_writes"}


def test_a_journal_that_fails_its_audit_is_unsound_and_an_unaudited_one_is_not() -> None:
    first, *others = good().audits
    assert missed(changed(good(), audits=(msgspec.structs.replace(first, sound=False), *others))) == {
        "unsound_journals"
    }
    assert missed(changed(good(), audits=(msgspec.structs.replace(first, sound=None), *others))) == set()


def test_a_machine_that_does_not_come_back_fails_the_drill() -> None:
    assert missed(changed(good(), undone=("m-iad doesn't pass its check",))) == {"undone_steps"}


def test_two_primaries_in_one_epoch_are_two_writers() -> None:
    usurper = Observation(19_000, "m-syd", "ok", "primary", 11, 2, 100)
    assert missed(changed(good(), sights=(*good().sights, usurper))) == {"two_writers"}


def test_a_revocation_that_reaches_a_region_late_misses_its_objective() -> None:
    record = good()
    slow = [
        msgspec.structs.replace(call, took_ms=1_001) if call.token == 4 and call.region == "lhr" else call
        for call in record.calls
    ]
    assert missed(changed(record, calls=tuple(slow))) == {"revoked_p99_ms"}


def test_a_late_revocation_during_the_fault_is_measured_separately() -> None:
    record = good()
    slow = [msgspec.structs.replace(call, took_ms=3_000) if call.token == 3 else call for call in record.calls]
    assert missed(changed(record, calls=tuple(slow))) == {"longest_read_ms"}
    assert measure(changed(record, calls=tuple(slow))).revoked_in_fault_ms == 3_000


def test_a_revocation_that_a_region_never_denied_misses_its_objective() -> None:
    record = good()
    unseen = tuple(call for call in record.calls if call.outcome is not CallOutcome.DENIED or call.region != "lhr")
    assert missed(changed(record, calls=unseen)) == {"revoked_p99_ms"}


class TestBlindCallers:
    """A caller that reaches only machines without the object store must be refused once the bound has passed."""

    def refusals(self, *callers: str) -> list[CallRecord]:
        return [
            CallRecord(at_ms, region, CallKind.VERIFY, 50, CallOutcome.STALE, token=1)
            for region in callers
            for at_ms in range(FAULT_MS + BOUND_MS, HEALED_MS, 500)
        ]

    def dark(self, *callers: str) -> Record:
        """Return the good record with refusals for these callers once the bound has passed."""
        record = blinded(good(), *callers)
        kept = [
            call
            for call in record.calls
            if call.region not in callers or not FAULT_MS + BOUND_MS < call.at_ms < HEALED_MS or call.token == 3
        ]
        return with_calls(changed(record, calls=tuple(kept)), *self.refusals(*callers))

    def test_their_refusals_are_not_failures_and_recovery_counts_from_the_end(self) -> None:
        record = self.dark(*CALLERS)
        assert missed(record) == set()
        figures = measure(record)
        assert figures.refused_ms == BOUND_MS + 50
        assert figures.reads_back_ms == 95

    def test_another_callers_failures_count(self) -> None:
        assert "failed_reads" in missed(with_calls(self.dark("sin"), *self.refusals("lhr")))

    def test_an_accept_after_the_bound_is_a_blind_accept_without_any_revocation(self) -> None:
        blind = CallRecord(FAULT_MS + BOUND_MS + 1, "sin", CallKind.VERIFY, 50, CallOutcome.OK, token=1)
        assert missed(with_calls(self.dark("sin"), blind)) == {"blind_accepts"}
        inside = msgspec.structs.replace(blind, at_ms=FAULT_MS + BOUND_MS)
        assert missed(with_calls(self.dark("sin"), inside)) == set()

    def test_an_answer_after_the_blind_span_is_no_blind_accept(self) -> None:
        late = CallRecord(HEALED_MS - 1_000, "sin", CallKind.VERIFY, 1_000, CallOutcome.OK, token=1)
        assert missed(with_calls(self.dark("sin"), late)) == set()


def test_a_record_without_measurements_does_not_pass() -> None:
    record = changed(good(), calls=(), writes=(), audits=())
    assert missed(record) >= {"failed_reads", "longest_read_ms", "writes_back_ms", "lost_writes", "stale_accepts"}


def test_the_fate_of_the_old_primary_is_described() -> None:
    stayed = tuple(Observation(at_ms, KILLED, "ok", "primary", 10, 1, 100) for at_ms in range(0, END_MS, 500))
    assert measure(changed(good(), sights=stayed)).old_primary == f"{KILLED} stayed primary"
    gone = tuple(each for each in good().sights if each.machine != KILLED or each.at_ms < HEALED_MS)
    assert measure(changed(good(), sights=gone)).old_primary == f"{KILLED} is down at the end"
    again = (*good().sights, Observation(END_MS, KILLED, "ok", "primary", 12, 3, 100))
    assert measure(changed(good(), sights=again)).old_primary == f"{KILLED} is primary again, in epoch 3"
    assert NEXT != KILLED


def test_a_fault_is_detected_when_another_machine_answers() -> None:
    look = [call for call in good().calls if call.kind is not CallKind.LOOK]
    looks = [
        CallRecord(at_ms, "sin", CallKind.LOOK, 95, CallOutcome.OK, by="m-syd" if at_ms < FAULT_MS + 400 else "m-ams")
        for at_ms in range(0, END_MS, 200)
    ]
    assert measure(with_calls(changed(good(), calls=tuple(look)), *looks)).detected_ms == 495
