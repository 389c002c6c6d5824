"""How a primary stops being one, or doesn't: its disk fails, it is moved, it is shut down."""

from __future__ import annotations

import pytest

from tests.replication.node.driven import (
    KEYS,
    Driven,
    entries,
    foreign,
    head_of,
    last_head,
    place,
    primary,
    publish,
    unknown,
)
from tkdb.errors import NoPrimary
from tkdb_replication.bucket.objects import Conflict, NotModified, Unknown
from tkdb_replication.protocol import events
from tkdb_replication.protocol.actions import Acknowledge, Action, CutBack, Fail, Serve, Swap
from tkdb_replication.protocol.head import NOBODY, decode_head
from tkdb_replication.protocol.state_machine import Role

LOG = entries(3)
NEXT = entries(10, epoch=1, after=LOG[-1])
LEASE_MS = 9_000
CONFLICT = Conflict(None)


# A disk that fails.


def fails(driven: Driven, *, doubtful: bool = False, after_ms: int = 0) -> list[Action]:
    """A commit raises."""
    driven.machine.require_writable(1, 500, driven.now_ms)
    return driven.tell(events.CommitFailed(doubtful), after_ms=after_ms)


def test_a_primary_whose_commits_fail_for_a_lease_hands_over_to_any() -> None:
    driven = primary(LOG)
    for _ in range(3):
        fails(driven)
        driven.renews()
    assert last_head(driven).owner != NOBODY
    fails(driven)  # a lease after the first
    with pytest.raises(NoPrimary, match="being moved"):
        driven.machine.require_writable(1, 500, driven.now_ms)
    assert (last_head(driven).owner, last_head(driven).machine) == (NOBODY, "")
    driven.swapped()
    assert driven.machine.role is Role.REPLICA


def test_one_commit_that_succeeds_shows_that_the_disk_works() -> None:
    driven = primary(LOG)
    fails(driven)
    for number in range(6):
        driven.renews()
        publish(driven, NEXT[number])
        fails(driven)
    assert driven.machine.role is Role.PRIMARY
    driven.machine.require_writable(1, 500, driven.now_ms)


def test_after_a_commit_in_doubt_what_is_known_is_published_and_the_rest_cut_back() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    fails(driven, doubtful=True)
    assert not driven.tell(events.Repeated("again", 5))  # it may be on the disk
    assert Acknowledge("w", 4) in driven.swapped()
    head = last_head(driven)
    assert (head.owner, head.machine, head.place) == (NOBODY, "", place(NEXT[0]))
    done = driven.swapped()
    assert unknown(done) == ["again"]
    assert isinstance(done[-1], CutBack)
    assert driven.machine.served is None
    done = driven.journal_at(head.place)
    assert Serve(head.place) in done


def test_a_batch_that_is_committed_before_the_machine_was_told_of_the_doubt_is_not_lost_sight_of() -> None:
    driven = primary(LOG)
    fails(driven, doubtful=True)  # and hands over by a swap that is in flight
    assert not driven.tell(events.Committed("w", (NEXT[0],)))
    done = driven.swapped()
    assert unknown(done) == ["w"]
    assert isinstance(done[-1], CutBack)


def test_after_a_commit_in_doubt_a_machine_that_cannot_publish_steps_down_all_the_same() -> None:
    driven = primary(LOG)
    fails(driven, doubtful=True)
    for _ in range(8):
        driven.swapped(CONFLICT)
        driven.shown(NotModified(None))
        driven.wait(1_200)
    assert driven.machine.role is Role.REPLICA
    assert driven.machine.served is None


def test_a_commit_in_doubt_that_ends_after_stepping_down_is_cut_back() -> None:
    driven = primary(LOG)
    head = foreign(head_of(LOG, recent=1, rev=1, epoch=1))
    driven.read_again(head)
    driven.journal_at(head.place)
    assert not driven.tell(events.CommitFailed(doubtful=False))
    assert isinstance(driven.tell(events.CommitFailed(doubtful=True))[-1], CutBack)


def test_who_gave_way_lets_others_go_first_and_leads_again_where_none_comes() -> None:
    driven = primary(LOG)
    fails(driven, doubtful=True)
    driven.swapped()
    driven.journal_at(place(LOG[-1]))
    handed_over_ms = driven.now_ms
    while driven.machine.role is Role.REPLICA:
        driven.read_again(NotModified(None))
    assert driven.machine.role is Role.CANDIDATE
    assert LEASE_MS <= driven.now_ms - handed_over_ms <= LEASE_MS + driven.settings.idle_poll_ms


# Moving.


def test_a_planned_move_publishes_hands_over_and_takes_no_further_write() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    driven.tell(events.HandOver("operator", "m2"))
    with pytest.raises(NoPrimary, match="being moved"):
        driven.machine.require_writable(1, 500, driven.now_ms)
    assert Acknowledge("w", 4) in driven.swapped()
    head = last_head(driven)
    assert (head.owner, head.machine, head.place) == (NOBODY, "m2", place(NEXT[0]))
    assert Acknowledge("operator", 4) in driven.swapped()
    assert driven.machine.role is Role.REPLICA


def test_a_move_that_cannot_be_published_is_given_up_and_the_primary_stays() -> None:
    driven = primary(LOG)
    driven.tell(events.HandOver("operator", "m2"))
    for _ in range(8):
        driven.swapped(CONFLICT)
        driven.shown(NotModified(None))
        driven.wait(1_200)
    assert unknown(driven.done) == ["operator"]
    assert driven.machine.role is Role.PRIMARY
    driven.machine.require_writable(1, 500, driven.now_ms)


def test_who_hands_over_because_it_is_shut_down_does_not_take_it_back() -> None:
    driven = primary(LOG)
    driven.tell(events.HandOver("shutdown"))
    assert Acknowledge("shutdown", 3) in driven.swapped()
    assert (last_head(driven).owner, last_head(driven).machine) == (NOBODY, "")
    driven.journal_at(place(LOG[-1]))
    for _ in range(20):
        driven.read_again(NotModified(None))
    (fail,) = driven.tell(events.Promote("operator"))
    assert isinstance(fail, Fail)
    assert "shut down" in fail.error.message
    assert driven.machine.role is Role.REPLICA
    assert driven.machine.require_fresh(driven.now_ms) < 5_000  # it serves to its end


def test_a_primary_that_is_shut_down_while_it_is_moved_waits_for_that_move() -> None:
    driven = primary(LOG)
    driven.tell(events.HandOver("operator", "m2"))
    assert driven.tell(events.HandOver("shutdown")) == []
    done = driven.swapped()
    assert {Acknowledge("operator", 3), Acknowledge("shutdown", 3)} == {a for a in done if isinstance(a, Acknowledge)}
    assert last_head(driven).machine == "m2"


def test_a_primary_that_is_shut_down_and_cannot_publish_leads_no_more_after_a_lease() -> None:
    driven = primary(LOG)
    driven.tell(events.HandOver("shutdown"))
    for _ in range(8):
        driven.swapped(CONFLICT)
        driven.shown(NotModified(None))
        driven.wait(1_200)
    assert unknown(driven.done) == ["shutdown"]
    assert driven.machine.role is Role.REPLICA


def test_only_a_primary_can_be_moved_away() -> None:
    driven = Driven()
    (fail,) = driven.tell(events.HandOver("operator", "m2"))
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, NoPrimary)


def test_to_move_or_promote_to_where_it_is_changes_nothing() -> None:
    driven = primary(LOG)
    assert driven.tell(events.HandOver("a", "m1")) == [Acknowledge("a", 3)]
    assert driven.tell(events.Promote("b")) == [Acknowledge("b", 3)]
    assert driven.machine.role is Role.PRIMARY


def test_a_primary_whose_litestream_never_succeeds_lets_others_lead() -> None:
    driven = primary(LOG)
    publish(driven, NEXT[0])
    began_ms = driven.now_ms
    while driven.now_ms < began_ms + driven.settings.unsynced_ms + driven.settings.sync_ms:
        driven.renews()
        if last_head(driven).owner == NOBODY:
            break
    head = last_head(driven)
    assert (head.owner, head.machine, head.place) == (NOBODY, "", place(NEXT[0]))
    assert driven.now_ms - began_ms >= driven.settings.unsynced_ms
    driven.swapped()
    assert driven.machine.role is Role.REPLICA


def test_a_primary_that_had_nothing_to_sync_for_long_is_not_blamed_for_it() -> None:
    driven = primary(LOG)
    for _ in range(40):
        driven.renews()
    publish(driven, NEXT[0])
    for _ in range(3):
        driven.renews()
    assert last_head(driven).owner != NOBODY


# What a machine was left with.


def left_behind() -> Driven:
    """A machine that was primary, and gave up as the store didn't answer; the head names it still."""
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    while driven.machine.role is Role.PRIMARY:
        driven.swapped(Unknown("down"))
        driven.wait(driven.settings.poll_ms)
        driven.shown(Unknown("down"))
    assert unknown(driven.done) == ["w"]
    return driven


def test_a_machine_that_gave_up_lets_go_of_the_lease_as_soon_as_the_store_answers() -> None:
    driven = left_behind()
    head = driven.machine.head
    assert head is not None
    driven.swapped(Unknown("down"))
    driven.read_again(Unknown("down"))
    driven.read_again(NotModified(None))
    let_go = last_head(driven)
    assert (let_go.owner, let_go.machine, let_go.rev) == (NOBODY, "", head.rev + 1)
    assert (let_go.place, let_go.recent, let_go.base) == (head.place, head.recent, head.base)
    driven.swapped()
    before = driven.last(Swap)
    while driven.now_ms < 1_000_000 + 2 * LEASE_MS and driven.machine.role is Role.REPLICA:
        driven.read_again(NotModified(None))
    assert driven.last(Swap) is before  # once; and it lets others go first


def test_a_machine_that_leads_no_more_sends_nobody_to_itself() -> None:
    driven = left_behind()
    assert driven.machine.head is not None
    assert driven.machine.head.machine == "m1"
    assert driven.machine.primary is None


def test_what_its_last_swap_named_when_that_landed_late_is_kept_as_it_lets_go() -> None:
    driven = left_behind()
    late = next(decode_head(swap.body, KEYS) for swap in driven.all(Swap)[1:])
    assert late.recent[-1:] == (NEXT[0],)
    driven.swapped(CONFLICT)
    driven.read_again(late)
    let_go = last_head(driven)
    assert (let_go.owner, let_go.rev, let_go.place, let_go.recent) == (NOBODY, late.rev + 1, late.place, late.recent)


def test_who_is_promoted_takes_over_only_when_it_is_known_what_became_of_its_letting_go() -> None:
    driven = left_behind()
    driven.swapped(Unknown("down"))
    driven.read_again(NotModified(None))
    let_go = last_head(driven)
    driven.journal_at(let_go.place)
    driven.tell(events.Promote("operator"))
    assert driven.machine.role is Role.REPLICA
    driven.swapped(CONFLICT)
    driven.shown(NotModified(None))
    assert driven.machine.role is Role.CANDIDATE
    driven.read_again(let_go)  # it has landed all the same: that is no takeover
    assert driven.machine.role is not Role.PRIMARY
    assert Acknowledge("operator", 3) not in driven.done


def test_a_machine_that_was_deposed_lets_go_of_nothing() -> None:
    driven = left_behind()
    driven.swapped(CONFLICT)
    sent = len(driven.all(Swap))
    driven.read_again(foreign(head_of(LOG, recent=1, rev=1, epoch=1)))
    driven.read_again(NotModified(None))
    assert len(driven.all(Swap)) == sent
