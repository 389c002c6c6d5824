"""The primary: what a swap acknowledges, what an unknown outcome causes, and how ``recent`` is kept within limits."""

from __future__ import annotations

import pytest

from tests.replication.protocol.harness import (
    entries,
    head_of,
    last_head,
    place,
    primary,
    publish,
    taken_over,
    unknown_tickets,
)
from tkdb.errors import InvalidRequest, NoPrimary, Overloaded
from tkdb_replication.bucket.objects import Conflict, Missing, NotModified, Unknown
from tkdb_replication.protocol import events
from tkdb_replication.protocol.actions import Acknowledge, Alarm, CutBack, Read, Serve, StopReplication, Swap, Sync
from tkdb_replication.protocol.state_machine import Role

LOG = entries(3)
NEXT = entries(300, epoch=1, after=LOG[-1])
LEASE_MS = 9_000
CONFLICT = Conflict(None)


# Acknowledgements.


def test_a_write_is_acknowledged_when_a_head_names_it_and_not_before() -> None:
    harness = primary(LOG)
    done = harness.commit("w", NEXT[0])
    assert not [action for action in done if isinstance(action, Acknowledge | Serve)]
    assert last_head(harness).recent == (NEXT[0],)
    assert harness.machine.served == place(LOG[-1])
    done = harness.answer_swap()
    assert Acknowledge("w", 4) in done
    assert done.index(Serve(place(NEXT[0]))) < done.index(Acknowledge("w", 4))


def test_a_sync_alone_acknowledges_nothing() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    harness.wait(100)
    assert not [action for action in harness.answer_sync() if isinstance(action, Acknowledge)]


def test_writes_that_arrive_while_a_swap_is_in_flight_share_the_next_swap() -> None:
    harness = primary(LOG)
    for number in range(4):
        harness.commit(f"w{number}", NEXT[number])
    assert len(harness.all(Swap)) == 2  # the takeover's, and the first write's
    harness.answer_swap()
    assert last_head(harness).place == place(NEXT[3])
    done = harness.answer_swap()
    assert [action.ticket for action in done if isinstance(action, Acknowledge)] == ["w1", "w2", "w3"]


def test_a_batch_is_published_by_one_swap_and_acknowledged_when_a_head_names_its_last_entry() -> None:
    harness = primary(LOG)
    harness.commit("batch", *NEXT[:3])
    assert len(harness.all(Swap)) == 2  # the takeover's, and the batch's
    assert last_head(harness).recent == tuple(NEXT[:3])
    done = harness.answer_swap()
    assert [action for action in done if isinstance(action, Acknowledge)] == [Acknowledge("batch", 6)]


def test_no_head_names_a_part_of_a_batch_that_arrives_while_a_swap_is_in_flight() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    harness.commit("batch", *NEXT[1:4])
    assert Acknowledge("w", 4) in harness.answer_swap()
    assert last_head(harness).place == place(NEXT[3])


def test_an_idle_primary_renews_every_third_of_a_lease_with_unique_bytes() -> None:
    harness = primary(LOG)
    bodies, before_ms = set(), harness.now_ms
    for _ in range(5):
        harness.renew()
        bodies.add(harness.last(Swap).body)
    assert len(bodies) == 5
    assert harness.now_ms - before_ms == 5 * LEASE_MS // 3


def test_a_repeated_request_waits_for_the_swap_of_its_entry() -> None:
    harness = primary(LOG)
    harness.commit("first", NEXT[0])
    assert not harness.send(events.Repeated("again", 4))
    done = harness.answer_swap()
    assert {Acknowledge("first", 4), Acknowledge("again", 4)} == {a for a in done if isinstance(a, Acknowledge)}
    assert harness.send(events.Repeated("once more", 4)) == [Acknowledge("once more", 4)]


def test_a_primarys_age_counts_from_the_sending_of_its_last_swap() -> None:
    harness = primary(LOG)
    harness.wait(LEASE_MS // 3)
    harness.now_ms += 700
    harness.answer_swap()
    assert harness.machine.require_fresh(harness.now_ms) == 700


def test_a_primary_under_constant_writes_stays_fresh() -> None:
    harness = primary(LOG)
    harness.serves_at_once = False
    for number in range(100):
        harness.commit(f"w{number}", NEXT[number])
        harness.now_ms += 100
        harness.answer_swap()
        if number:
            harness.send(events.Served(place(NEXT[number - 1])))  # always one entry late
        if number % 10 == 9:
            harness.wait(harness.settings.poll_ms)
            harness.answer_sync()
    assert harness.machine.require_fresh(harness.now_ms) < 1_000


# Swaps that fail or have an unknown outcome.


@pytest.mark.parametrize("answer", [CONFLICT, Unknown("reset")], ids=["412", "reset"])
def test_after_a_failed_swap_the_head_is_read_at_once(answer: Conflict | Unknown) -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    (read,) = harness.answer_swap(answer)
    assert isinstance(read, Read)


def test_after_a_timeout_the_head_is_read_before_the_next_swap() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    swaps = len(harness.all(Swap))
    harness.wait(harness.settings.answer_ms)
    assert isinstance(harness.done[-1], Read)
    harness.wait(harness.settings.answer_ms)
    assert len(harness.all(Swap)) == swaps


def test_if_the_head_is_unchanged_another_swap_is_tried() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    first = harness.last(Swap)
    harness.answer_swap(CONFLICT)
    harness.answer_read(NotModified(None))
    assert harness.last(Swap).attempt != first.attempt
    assert harness.last(Swap).etag == first.etag
    assert Acknowledge("w", 4) in harness.answer_swap()


def test_if_the_head_is_an_own_attempt_it_is_adopted() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    attempt = last_head(harness)
    harness.answer_swap(CONFLICT)  # something on the path has repeated the swap
    assert Acknowledge("w", 4) in harness.answer_read(attempt)
    assert harness.machine.role is Role.PRIMARY


def test_a_first_attempt_that_landed_late_is_adopted_and_the_rest_is_published() -> None:
    harness = primary(LOG)
    harness.commit("w0", NEXT[0])
    first = last_head(harness)
    harness.answer_swap(Unknown("time-out"))
    harness.commit("w1", NEXT[1])
    harness.answer_read(NotModified(None))
    assert last_head(harness).place == place(NEXT[1])
    harness.answer_swap(CONFLICT)
    done = harness.answer_next_read(first)
    assert [action.ticket for action in done if isinstance(action, Acknowledge)] == ["w0"]
    assert Acknowledge("w1", 5) in harness.answer_swap()


def test_a_late_success_of_an_attempt_that_was_given_up_is_dropped() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    harness.wait(harness.settings.answer_ms)
    assert harness.answer_swap() == []


def test_if_the_head_is_another_machines_the_primary_steps_down() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    harness.answer_swap(CONFLICT)
    done = harness.answer_read(taken_over(head_of(LOG, recent=1, rev=1, epoch=1)))
    assert harness.machine.role is Role.REPLICA
    assert StopReplication() in done
    assert unknown_tickets(done) == ["w"]
    assert isinstance(done[-1], CutBack)
    assert harness.machine.age_ms(harness.now_ms) is None


def test_a_deposed_primary_that_wakes_after_an_hour_acknowledges_nothing() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    harness.now_ms += 3_600_000
    done = harness.answer_swap(CONFLICT) + harness.answer_read(taken_over(head_of(LOG, recent=1, rev=1, epoch=1)))
    assert not [action for action in done if isinstance(action, Acknowledge)]
    with pytest.raises(NoPrimary):
        harness.machine.require_writable(1, 500, harness.now_ms)


def test_a_primary_whose_head_is_missing_raises_an_alarm() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    harness.answer_swap(CONFLICT)
    done = harness.answer_read(Missing(None))
    assert any(isinstance(action, Alarm) for action in done)
    assert unknown_tickets(done) == ["w"]


def test_a_primary_whose_swaps_fail_for_a_lease_steps_down() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    for _ in range(8):
        harness.answer_swap(Unknown("down"))
        harness.answer_next_read(NotModified(None))
        harness.wait(1_000)
    assert harness.machine.role is Role.REPLICA
    assert unknown_tickets(harness.done) == ["w"]


def test_a_commit_that_ends_after_stepping_down_is_unknown_and_cut_back() -> None:
    harness = primary(LOG)
    harness.machine.require_writable(1, 500, harness.now_ms)
    head = taken_over(head_of(LOG, recent=1, rev=1, epoch=1))
    harness.answer_next_read(head)
    harness.journal_at(head.place)
    done = harness.send(events.Committed("w", (NEXT[0],)))
    assert unknown_tickets(done) == ["w"]
    assert isinstance(done[-1], CutBack)
    assert harness.machine.served is None


def test_a_store_that_always_refuses_is_retried_at_the_polling_interval() -> None:
    harness = primary(LOG)
    harness.commit("w", NEXT[0])
    before_ms = harness.now_ms
    for _ in range(10):
        harness.answer_swap(CONFLICT)
        harness.answer_next_read(NotModified(None))
    assert harness.now_ms - before_ms >= 9 * harness.settings.poll_ms


# ``recent`` and Litestream.


def test_an_entry_stays_in_recent_until_litestream_has_it() -> None:
    harness = primary(LOG, recent_entries=8)
    publish(harness, *NEXT[:8])
    harness.wait(harness.settings.unsynced_ms - 1_000)
    with pytest.raises(Overloaded, match="send fewer writes"):
        harness.machine.require_writable(1, 500, harness.now_ms)
    assert len(last_head(harness).recent) == 8


def test_a_synced_entry_may_leave_recent_after_a_second() -> None:
    harness = primary(LOG, recent_entries=8)
    publish(harness, *NEXT[:8])
    harness.wait(harness.settings.sync_pace_ms - 1)
    harness.send(events.SyncFailed(harness.last(Sync).sync))
    harness.wait(1)
    publish_ms = harness.now_ms
    harness.answer_sync()
    harness.machine.require_writable(1, 500, publish_ms + 1)


def test_renewal_continues_while_litestream_stalls() -> None:
    harness = primary(LOG)
    publish(harness, NEXT[0])
    harness.wait(500)
    assert harness.last(Sync)
    before_ms = harness.now_ms
    for _ in range(4):
        harness.renew()
    assert harness.now_ms - before_ms <= 4 * LEASE_MS // 3


def test_a_stalled_sync_frees_no_room() -> None:
    harness = primary(LOG, recent_entries=4)
    publish(harness, *NEXT[:4])
    harness.wait(2_000)
    harness.answer_sync(txid=9, replicated_txid=8)
    with pytest.raises(Overloaded):
        harness.machine.require_writable(1, 500, harness.now_ms)


def test_a_sync_covers_only_entries_committed_before_its_request() -> None:
    harness = primary(LOG, recent_entries=4)
    publish(harness, NEXT[0])
    harness.wait(1_000)
    publish(harness, *NEXT[1:4])
    harness.answer_sync()
    harness.wait(40_000)
    assert [entry.seq for entry in last_head(harness).recent] == [5, 6, 7]


def test_synced_entries_eventually_leave_recent() -> None:
    harness = primary(LOG)
    publish(harness, *NEXT[:5])
    harness.wait(1_000)
    harness.answer_sync()
    harness.wait(1_000)
    harness.answer_sync()
    before_ms = harness.now_ms
    while harness.now_ms < before_ms + harness.settings.keep_ms:
        harness.renew()
    assert last_head(harness).recent == ()


def test_recent_never_exceeds_its_limit_in_bytes() -> None:
    harness = primary(LOG, recent_bytes=2_000)
    with pytest.raises(InvalidRequest, match="at most 2000 are allowed"):
        harness.machine.require_writable(1, 2_001, harness.now_ms)
    publish(harness, *NEXT[:5])
    with pytest.raises(Overloaded):
        harness.machine.require_writable(1, 1_700, harness.now_ms)


def test_a_batch_that_outgrows_recent_is_refused_as_overloaded() -> None:
    harness = primary(LOG, recent_entries=4, recent_bytes=2_000)
    harness.machine.require_writable(4, 2_000, harness.now_ms)
    with pytest.raises(Overloaded):
        harness.machine.require_writable(5, 2_000, harness.now_ms)
    with pytest.raises(Overloaded):
        harness.machine.require_writable(2, 2_001, harness.now_ms)


def test_asking_for_room_removes_no_entries() -> None:
    harness = primary(LOG)
    publish(harness, *NEXT[:5])
    harness.wait(2_000)
    harness.answer_sync()
    harness.wait(2_000)
    for size in range(1, 250):
        harness.machine.require_writable(size, 250 * size, harness.now_ms)
    publish(harness, NEXT[5])
    assert [entry.seq for entry in last_head(harness).recent] == [4, 5, 6, 7, 8, 9]


def test_a_batch_that_was_promised_room_fits() -> None:
    harness = primary(LOG, recent_entries=8)
    publish(harness, *NEXT[:8])
    harness.wait(1_000)
    harness.answer_sync()
    harness.wait(1_000)
    harness.commit("batch", *NEXT[8:15])
    assert len(last_head(harness).recent) <= 8
    assert last_head(harness).place == place(NEXT[14])
