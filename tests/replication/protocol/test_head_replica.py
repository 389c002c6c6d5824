"""A machine that isn't primary: which heads it accepts, when it is fresh, and when it takes over."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from tests.replication.protocol.harness import FORMER_OWNER, JOURNAL, KEYS, Harness, entries, head_of, place
from tkdb.errors import BrokenHead, NoPrimary, StaleAuthority
from tkdb_replication.bucket.objects import Missing, NotModified, Unknown
from tkdb_replication.protocol import actions, events
from tkdb_replication.protocol.actions import (
    Acknowledge,
    Alarm,
    Apply,
    CutBack,
    Fail,
    Read,
    Remember,
    RestoreBackup,
    Serve,
    Swap,
)
from tkdb_replication.protocol.head import BEGINNING, NOBODY, Checkpoint, Head, decode_head
from tkdb_replication.protocol.reader import Volume
from tkdb_replication.protocol.state_machine import Role

LOG = entries(8)
HEAD = head_of(LOG[:5], recent=2)
LEASE_MS, MARGIN_MS = 9_000, 1_000


def later_head(head: Head, rev: int, **changes: object) -> Head:
    """Return a later head of the same primary."""
    return msgspec.structs.replace(head, rev=rev, attempt=rev.to_bytes(16, "big"), **changes)


def replica(head: Head = HEAD, **settings: object) -> Harness:
    harness = Harness(Volume(journal=JOURNAL), **settings)
    harness.follow(head)
    return harness


# Accepted heads.


def test_a_missing_head_raises_one_alarm() -> None:
    harness = Harness()
    assert [type(action) for action in harness.answer_read(Missing(None))] == [Alarm]
    assert not [action for action in harness.answer_next_read(Missing(None)) if isinstance(action, Alarm)]
    assert "tkdb init" in str(harness.machine.fault)


def test_a_head_of_another_journal_is_refused_and_nothing_is_cut_back() -> None:
    harness = Harness(Volume(journal=b"k" * 16))
    (alarm,) = harness.answer_read(HEAD)
    assert isinstance(alarm, Alarm)
    assert "another" in alarm.error.message
    assert not harness.all(CutBack)


def test_a_head_put_back_from_an_older_copy_raises_an_alarm() -> None:
    harness = replica(later_head(HEAD, 9))
    assert any(isinstance(action, Alarm) for action in harness.answer_next_read(later_head(HEAD, 8)))
    with pytest.raises(StaleAuthority):
        harness.machine.require_fresh(harness.now_ms + 60_000)


def test_an_older_head_than_before_a_restart_raises_an_alarm() -> None:
    before = replica(later_head(HEAD, 9)).last(Remember)
    harness = Harness(Volume(journal=JOURNAL, rev=before.rev, place=before.place))
    assert [type(action) for action in harness.answer_read(later_head(HEAD, 8))] == [Alarm]


def test_a_head_whose_journal_lacks_served_entries_is_refused_though_its_rev_is_higher() -> None:
    harness = replica(later_head(HEAD, 9))
    other = entries(6, body=b"another history")
    assert any(
        isinstance(action, Alarm) for action in harness.answer_next_read(later_head(head_of(other, recent=4), 12))
    )


def test_another_head_of_the_same_rev_is_refused() -> None:
    harness = replica(later_head(HEAD, 9))
    forged = msgspec.structs.replace(later_head(HEAD, 9), attempt=b"z" * 16)
    assert any(isinstance(action, Alarm) for action in harness.answer_next_read(forged))


def test_an_alarm_ends_when_the_newest_head_is_back() -> None:
    harness = replica(later_head(HEAD, 9))
    harness.answer_next_read(later_head(HEAD, 8))
    harness.answer_next_read(later_head(HEAD, 10))
    assert harness.machine.fault is None


def test_an_answer_to_a_read_that_was_given_up_is_dropped() -> None:
    harness = replica()
    harness.wait(3_000)
    late = harness.last(Read)
    harness.wait(harness.settings.answer_ms + harness.settings.idle_poll_ms)
    assert harness.last(Read) is not late
    assert harness.send(events.ReadAnswered(late.read, Missing(None))) == []


# Serving and freshness.


def test_at_start_the_journal_is_cut_back_before_anything_is_served() -> None:
    harness = Harness(Volume(journal=JOURNAL))
    (cut,) = harness.answer_read(HEAD)
    assert isinstance(cut, CutBack)
    assert cut.places == (place(LOG[2]), place(LOG[3]), place(LOG[4]))
    assert harness.machine.served is None
    assert harness.machine.age_ms(harness.now_ms) is None
    assert [type(action) for action in harness.journal_at(HEAD.place)] == [Remember, Serve]
    assert harness.machine.served == HEAD.place


def test_an_empty_machine_restores_the_backup_if_recent_does_not_reach_back() -> None:
    harness = Harness()
    harness.answer_read(HEAD)
    (restore,) = harness.journal_at(BEGINNING)
    assert isinstance(restore, RestoreBackup)
    assert (restore.base, restore.places) == ("e0-00", HEAD.places)


def test_a_journal_that_diverges_from_the_heads_is_restored_not_patched() -> None:
    harness = Harness(Volume(journal=JOURNAL))
    harness.answer_read(HEAD)
    (restore,) = harness.journal_at(Checkpoint(5, b"\xff" * 32))
    assert isinstance(restore, RestoreBackup)
    assert harness.machine.served is None


def test_entries_are_applied_from_recent_in_order() -> None:
    harness = replica()
    (*_, apply) = harness.answer_next_read(later_head(head_of(LOG[:7], recent=3), 1))
    assert isinstance(apply, Apply)
    assert apply.entries == (LOG[5], LOG[6])


def test_a_restored_journal_must_contain_every_served_entry() -> None:
    harness = replica(later_head(HEAD, 9))
    harness.answer_next_read(later_head(head_of(LOG, recent=1), 10))
    assert harness.last(RestoreBackup).through == HEAD.place


def test_a_failed_step_is_retried_after_a_delay() -> None:
    harness = Harness()
    harness.answer_read(HEAD)
    assert not harness.journal_at(None)
    assert isinstance(harness.wait(harness.settings.poll_ms)[0], CutBack)


def test_the_age_counts_from_the_sending_of_a_read_not_from_its_answer() -> None:
    harness = replica()
    harness.wait(3_000)
    harness.answer_read(NotModified(None), after_ms=1_000)
    assert harness.machine.age_ms(harness.now_ms) == 1_000


def test_a_newer_head_reduces_the_age_only_once_it_is_served() -> None:
    harness = replica()
    harness.wait(3_000)
    harness.answer_read(later_head(head_of(LOG[:7], recent=3), 1))
    assert harness.machine.require_fresh(harness.now_ms) == 3_000
    harness.journal_at(place(LOG[6]))
    assert harness.machine.require_fresh(harness.now_ms) == 0


def test_a_machine_without_the_store_serves_up_to_the_bound_and_then_refuses() -> None:
    harness = replica()
    harness.wait(5_000)
    assert harness.machine.require_fresh(harness.now_ms) == 5_000
    with pytest.raises(StaleAuthority, match="5001 ms old, and at most 5000 ms are allowed"):
        harness.machine.require_fresh(harness.now_ms + 1)


def test_the_head_is_read_often_only_while_callers_ask() -> None:
    harness = replica()
    harness.send(events.Asked())
    reads = len(harness.all(Read))
    for _ in range(200):
        harness.wait(100)
        harness.answer_read(NotModified(None))
    assert 35 <= len(harness.all(Read)) - reads <= 50


def test_a_journal_restored_to_before_served_entries_is_stale_until_it_has_them_again() -> None:
    harness = replica(later_head(HEAD, 9))
    harness.machine.require_fresh(harness.now_ms)
    harness.answer_next_read(later_head(head_of(LOG[:6], recent=3), 10))
    # The database is damaged, so it is moved aside. The backup ends where ``recent`` begins.
    harness.journal_at(None)
    harness.wait(1_000)
    harness.journal_at(BEGINNING)
    harness.journal_at(place(LOG[2]))
    assert harness.machine.served == place(LOG[2])
    with pytest.raises(StaleAuthority):
        harness.machine.require_fresh(harness.now_ms)
    assert harness.last(Remember).place == place(LOG[4])
    harness.journal_at(place(LOG[5]))
    harness.machine.require_fresh(harness.now_ms)


# Taking over.


def read_unchanged(harness: Harness, ms: int) -> None:
    """Let time pass, and answer each read with an unchanged head."""
    end_ms = harness.now_ms + ms
    while harness.now_ms < end_ms:
        harness.wait(min(500, end_ms - harness.now_ms))
        harness.answer_read(NotModified(None))


def test_no_machine_takes_over_before_a_lease_and_a_margin_have_passed() -> None:
    harness = replica()
    read_unchanged(harness, LEASE_MS)
    assert harness.machine.role is Role.REPLICA
    read_unchanged(harness, MARGIN_MS + 3_000)
    assert harness.machine.role is Role.CANDIDATE


def test_a_primary_that_renews_is_not_replaced() -> None:
    harness = replica()
    for rev in range(1, 12):
        harness.answer_next_read(later_head(HEAD, rev))
    assert harness.machine.role is Role.REPLICA


def test_an_unreachable_store_causes_no_takeover() -> None:
    harness = replica()
    for _ in range(20):
        harness.answer_next_read(Unknown("down"))
    assert harness.machine.role is Role.REPLICA


def test_a_machine_of_a_higher_rank_waits_longer() -> None:
    harness = replica(rank=8)
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_500)
    assert harness.machine.role is Role.REPLICA
    read_unchanged(harness, 4_000)
    assert harness.machine.role is Role.CANDIDATE


def test_automatic_promotion_can_be_switched_off() -> None:
    harness = replica(automatic=False)
    read_unchanged(harness, 10 * LEASE_MS)
    assert harness.machine.role is Role.REPLICA
    harness.send(events.Promote("operator"))
    assert harness.machine.role is Role.CANDIDATE
    harness.answer_sync()
    assert Acknowledge("operator", 5) in harness.answer_swap()


def test_a_machine_that_is_not_at_the_head_does_not_take_over() -> None:
    harness = replica()
    harness.answer_next_read(later_head(head_of(LOG[:7], recent=3), 1))
    read_unchanged(harness, 2 * LEASE_MS)
    assert harness.machine.role is Role.REPLICA


def test_a_restarted_primary_takes_over_at_once_and_never_resumes() -> None:
    harness = Harness(Volume(journal=JOURNAL, owner=FORMER_OWNER))
    head = head_of(LOG[:5], owner=FORMER_OWNER)
    harness.follow(head)
    assert harness.machine.role is Role.CANDIDATE
    assert harness.last(actions.StartReplication).path != head.base


def test_one_swap_changes_the_owner_the_epoch_and_the_base() -> None:
    harness = replica(later_head(HEAD, 4, epoch=3))
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_000)
    assert not harness.all(Swap)  # not before its own path contains everything
    harness.answer_sync()
    head = decode_head(harness.last(Swap).body, KEYS)
    assert (head.rev, head.epoch, head.owner, head.machine, head.region) == (5, 4, b"o" * 16, "m1", "ams")
    assert head.base == harness.last(actions.StartReplication).path
    assert (head.place, head.recent) == (HEAD.place, HEAD.recent)
    assert len(harness.all(Swap)) == 1


def test_a_sync_with_inconsistent_or_zero_txids_does_not_count() -> None:
    harness = replica()
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_000)
    harness.answer_sync(txid=7, replicated_txid=6)
    harness.wait(harness.settings.sync_pace_ms)
    harness.answer_sync(txid=0, replicated_txid=0)
    assert not harness.all(Swap)


def test_a_candidate_that_loses_the_race_stops_and_follows_the_winner() -> None:
    harness = replica()
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_000)
    harness.answer_sync()
    done = harness.answer_next_read(later_head(head_of(LOG[:6], recent=3), 1, epoch=1, owner=b"w" * 16))
    assert harness.machine.role is Role.REPLICA
    assert actions.StopReplication() in done
    assert isinstance(done[-1], Apply)
    assert harness.machine.require_fresh(harness.now_ms)  # it never stopped serving


def test_a_takeover_that_does_not_succeed_is_given_up_and_others_go_first() -> None:
    harness = replica(takeover_ms=LEASE_MS)
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_000)
    read_unchanged(harness, LEASE_MS)
    assert harness.machine.role is Role.REPLICA
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_000)
    assert harness.machine.role is Role.REPLICA
    read_unchanged(harness, LEASE_MS)
    assert harness.machine.role is Role.CANDIDATE


def test_a_restore_that_keeps_failing_is_retried_less_and_less_often() -> None:
    harness = replica(head_of(LOG[:1]))
    far = later_head(head_of(LOG[:9], recent=2), 1)
    harness.answer_next_read(far)
    tried_ms: list[int] = []
    last = None
    while len(tried_ms) < 12:
        step = next(one for one in reversed(harness.done) if isinstance(one, CutBack | RestoreBackup))
        if step is not last:
            last = step
            if isinstance(step, RestoreBackup):
                tried_ms.append(harness.now_ms)
            harness.journal_at(None if isinstance(step, RestoreBackup) else place(LOG[0]))
        harness.send(events.TimePassed(), after_ms=50)
    waits_ms = [later - earlier for earlier, later in itertools.pairwise(tried_ms)]
    assert waits_ms[0] < 1_000
    assert waits_ms == sorted(waits_ms)
    assert 9_000 <= waits_ms[-1] <= 11_000


def test_a_takeover_may_take_longer_than_a_lease() -> None:
    harness = replica()
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_000)
    read_unchanged(harness, 3 * LEASE_MS)
    assert harness.machine.role is Role.CANDIDATE
    harness.answer_sync()
    harness.answer_swap()
    assert harness.machine.role is Role.PRIMARY


@pytest.mark.parametrize(
    ("machine", "rank", "takes"), [("m1", 3, True), ("", 0, True), ("", 3, False), ("m2", 0, False)]
)
def test_a_released_head_is_taken_only_by_the_machine_whose_turn_it_is(machine: str, rank: int, takes: bool) -> None:
    harness = replica(later_head(HEAD, 1, owner=NOBODY, machine=machine), rank=rank)
    assert (harness.machine.role is Role.CANDIDATE) is takes
    assert harness.machine.primary is None


def read_intervals_ms(harness: Harness, reads: int) -> set[int]:
    """Return the intervals between the next ``reads`` reads, while nothing changes."""
    intervals = set()
    for _ in range(reads):
        before_ms = harness.now_ms
        harness.answer_next_read(NotModified(None))
        intervals.add(harness.now_ms - before_ms)
    return intervals


def test_an_idle_machine_does_not_miss_its_turn() -> None:
    idle = replica()
    assert max(read_intervals_ms(idle, 2)) == idle.settings.idle_poll_ms
    idle.answer_next_read(later_head(HEAD, 1, owner=NOBODY, machine=""))
    assert idle.machine.role is Role.CANDIDATE
    second = replica(rank=2)
    read_intervals_ms(second, 2)
    second.answer_next_read(later_head(HEAD, 1, owner=NOBODY, machine=""))
    began_ms = second.now_ms
    while second.machine.role is Role.REPLICA:
        assert read_intervals_ms(second, 1) == {second.settings.poll_ms}
    assert second.now_ms - began_ms <= 2 * second.settings.rank_ms + second.settings.poll_ms


def test_the_head_is_read_often_when_a_lease_is_about_to_run_out_and_not_before() -> None:
    harness = replica()
    assert read_intervals_ms(harness, 2) == {harness.settings.idle_poll_ms}
    while harness.machine.unchanged_ms + harness.settings.idle_poll_ms < LEASE_MS + MARGIN_MS:
        harness.answer_next_read(NotModified(None))
    assert read_intervals_ms(harness, 2) == {harness.settings.poll_ms}


@pytest.mark.parametrize(
    ("machine", "settings"),
    [("m2", {}), ("m2", {"automatic": False})],
    ids=["another's turn", "no automatic promotion"],
)
def test_a_machine_whose_turn_is_not_near_reads_no_more_often(machine: str, settings: dict[str, bool]) -> None:
    harness = replica(later_head(HEAD, 1, owner=NOBODY, machine=machine), **settings)
    read_intervals_ms(harness, 1)
    assert read_intervals_ms(harness, 2) == {harness.settings.idle_poll_ms}


def test_a_named_successor_that_does_not_take_over_is_replaced_after_a_lease() -> None:
    harness = replica(later_head(HEAD, 1, owner=NOBODY, machine="m2"))
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 3_000)
    assert harness.machine.role is Role.CANDIDATE


@pytest.mark.parametrize(
    "head",
    [
        later_head(HEAD, 1, owner=NOBODY, machine="m1"),
        later_head(HEAD, 1, owner=NOBODY, machine=""),
        later_head(HEAD, 1, owner=FORMER_OWNER),
        later_head(HEAD, 1),
    ],
    ids=["its turn", "any machine's turn", "its own former process's", "a silent primary's"],
)
def test_a_machine_that_is_shut_down_does_not_take_over(head: Head) -> None:
    harness = Harness(Volume(journal=JOURNAL, owner=FORMER_OWNER))
    assert harness.send(events.HandOver("shutdown")) == [Acknowledge("shutdown", 0)]
    harness.follow(head)
    read_unchanged(harness, 3 * LEASE_MS)
    assert harness.machine.role is Role.REPLICA
    assert harness.machine.served == HEAD.place


def test_a_candidate_that_is_shut_down_stops_and_its_promotion_fails() -> None:
    harness = replica()
    harness.send(events.Promote("operator"))
    done = harness.send(events.HandOver("shutdown"))
    assert actions.StopReplication() in done
    assert Acknowledge("shutdown", 5) in done
    assert [action.ticket for action in done if isinstance(action, Fail)] == ["operator"]
    assert harness.machine.role is Role.REPLICA


def test_a_promotion_that_cannot_be_done_in_time_fails() -> None:
    harness = replica()
    harness.answer_next_read(later_head(head_of(LOG[:7], recent=3), 1))
    harness.send(events.Promote("operator"))
    (fail,) = [action for action in harness.wait(LEASE_MS) if isinstance(action, Fail)]
    assert (fail.ticket, type(fail.error)) == ("operator", NoPrimary)


def test_a_promotion_without_a_head_fails_in_time() -> None:
    harness = Harness()
    harness.send(events.Promote("operator"))
    assert [action.ticket for action in harness.wait(LEASE_MS) if isinstance(action, Fail)] == ["operator"]


# Writes.


def test_a_replica_accepts_no_write_and_names_the_primary() -> None:
    harness = replica()
    assert harness.machine.primary == "m9"
    with pytest.raises(NoPrimary):
        harness.machine.require_writable(1, 500, harness.now_ms)
    with pytest.raises(NoPrimary):
        _ = harness.machine.epoch


def test_a_primary_whose_lease_ran_out_is_not_named() -> None:
    harness = replica(automatic=False)
    read_unchanged(harness, LEASE_MS + 4_000)
    assert harness.machine.unchanged_ms > LEASE_MS
    assert harness.machine.primary is None


def test_a_machine_that_took_over_from_a_silent_primary_names_itself_at_once() -> None:
    harness = replica()
    read_unchanged(harness, LEASE_MS + MARGIN_MS + 4_000)
    assert harness.machine.primary is None
    harness.answer_sync()
    harness.answer_swap()
    assert harness.machine.role is Role.PRIMARY
    assert harness.machine.primary == harness.settings.machine
    assert harness.machine.unchanged_ms == 0


def test_the_fault_of_a_missing_head_is_a_broken_head() -> None:
    harness = Harness()
    harness.answer_read(Missing(None))
    assert isinstance(harness.machine.fault, BrokenHead)
