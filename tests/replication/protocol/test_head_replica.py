"""A machine that isn't primary: what it believes, when it is fresh, and when it takes over."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from tests.replication.node.driven import FORMER, JOURNAL, KEYS, Driven, entries, head_of, place
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


def swapped(head: Head, rev: int, **changes: object) -> Head:
    """A later head of the same primary."""
    return msgspec.structs.replace(head, rev=rev, attempt=rev.to_bytes(16, "big"), **changes)


def replica(head: Head = HEAD, **settings: object) -> Driven:
    driven = Driven(Volume(journal=JOURNAL), **settings)
    driven.follows(head)
    return driven


# What is believed.


def test_a_missing_head_is_refused_loudly_and_once() -> None:
    driven = Driven()
    assert [type(action) for action in driven.shown(Missing(None))] == [Alarm]
    assert not [action for action in driven.read_again(Missing(None)) if isinstance(action, Alarm)]
    assert "tkdb init" in str(driven.machine.fault)


def test_a_head_of_another_journal_is_refused_and_nothing_is_cut_back() -> None:
    driven = Driven(Volume(journal=b"k" * 16))
    (alarm,) = driven.shown(HEAD)
    assert isinstance(alarm, Alarm)
    assert "another" in alarm.error.message
    assert not driven.all(CutBack)


def test_a_head_put_back_from_an_older_copy_is_refused_loudly() -> None:
    driven = replica(swapped(HEAD, 9))
    assert any(isinstance(action, Alarm) for action in driven.read_again(swapped(HEAD, 8)))
    with pytest.raises(StaleAuthority):
        driven.machine.require_fresh(driven.now_ms + 60_000)


def test_what_was_seen_before_a_restart_still_counts() -> None:
    before = replica(swapped(HEAD, 9)).last(Remember)
    driven = Driven(Volume(journal=JOURNAL, rev=before.rev, place=before.place))
    assert [type(action) for action in driven.shown(swapped(HEAD, 8))] == [Alarm]


def test_a_head_whose_journal_lacks_what_was_served_is_refused_though_its_rev_is_higher() -> None:
    driven = replica(swapped(HEAD, 9))
    other = entries(6, word=b"another history")
    assert any(isinstance(action, Alarm) for action in driven.read_again(swapped(head_of(other, recent=4), 12)))


def test_another_head_in_the_place_of_the_same_rev_is_refused() -> None:
    driven = replica(swapped(HEAD, 9))
    forged = msgspec.structs.replace(swapped(HEAD, 9), attempt=b"z" * 16)
    assert any(isinstance(action, Alarm) for action in driven.read_again(forged))


def test_an_alarm_ends_when_the_newest_head_is_back() -> None:
    driven = replica(swapped(HEAD, 9))
    driven.read_again(swapped(HEAD, 8))
    driven.read_again(swapped(HEAD, 10))
    assert driven.machine.fault is None


def test_an_answer_to_a_read_that_was_given_up_is_dropped() -> None:
    driven = replica()
    driven.wait(3_000)
    late = driven.last(Read)
    driven.wait(driven.settings.answer_ms + driven.settings.idle_poll_ms)
    assert driven.last(Read) is not late
    assert driven.tell(events.ReadAnswered(late.read, Missing(None))) == []


# What is served, and how fresh it is.


def test_at_start_the_journal_is_cut_back_before_anything_is_served() -> None:
    driven = Driven(Volume(journal=JOURNAL))
    (cut,) = driven.shown(HEAD)
    assert isinstance(cut, CutBack)
    assert cut.places == (place(LOG[2]), place(LOG[3]), place(LOG[4]))
    assert driven.machine.served is None
    assert driven.machine.age_ms(driven.now_ms) is None
    assert [type(action) for action in driven.journal_at(HEAD.place)] == [Remember, Serve]
    assert driven.machine.served == HEAD.place


def test_an_empty_machine_restores_what_recent_does_not_span() -> None:
    driven = Driven()
    driven.shown(HEAD)
    (restore,) = driven.journal_at(BEGINNING)
    assert isinstance(restore, RestoreBackup)
    assert (restore.base, restore.places) == ("e0-00", HEAD.places)


def test_a_journal_that_left_the_heads_is_restored_not_patched() -> None:
    driven = Driven(Volume(journal=JOURNAL))
    driven.shown(HEAD)
    (restore,) = driven.journal_at(Checkpoint(5, b"\xff" * 32))
    assert isinstance(restore, RestoreBackup)
    assert driven.machine.served is None


def test_entries_are_applied_from_recent_in_order() -> None:
    driven = replica()
    (*_, apply) = driven.read_again(swapped(head_of(LOG[:7], recent=3), 1))
    assert isinstance(apply, Apply)
    assert apply.entries == (LOG[5], LOG[6])


def test_a_journal_restored_must_not_lack_what_was_served() -> None:
    driven = replica(swapped(HEAD, 9))
    driven.read_again(swapped(head_of(LOG, recent=1), 10))
    assert driven.last(RestoreBackup).through == HEAD.place


def test_a_step_that_failed_is_tried_again_but_not_at_once() -> None:
    driven = Driven()
    driven.shown(HEAD)
    assert not driven.journal_at(None)
    assert isinstance(driven.wait(driven.settings.poll_ms)[0], CutBack)


def test_freshness_is_of_the_asking_not_of_the_answer() -> None:
    driven = replica()
    driven.wait(3_000)
    driven.shown(NotModified(None), after_ms=1_000)
    assert driven.machine.age_ms(driven.now_ms) == 1_000


def test_a_newer_head_makes_nothing_fresher_until_it_is_served() -> None:
    driven = replica()
    driven.wait(3_000)
    driven.shown(swapped(head_of(LOG[:7], recent=3), 1))
    assert driven.machine.require_fresh(driven.now_ms) == 3_000
    driven.journal_at(place(LOG[6]))
    assert driven.machine.require_fresh(driven.now_ms) == 0


def test_who_cannot_reach_the_store_serves_up_to_the_bound_and_then_refuses() -> None:
    driven = replica()
    driven.wait(5_000)
    assert driven.machine.require_fresh(driven.now_ms) == 5_000
    with pytest.raises(StaleAuthority, match="5001 ms old, and at most 5000 ms are allowed"):
        driven.machine.require_fresh(driven.now_ms + 1)


def test_the_head_is_read_often_only_while_callers_ask() -> None:
    driven = replica()
    driven.tell(events.Asked())
    reads = len(driven.all(Read))
    for _ in range(200):
        driven.wait(100)
        driven.shown(NotModified(None))
    assert 35 <= len(driven.all(Read)) - reads <= 50


def test_a_journal_restored_to_before_what_was_served_is_not_vouched_for_until_it_is_there_again() -> None:
    driven = replica(swapped(HEAD, 9))
    driven.machine.require_fresh(driven.now_ms)
    driven.read_again(swapped(head_of(LOG[:6], recent=3), 10))
    # The file turns out to be damaged: it is set aside, and the backup ends where ``recent`` begins.
    driven.journal_at(None)
    driven.wait(1_000)
    driven.journal_at(BEGINNING)
    driven.journal_at(place(LOG[2]))
    assert driven.machine.served == place(LOG[2])
    with pytest.raises(StaleAuthority):
        driven.machine.require_fresh(driven.now_ms)
    assert driven.last(Remember).place == place(LOG[4])
    driven.journal_at(place(LOG[5]))
    driven.machine.require_fresh(driven.now_ms)


# Taking over.


def silence(driven: Driven, ms: int) -> None:
    """The same head, read again and again."""
    end_ms = driven.now_ms + ms
    while driven.now_ms < end_ms:
        driven.wait(min(500, end_ms - driven.now_ms))
        driven.shown(NotModified(None))


def test_nobody_takes_over_before_a_lease_and_a_margin_have_passed() -> None:
    driven = replica()
    silence(driven, LEASE_MS)
    assert driven.machine.role is Role.REPLICA
    silence(driven, MARGIN_MS + 3_000)
    assert driven.machine.role is Role.CANDIDATE


def test_a_primary_that_renews_is_left_alone() -> None:
    driven = replica()
    for rev in range(1, 12):
        driven.read_again(swapped(HEAD, rev))
    assert driven.machine.role is Role.REPLICA


def test_silence_of_the_store_is_not_silence_of_the_primary() -> None:
    driven = replica()
    for _ in range(20):
        driven.read_again(Unknown("down"))
    assert driven.machine.role is Role.REPLICA


def test_who_stands_further_back_in_the_order_waits_longer() -> None:
    driven = replica(rank=8)
    silence(driven, LEASE_MS + MARGIN_MS + 3_500)
    assert driven.machine.role is Role.REPLICA
    silence(driven, 4_000)
    assert driven.machine.role is Role.CANDIDATE


def test_automatic_promotion_can_be_switched_off() -> None:
    driven = replica(automatic=False)
    silence(driven, 10 * LEASE_MS)
    assert driven.machine.role is Role.REPLICA
    driven.tell(events.Promote("operator"))
    assert driven.machine.role is Role.CANDIDATE
    driven.synced()
    assert Acknowledge("operator", 5) in driven.swapped()


def test_who_is_not_at_the_head_does_not_take_over() -> None:
    driven = replica()
    driven.read_again(swapped(head_of(LOG[:7], recent=3), 1))
    silence(driven, 2 * LEASE_MS)
    assert driven.machine.role is Role.REPLICA


def test_a_restarted_primary_takes_over_at_once_and_never_resumes() -> None:
    driven = Driven(Volume(journal=JOURNAL, owner=FORMER))
    head = head_of(LOG[:5], owner=FORMER)
    driven.follows(head)
    assert driven.machine.role is Role.CANDIDATE
    assert driven.last(actions.StartReplication).path != head.base


def test_the_one_swap_takes_all_of_it_at_once() -> None:
    driven = replica(swapped(HEAD, 4, epoch=3))
    silence(driven, LEASE_MS + MARGIN_MS + 3_000)
    assert not driven.all(Swap)  # not before everything is in the store under a path of its own
    driven.synced()
    head = decode_head(driven.last(Swap).body, KEYS)
    assert (head.rev, head.epoch, head.owner, head.machine, head.region) == (5, 4, b"o" * 16, "m1", "ams")
    assert head.base == driven.last(actions.StartReplication).path
    assert (head.place, head.recent) == (HEAD.place, HEAD.recent)
    assert len(driven.all(Swap)) == 1


def test_a_sync_whose_own_numbers_do_not_agree_is_none() -> None:
    driven = replica()
    silence(driven, LEASE_MS + MARGIN_MS + 3_000)
    driven.synced(txid=7, replicated_txid=6)
    driven.wait(driven.settings.sync_pace_ms)
    driven.synced(txid=0, replicated_txid=0)
    assert not driven.all(Swap)


def test_who_loses_the_race_stops_and_follows_the_winner() -> None:
    driven = replica()
    silence(driven, LEASE_MS + MARGIN_MS + 3_000)
    driven.synced()
    done = driven.read_again(swapped(head_of(LOG[:6], recent=3), 1, epoch=1, owner=b"w" * 16))
    assert driven.machine.role is Role.REPLICA
    assert actions.StopReplication() in done
    assert isinstance(done[-1], Apply)
    assert driven.machine.require_fresh(driven.now_ms)  # it never stopped serving


def test_a_takeover_that_does_not_succeed_is_given_up_and_others_go_first() -> None:
    driven = replica(takeover_ms=LEASE_MS)
    silence(driven, LEASE_MS + MARGIN_MS + 3_000)
    silence(driven, LEASE_MS)
    assert driven.machine.role is Role.REPLICA
    silence(driven, LEASE_MS + MARGIN_MS + 3_000)
    assert driven.machine.role is Role.REPLICA
    silence(driven, LEASE_MS)
    assert driven.machine.role is Role.CANDIDATE


def test_a_restore_that_fails_again_and_again_is_tried_less_and_less_often() -> None:
    driven = replica(head_of(LOG[:1]))
    far = swapped(head_of(LOG[:9], recent=2), 1)
    driven.read_again(far)
    tried_ms: list[int] = []
    last = None
    while len(tried_ms) < 12:
        step = next(one for one in reversed(driven.done) if isinstance(one, CutBack | RestoreBackup))
        if step is not last:
            last = step
            if isinstance(step, RestoreBackup):
                tried_ms.append(driven.now_ms)
            driven.journal_at(None if isinstance(step, RestoreBackup) else place(LOG[0]))
        driven.tell(events.TimePassed(), after_ms=50)
    waits_ms = [later - earlier for earlier, later in itertools.pairwise(tried_ms)]
    assert waits_ms[0] < 1_000
    assert waits_ms == sorted(waits_ms)
    assert 9_000 <= waits_ms[-1] <= 11_000


def test_a_takeover_may_take_longer_than_a_lease_for_a_large_database_takes_its_time() -> None:
    driven = replica()
    silence(driven, LEASE_MS + MARGIN_MS + 3_000)
    silence(driven, 3 * LEASE_MS)
    assert driven.machine.role is Role.CANDIDATE
    driven.synced()
    driven.swapped()
    assert driven.machine.role is Role.PRIMARY


@pytest.mark.parametrize(
    ("machine", "rank", "takes"), [("m1", 3, True), ("", 0, True), ("", 3, False), ("m2", 0, False)]
)
def test_a_head_that_was_handed_over_is_taken_by_whose_turn_it_is(machine: str, rank: int, takes: bool) -> None:
    driven = replica(swapped(HEAD, 1, owner=NOBODY, machine=machine), rank=rank)
    assert (driven.machine.role is Role.CANDIDATE) is takes
    assert driven.machine.primary is None


def paces_ms(driven: Driven, reads: int) -> set[int]:
    """How long apart the next reads are, while nothing changes."""
    paces = set()
    for _ in range(reads):
        before_ms = driven.now_ms
        driven.read_again(NotModified(None))
        paces.add(driven.now_ms - before_ms)
    return paces


def test_a_machine_that_nobody_asks_does_not_sleep_through_its_turn() -> None:
    idle = replica()
    assert max(paces_ms(idle, 2)) == idle.settings.idle_poll_ms
    idle.read_again(swapped(HEAD, 1, owner=NOBODY, machine=""))
    assert idle.machine.role is Role.CANDIDATE
    second = replica(rank=2)
    paces_ms(second, 2)
    second.read_again(swapped(HEAD, 1, owner=NOBODY, machine=""))
    began_ms = second.now_ms
    while second.machine.role is Role.REPLICA:
        assert paces_ms(second, 1) == {second.settings.poll_ms}
    assert second.now_ms - began_ms <= 2 * second.settings.rank_ms + second.settings.poll_ms


def test_the_head_is_read_often_when_a_lease_is_about_to_run_out_and_not_before() -> None:
    driven = replica()
    assert paces_ms(driven, 2) == {driven.settings.idle_poll_ms}
    while driven.machine.unchanged_ms + driven.settings.idle_poll_ms < LEASE_MS + MARGIN_MS:
        driven.read_again(NotModified(None))
    assert paces_ms(driven, 2) == {driven.settings.poll_ms}


@pytest.mark.parametrize(
    ("machine", "settings"), [("m2", {}), ("m2", {"automatic": False})], ids=["another's for now", "another's for good"]
)
def test_whose_turn_is_not_near_reads_no_more_often_for_it(machine: str, settings: dict[str, bool]) -> None:
    driven = replica(swapped(HEAD, 1, owner=NOBODY, machine=machine), **settings)
    paces_ms(driven, 1)
    assert paces_ms(driven, 2) == {driven.settings.idle_poll_ms}


def test_an_heir_that_does_not_come_is_not_waited_for_longer_than_a_lease() -> None:
    driven = replica(swapped(HEAD, 1, owner=NOBODY, machine="m2"))
    silence(driven, LEASE_MS + MARGIN_MS + 3_000)
    assert driven.machine.role is Role.CANDIDATE


@pytest.mark.parametrize(
    "head",
    [
        swapped(HEAD, 1, owner=NOBODY, machine="m1"),
        swapped(HEAD, 1, owner=NOBODY, machine=""),
        swapped(HEAD, 1, owner=FORMER),
        swapped(HEAD, 1),
    ],
    ids=["its turn", "any one's turn", "its own former life's", "a silent primary's"],
)
def test_a_machine_that_is_shut_down_takes_nothing_over(head: Head) -> None:
    driven = Driven(Volume(journal=JOURNAL, owner=FORMER))
    assert driven.tell(events.HandOver("shutdown")) == [Acknowledge("shutdown", 0)]
    driven.follows(head)
    silence(driven, 3 * LEASE_MS)
    assert driven.machine.role is Role.REPLICA
    assert driven.machine.served == HEAD.place


def test_a_candidate_that_is_shut_down_stops_and_its_promotion_fails() -> None:
    driven = replica()
    driven.tell(events.Promote("operator"))
    done = driven.tell(events.HandOver("shutdown"))
    assert actions.StopReplication() in done
    assert Acknowledge("shutdown", 5) in done
    assert [action.ticket for action in done if isinstance(action, Fail)] == ["operator"]
    assert driven.machine.role is Role.REPLICA


def test_a_promotion_that_cannot_be_done_in_time_fails() -> None:
    driven = replica()
    driven.read_again(swapped(head_of(LOG[:7], recent=3), 1))
    driven.tell(events.Promote("operator"))
    (fail,) = [action for action in driven.wait(LEASE_MS) if isinstance(action, Fail)]
    assert (fail.ticket, type(fail.error)) == ("operator", NoPrimary)


def test_a_promotion_fails_in_time_where_there_is_no_head_to_take_over() -> None:
    driven = Driven()
    driven.tell(events.Promote("operator"))
    assert [action.ticket for action in driven.wait(LEASE_MS) if isinstance(action, Fail)] == ["operator"]


# Writes.


def test_a_replica_takes_no_write_and_names_who_does() -> None:
    driven = replica()
    assert driven.machine.primary == "m9"
    with pytest.raises(NoPrimary):
        driven.machine.require_writable(1, 500, driven.now_ms)
    with pytest.raises(NoPrimary):
        _ = driven.machine.epoch


def test_a_primary_whose_lease_ran_out_is_not_named() -> None:
    driven = replica(automatic=False)
    silence(driven, LEASE_MS + 4_000)
    assert driven.machine.unchanged_ms > LEASE_MS
    assert driven.machine.primary is None


def test_a_machine_that_took_over_from_a_silent_primary_names_itself_at_once() -> None:
    driven = replica()
    silence(driven, LEASE_MS + MARGIN_MS + 4_000)
    assert driven.machine.primary is None
    driven.synced()
    driven.swapped()
    assert driven.machine.role is Role.PRIMARY
    assert driven.machine.primary == driven.settings.machine
    assert driven.machine.unchanged_ms == 0


def test_a_fault_is_a_store_error_of_its_own() -> None:
    driven = Driven()
    driven.shown(Missing(None))
    assert isinstance(driven.machine.fault, BrokenHead)
