"""The primary: what it acknowledges, when it doubts, and how it stops being one."""

from __future__ import annotations

import pytest

from tests.replication.node.driven import entries, foreign, head_of, last_head, place, primary, publish, unknown
from tkdb.errors import InvalidRequest, NoPrimary, Overloaded
from tkdb_replication.bucket.objects import Conflict, Missing, NotModified, Unknown
from tkdb_replication.protocol import events
from tkdb_replication.protocol.actions import Acknowledge, Alarm, CutBack, Read, Serve, StopReplication, Swap, Sync
from tkdb_replication.protocol.state_machine import Role

LOG = entries(3)
NEXT = entries(300, epoch=1, after=LOG[-1])
LEASE_MS = 9_000
CONFLICT = Conflict(None)


# Acknowledged = swapped.


def test_a_write_is_acknowledged_when_a_head_names_it_and_not_before() -> None:
    driven = primary(LOG)
    done = driven.commits("w", NEXT[0])
    assert not [action for action in done if isinstance(action, Acknowledge | Serve)]
    assert last_head(driven).recent == (NEXT[0],)
    assert driven.machine.served == place(LOG[-1])
    done = driven.swapped()
    assert Acknowledge("w", 4) in done
    assert done.index(Serve(place(NEXT[0]))) < done.index(Acknowledge("w", 4))


def test_a_sync_alone_acknowledges_nothing() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    driven.wait(100)
    assert not [action for action in driven.synced() if isinstance(action, Acknowledge)]


def test_writes_that_come_while_a_swap_is_in_flight_share_the_next() -> None:
    driven = primary(LOG)
    for number in range(4):
        driven.commits(f"w{number}", NEXT[number])
    assert len(driven.all(Swap)) == 2  # the takeover's, and the first write's
    driven.swapped()
    assert last_head(driven).place == place(NEXT[3])
    done = driven.swapped()
    assert [action.ticket for action in done if isinstance(action, Acknowledge)] == ["w1", "w2", "w3"]


def test_a_batch_is_published_by_one_swap_and_acknowledged_when_a_head_names_its_last_entry() -> None:
    driven = primary(LOG)
    driven.commits("batch", *NEXT[:3])
    assert len(driven.all(Swap)) == 2  # the takeover's, and the batch's
    assert last_head(driven).recent == tuple(NEXT[:3])
    done = driven.swapped()
    assert [action for action in done if isinstance(action, Acknowledge)] == [Acknowledge("batch", 6)]


def test_no_head_names_a_part_of_a_batch_that_comes_while_a_swap_is_in_flight() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    driven.commits("batch", *NEXT[1:4])
    assert Acknowledge("w", 4) in driven.swapped()
    assert last_head(driven).place == place(NEXT[3])


def test_an_idle_primary_renews_every_third_of_a_lease_with_bytes_that_never_were() -> None:
    driven = primary(LOG)
    bodies, before_ms = set(), driven.now_ms
    for _ in range(5):
        driven.renews()
        bodies.add(driven.last(Swap).body)
    assert len(bodies) == 5
    assert driven.now_ms - before_ms == 5 * LEASE_MS // 3


def test_a_repeated_request_waits_for_the_swap_of_its_entry() -> None:
    driven = primary(LOG)
    driven.commits("first", NEXT[0])
    assert not driven.tell(events.Repeated("again", 4))
    done = driven.swapped()
    assert {Acknowledge("first", 4), Acknowledge("again", 4)} == {a for a in done if isinstance(a, Acknowledge)}
    assert driven.tell(events.Repeated("once more", 4)) == [Acknowledge("once more", 4)]


def test_a_primary_is_as_fresh_as_its_last_swap_was_sent() -> None:
    driven = primary(LOG)
    driven.wait(LEASE_MS // 3)
    driven.now_ms += 700
    driven.swapped()
    assert driven.machine.require_fresh(driven.now_ms) == 700


def test_a_primary_that_is_written_to_without_pause_stays_fresh() -> None:
    driven = primary(LOG)
    driven.serves_at_once = False
    for number in range(100):
        driven.commits(f"w{number}", NEXT[number])
        driven.now_ms += 100
        driven.swapped()
        if number:
            driven.tell(events.Served(place(NEXT[number - 1])))  # always one behind
        if number % 10 == 9:
            driven.wait(driven.settings.poll_ms)
            driven.synced()
    assert driven.machine.require_fresh(driven.now_ms) < 1_000


# Doubt.


@pytest.mark.parametrize("answer", [CONFLICT, Unknown("reset")], ids=["412", "reset"])
def test_after_a_swap_that_failed_the_head_is_read_at_once(answer: Conflict | Unknown) -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    (read,) = driven.swapped(answer)
    assert isinstance(read, Read)


def test_after_a_time_out_the_head_is_read_before_anything_is_swapped() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    swaps = len(driven.all(Swap))
    driven.wait(driven.settings.answer_ms)
    assert isinstance(driven.done[-1], Read)
    driven.wait(driven.settings.answer_ms)
    assert len(driven.all(Swap)) == swaps


def test_where_the_last_known_head_is_found_another_swap_is_tried() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    first = driven.last(Swap)
    driven.swapped(CONFLICT)
    driven.shown(NotModified(None))
    assert driven.last(Swap).attempt != first.attempt
    assert driven.last(Swap).etag == first.etag
    assert Acknowledge("w", 4) in driven.swapped()


def test_where_an_own_attempt_is_found_it_is_adopted() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    attempt = last_head(driven)
    driven.swapped(CONFLICT)  # something between had repeated it
    assert Acknowledge("w", 4) in driven.shown(attempt)
    assert driven.machine.role is Role.PRIMARY


def test_where_the_first_of_two_attempts_landed_late_it_is_adopted_and_the_rest_is_published() -> None:
    driven = primary(LOG)
    driven.commits("w0", NEXT[0])
    first = last_head(driven)
    driven.swapped(Unknown("time-out"))
    driven.commits("w1", NEXT[1])
    driven.shown(NotModified(None))
    assert last_head(driven).place == place(NEXT[1])
    driven.swapped(CONFLICT)
    done = driven.read_again(first)
    assert [action.ticket for action in done if isinstance(action, Acknowledge)] == ["w0"]
    assert Acknowledge("w1", 5) in driven.swapped()


def test_a_late_success_of_an_attempt_that_was_given_up_is_dropped() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    driven.wait(driven.settings.answer_ms)
    assert driven.swapped() == []


def test_where_anything_else_is_found_the_primary_steps_down() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    driven.swapped(CONFLICT)
    done = driven.shown(foreign(head_of(LOG, recent=1, rev=1, epoch=1)))
    assert driven.machine.role is Role.REPLICA
    assert StopReplication() in done
    assert unknown(done) == ["w"]
    assert isinstance(done[-1], CutBack)
    assert driven.machine.age_ms(driven.now_ms) is None


def test_a_deposed_primary_that_wakes_after_an_hour_acknowledges_nothing() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    driven.now_ms += 3_600_000
    done = driven.swapped(CONFLICT) + driven.shown(foreign(head_of(LOG, recent=1, rev=1, epoch=1)))
    assert not [action for action in done if isinstance(action, Acknowledge)]
    with pytest.raises(NoPrimary):
        driven.machine.require_writable(1, 500, driven.now_ms)


def test_a_primary_whose_head_is_gone_stops_loudly() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    driven.swapped(CONFLICT)
    done = driven.shown(Missing(None))
    assert any(isinstance(action, Alarm) for action in done)
    assert unknown(done) == ["w"]


def test_a_primary_whose_writes_have_failed_for_a_lease_lets_others_lead() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    for _ in range(8):
        driven.swapped(Unknown("down"))
        driven.read_again(NotModified(None))
        driven.wait(1_000)
    assert driven.machine.role is Role.REPLICA
    assert unknown(driven.done) == ["w"]


def test_a_commit_that_ends_after_stepping_down_is_unknown_and_cut_back() -> None:
    driven = primary(LOG)
    driven.machine.require_writable(1, 500, driven.now_ms)
    head = foreign(head_of(LOG, recent=1, rev=1, epoch=1))
    driven.read_again(head)
    driven.journal_at(head.place)
    done = driven.tell(events.Committed("w", (NEXT[0],)))
    assert unknown(done) == ["w"]
    assert isinstance(done[-1], CutBack)
    assert driven.machine.served is None


def test_a_store_that_always_refuses_is_asked_at_the_pace_of_polling() -> None:
    driven = primary(LOG)
    driven.commits("w", NEXT[0])
    before_ms = driven.now_ms
    for _ in range(10):
        driven.swapped(CONFLICT)
        driven.read_again(NotModified(None))
    assert driven.now_ms - before_ms >= 9 * driven.settings.poll_ms


# Recent, and Litestream.


def test_an_entry_stays_in_recent_until_litestream_has_it() -> None:
    driven = primary(LOG, recent_entries=8)
    publish(driven, *NEXT[:8])
    driven.wait(driven.settings.unsynced_ms - 1_000)
    with pytest.raises(Overloaded, match="send fewer writes"):
        driven.machine.require_writable(1, 500, driven.now_ms)
    assert len(last_head(driven).recent) == 8


def test_an_entry_that_litestream_has_still_stays_for_a_second() -> None:
    driven = primary(LOG, recent_entries=8)
    publish(driven, *NEXT[:8])
    driven.wait(driven.settings.sync_pace_ms - 1)
    driven.tell(events.SyncFailed(driven.last(Sync).sync))
    driven.wait(1)
    publish_ms = driven.now_ms
    driven.synced()
    driven.machine.require_writable(1, 500, publish_ms + 1)


def test_renewal_goes_on_while_litestream_stalls() -> None:
    driven = primary(LOG)
    publish(driven, NEXT[0])
    driven.wait(500)
    assert driven.last(Sync)
    before_ms = driven.now_ms
    for _ in range(4):
        driven.renews()
    assert driven.now_ms - before_ms <= 4 * LEASE_MS // 3


def test_a_stalled_sync_frees_nothing() -> None:
    driven = primary(LOG, recent_entries=4)
    publish(driven, *NEXT[:4])
    driven.wait(2_000)
    driven.synced(txid=9, replicated_txid=8)
    with pytest.raises(Overloaded):
        driven.machine.require_writable(1, 500, driven.now_ms)


def test_a_sync_covers_what_was_committed_when_it_was_asked_for_and_no_more() -> None:
    driven = primary(LOG, recent_entries=4)
    publish(driven, NEXT[0])
    driven.wait(1_000)
    publish(driven, *NEXT[1:4])
    driven.synced()
    driven.wait(40_000)
    assert [entry.seq for entry in last_head(driven).recent] == [5, 6, 7]


def test_what_litestream_has_leaves_in_the_end() -> None:
    driven = primary(LOG)
    publish(driven, *NEXT[:5])
    driven.wait(1_000)
    driven.synced()
    driven.wait(1_000)
    driven.synced()
    before_ms = driven.now_ms
    while driven.now_ms < before_ms + driven.settings.keep_ms:
        driven.renews()
    assert last_head(driven).recent == ()


def test_recent_never_exceeds_its_bytes() -> None:
    driven = primary(LOG, recent_bytes=2_000)
    with pytest.raises(InvalidRequest, match="at most 2000 are allowed"):
        driven.machine.require_writable(1, 2_001, driven.now_ms)
    publish(driven, *NEXT[:5])
    with pytest.raises(Overloaded):
        driven.machine.require_writable(1, 1_700, driven.now_ms)


def test_a_batch_that_outgrows_recent_is_told_to_be_smaller_whatever_its_last_write() -> None:
    driven = primary(LOG, recent_entries=4, recent_bytes=2_000)
    driven.machine.require_writable(4, 2_000, driven.now_ms)
    with pytest.raises(Overloaded):
        driven.machine.require_writable(5, 2_000, driven.now_ms)
    with pytest.raises(Overloaded):
        driven.machine.require_writable(2, 2_001, driven.now_ms)


def test_to_ask_for_room_makes_none() -> None:
    driven = primary(LOG)
    publish(driven, *NEXT[:5])
    driven.wait(2_000)
    driven.synced()
    driven.wait(2_000)
    for size in range(1, 250):
        driven.machine.require_writable(size, 250 * size, driven.now_ms)
    publish(driven, NEXT[5])
    assert [entry.seq for entry in last_head(driven).recent] == [4, 5, 6, 7, 8, 9]


def test_where_a_batch_was_promised_room_it_has_it() -> None:
    driven = primary(LOG, recent_entries=8)
    publish(driven, *NEXT[:8])
    driven.wait(1_000)
    driven.synced()
    driven.wait(1_000)
    driven.commits("batch", *NEXT[8:15])
    assert len(last_head(driven).recent) <= 8
    assert last_head(driven).place == place(NEXT[14])
