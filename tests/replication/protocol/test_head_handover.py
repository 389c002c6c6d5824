"""A primary hands over if its disk fails, if it is moved, and if it is shut down."""

from __future__ import annotations

import pytest

from tests.replication.protocol.harness import (
    KEYS,
    Harness,
    entries,
    head_of,
    last_head,
    place,
    primary,
    publish,
    taken_over,
    unknown_tickets,
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


# A failing disk.


def fail_commit(harness: Harness, *, doubtful: bool = False, after_ms: int = 0) -> list[Action]:
    """Let a commit fail."""
    harness.machine.require_writable(1, 500, harness.now_ms)
    return harness.send(events.CommitFailed(doubtful), after_ms=after_ms)


def test_a_primary_whose_commits_fail_for_a_lease_hands_over_to_any_machine() -> None:
    harness = primary(LOG)
    for _ in range(3):
        fail_commit(harness)
        harness.renew()
    assert last_head(harness).owner != NOBODY
    fail_commit(harness)  # a lease after the first
    with pytest.raises(NoPrimary, match="being moved"):
        harness.machine.require_writable(1, 500, harness.now_ms)
    assert (last_head(harness).owner, last_head(harness).machine) == (NOBODY, "")
    harness.answer_swap()
    assert harness.machine.role is Role.REPLICA


def test_one_successful_commit_proves_that_the_disk_works() -> None:
    harness = primary(LOG)
    fail_commit(harness)
    for number in range(6):
        harness.renew()
        publish(harness, NEXT[number])
        fail_commit(harness)
    assert harness.machine.role is Role.PRIMARY
    harness.machine.require_writable(1, 500, harness.now_ms)


def test_after_a_commit_in_doubt_known_entries_are_published_and_the_rest_is_cut_back() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    fail_commit(harness, doubtful=True)
    assert not harness.send(events.Repeated("again", 5))  # it may be on the disk
    assert Acknowledge("w", 4) in harness.answer_swap()
    head = last_head(harness)
    assert (head.owner, head.machine, head.place) == (NOBODY, "", place(NEXT[0]))
    done = harness.answer_swap()
    assert unknown_tickets(done) == ["again"]
    assert isinstance(done[-1], CutBack)
    assert harness.machine.served is None
    done = harness.journal_at(head.place)
    assert Serve(head.place) in done


def test_a_batch_that_is_reported_after_a_commit_in_doubt_is_unknown_and_cut_back() -> None:
    harness = primary(LOG)
    fail_commit(harness, doubtful=True)  # its swap that hands over is in flight
    assert not harness.send(events.Committed("w", (NEXT[0],)))
    done = harness.answer_swap()
    assert unknown_tickets(done) == ["w"]
    assert isinstance(done[-1], CutBack)


def test_after_a_commit_in_doubt_a_machine_that_cannot_publish_still_steps_down() -> None:
    harness = primary(LOG)
    fail_commit(harness, doubtful=True)
    for _ in range(8):
        harness.answer_swap(CONFLICT)
        harness.answer_read(NotModified(None))
        harness.wait(1_200)
    assert harness.machine.role is Role.REPLICA
    assert harness.machine.served is None


def test_a_commit_in_doubt_that_ends_after_stepping_down_is_cut_back() -> None:
    harness = primary(LOG)
    head = taken_over(head_of(LOG, recent=1, rev=1, epoch=1))
    harness.answer_next_read(head)
    harness.journal_at(head.place)
    assert not harness.send(events.CommitFailed(doubtful=False))
    assert isinstance(harness.send(events.CommitFailed(doubtful=True))[-1], CutBack)


def test_a_machine_that_handed_over_becomes_a_candidate_again_after_a_lease() -> None:
    harness = primary(LOG)
    fail_commit(harness, doubtful=True)
    harness.answer_swap()
    harness.journal_at(place(LOG[-1]))
    handed_over_ms = harness.now_ms
    while harness.machine.role is Role.REPLICA:
        harness.answer_next_read(NotModified(None))
    assert harness.machine.role is Role.CANDIDATE
    assert LEASE_MS <= harness.now_ms - handed_over_ms <= LEASE_MS + harness.settings.idle_poll_ms


# Moving.


def test_a_planned_move_publishes_hands_over_and_accepts_no_further_write() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    harness.send(events.HandOver("operator", "m2"))
    with pytest.raises(NoPrimary, match="being moved"):
        harness.machine.require_writable(1, 500, harness.now_ms)
    assert Acknowledge("w", 4) in harness.answer_swap()
    head = last_head(harness)
    assert (head.owner, head.machine, head.place) == (NOBODY, "m2", place(NEXT[0]))
    assert Acknowledge("operator", 4) in harness.answer_swap()
    assert harness.machine.role is Role.REPLICA


def test_a_move_that_cannot_be_published_is_given_up_and_the_primary_stays() -> None:
    harness = primary(LOG)
    harness.send(events.HandOver("operator", "m2"))
    for _ in range(8):
        harness.answer_swap(CONFLICT)
        harness.answer_read(NotModified(None))
        harness.wait(1_200)
    assert unknown_tickets(harness.done) == ["operator"]
    assert harness.machine.role is Role.PRIMARY
    harness.machine.require_writable(1, 500, harness.now_ms)


def test_a_machine_that_hands_over_at_shutdown_does_not_take_over_again() -> None:
    harness = primary(LOG)
    harness.send(events.HandOver("shutdown"))
    assert Acknowledge("shutdown", 3) in harness.answer_swap()
    assert (last_head(harness).owner, last_head(harness).machine) == (NOBODY, "")
    harness.journal_at(place(LOG[-1]))
    for _ in range(20):
        harness.answer_next_read(NotModified(None))
    (fail,) = harness.send(events.Promote("operator"))
    assert isinstance(fail, Fail)
    assert "shut down" in fail.error.message
    assert harness.machine.role is Role.REPLICA
    assert harness.machine.require_fresh(harness.now_ms) < 5_000  # it serves until it ends


def test_a_primary_that_is_shut_down_while_it_is_moved_waits_for_that_move() -> None:
    harness = primary(LOG)
    harness.send(events.HandOver("operator", "m2"))
    assert harness.send(events.HandOver("shutdown")) == []
    done = harness.answer_swap()
    assert {Acknowledge("operator", 3), Acknowledge("shutdown", 3)} == {a for a in done if isinstance(a, Acknowledge)}
    assert last_head(harness).machine == "m2"


def test_a_primary_that_cannot_publish_at_shutdown_steps_down_after_a_lease() -> None:
    harness = primary(LOG)
    harness.send(events.HandOver("shutdown"))
    for _ in range(8):
        harness.answer_swap(CONFLICT)
        harness.answer_read(NotModified(None))
        harness.wait(1_200)
    assert unknown_tickets(harness.done) == ["shutdown"]
    assert harness.machine.role is Role.REPLICA


def test_only_a_primary_can_be_moved() -> None:
    harness = Harness()
    (fail,) = harness.send(events.HandOver("operator", "m2"))
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, NoPrimary)


def test_moving_or_promoting_the_primary_to_itself_changes_nothing() -> None:
    harness = primary(LOG)
    assert harness.send(events.HandOver("a", "m1")) == [Acknowledge("a", 3)]
    assert harness.send(events.Promote("b")) == [Acknowledge("b", 3)]
    assert harness.machine.role is Role.PRIMARY


def test_a_primary_whose_litestream_never_succeeds_hands_over() -> None:
    harness = primary(LOG)
    publish(harness, NEXT[0])
    began_ms = harness.now_ms
    while harness.now_ms < began_ms + harness.settings.unsynced_ms + harness.settings.sync_ms:
        harness.renew()
        if last_head(harness).owner == NOBODY:
            break
    head = last_head(harness)
    assert (head.owner, head.machine, head.place) == (NOBODY, "", place(NEXT[0]))
    assert harness.now_ms - began_ms >= harness.settings.unsynced_ms
    harness.answer_swap()
    assert harness.machine.role is Role.REPLICA


def test_a_primary_that_had_nothing_to_sync_for_long_does_not_hand_over() -> None:
    harness = primary(LOG)
    for _ in range(40):
        harness.renew()
    publish(harness, NEXT[0])
    for _ in range(3):
        harness.renew()
    assert last_head(harness).owner != NOBODY


# After giving up.


def machine_that_gave_up() -> Harness:
    """Return a former primary that gave up because the store didn't answer. The head still names it."""
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    while harness.machine.role is Role.PRIMARY:
        harness.answer_swap(Unknown("down"))
        harness.wait(harness.settings.poll_ms)
        harness.answer_read(Unknown("down"))
    assert unknown_tickets(harness.done) == ["w"]
    return harness


def test_a_machine_that_gave_up_releases_the_lease_as_soon_as_the_store_answers() -> None:
    harness = machine_that_gave_up()
    head = harness.machine.head
    assert head is not None
    harness.answer_swap(Unknown("down"))
    harness.answer_next_read(Unknown("down"))
    harness.answer_next_read(NotModified(None))
    released = last_head(harness)
    assert (released.owner, released.machine, released.rev) == (NOBODY, "", head.rev + 1)
    assert (released.place, released.recent, released.base) == (head.place, head.recent, head.base)
    harness.answer_swap()
    before = harness.last(Swap)
    while harness.now_ms < 1_000_000 + 2 * LEASE_MS and harness.machine.role is Role.REPLICA:
        harness.answer_next_read(NotModified(None))
    assert harness.last(Swap) is before  # it releases the lease once, and then lets others go first


def test_a_machine_that_gave_up_does_not_name_itself_as_primary() -> None:
    harness = machine_that_gave_up()
    assert harness.machine.head is not None
    assert harness.machine.head.machine == "m1"
    assert harness.machine.primary is None


def test_a_release_keeps_the_entries_of_a_last_swap_that_landed_late() -> None:
    harness = machine_that_gave_up()
    late = next(decode_head(swap.body, KEYS) for swap in harness.all(Swap)[1:])
    assert late.recent[-1:] == (NEXT[0],)
    harness.answer_swap(CONFLICT)
    harness.answer_next_read(late)
    released = last_head(harness)
    assert (released.owner, released.rev, released.place, released.recent) == (
        NOBODY,
        late.rev + 1,
        late.place,
        late.recent,
    )


def test_a_promoted_machine_takes_over_only_once_the_outcome_of_its_release_is_known() -> None:
    harness = machine_that_gave_up()
    harness.answer_swap(Unknown("down"))
    harness.answer_next_read(NotModified(None))
    released = last_head(harness)
    harness.journal_at(released.place)
    harness.send(events.Promote("operator"))
    assert harness.machine.role is Role.REPLICA
    harness.answer_swap(CONFLICT)
    harness.answer_read(NotModified(None))
    assert harness.machine.role is Role.CANDIDATE
    harness.answer_next_read(released)  # the release has landed, and isn't a takeover
    assert harness.machine.role is not Role.PRIMARY
    assert Acknowledge("operator", 3) not in harness.done


def test_a_deposed_machine_releases_nothing() -> None:
    harness = machine_that_gave_up()
    harness.answer_swap(CONFLICT)
    sent = len(harness.all(Swap))
    harness.answer_next_read(taken_over(head_of(LOG, recent=1, rev=1, epoch=1)))
    harness.answer_next_read(NotModified(None))
    assert len(harness.all(Swap)) == sent
