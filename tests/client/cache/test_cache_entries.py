"""The memory of cache entries, and the followers that poll the subscribed keys."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import profiles
from tests.client.cache.model.realm import Realm
from tests.client.cache.model.single import Single
from tkdb import api
from tkdb.macaroon import caveats as module
from tkdb.macaroon.caveats import Act, AnyCaveat, Aud, Exp, Req, Res, Sub
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.subscriptions import Subscriptions


def usual(number: int) -> list[AnyCaveat]:
    return [
        Exp(2_000_000_000 + number),
        Act("rw"),
        Res("app", {f"app-{number}": "rw"}),
        Aud("https://api.acme.example"),
        Sub(f"user-{number}"),
        Req(("GET",), (f"/v1/apps/{number}/*",)),
    ]


def wide(number: int) -> list[AnyCaveat]:
    """Return a caveat of few bytes with many objects: 600 short ids."""
    return [Res("app", {f"{number:03}{each:x}": "r" for each in range(600)})]


def rare(number: int) -> list[AnyCaveat]:
    """Return long texts, each with one rare character, so that CPython stores each character in 4 bytes."""
    return [Aud("a" * 1_900 + f"\U0001f600{number}{each}") for each in range(7)]


@pytest.mark.parametrize(
    "make_caveats", [lambda _: [Act("r")], usual, wide, rare], ids=["small", "usual", "wide", "rare"]
)
def test_the_counted_bytes_of_an_entry_are_close_to_its_memory(make_caveats: Any) -> None:
    count = 200
    single = Single(max_bytes=1 << 30)
    raws = [single.realm.mint(*make_caveats(number), number=number).raw for number in range(count)]
    module._kept.cache_clear()
    gc.collect()
    tracemalloc.start()
    for raw in raws:
        single.ask(Macaroon.parse(bytes(bytearray(raw))))
    module._kept.cache_clear()  # Shared caveats are counted as if only the entry kept them.
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    counted = single.cache.info().bytes / count
    assert taken * 0.9 < counted < taken * 2


# --- followers -------------------------------------------------------------------------------------------------------


def kids(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(16) for number in range(first, first + count)]


def follow(subscriptions: Subscriptions, wanted: list[bytes]) -> None:
    for kid in wanted:
        subscriptions.key(kid, position=1)


def test_a_new_key_gets_a_poll_at_once_and_later_shares_one() -> None:
    subscriptions = Subscriptions()
    follow(subscriptions, kids(10))
    main = subscriptions.enlist(now_ms=0)
    assert main is not None
    assert len(subscriptions.next_poll(main, due_ms=1_000).kids) == 10  # type: ignore[union-attr]
    assert subscriptions.enlist(now_ms=0) is None  # Every key has a poll.
    follow(subscriptions, kids(1, first=10))
    side = subscriptions.enlist(now_ms=0)
    assert side is not None
    assert subscriptions.next_poll(side, due_ms=1_000).kids == tuple(kids(1, first=10))  # type: ignore[union-attr]
    assert len(subscriptions.next_poll(main, due_ms=2_000).kids) == 11  # type: ignore[union-attr]
    assert subscriptions.next_poll(side, due_ms=2_000) is None


def test_keys_beyond_the_limit_of_a_poll_are_split_over_several() -> None:
    subscriptions = Subscriptions()
    follow(subscriptions, kids(2_500))
    polled: list[bytes] = []
    while (follower := subscriptions.enlist(now_ms=0)) is not None:
        poll = subscriptions.next_poll(follower, due_ms=1_000)
        assert poll is not None
        assert len(poll.kids) <= api.MAX_KIDS
        polled += poll.kids
    assert sorted(polled) == kids(2_500)


def test_a_burst_of_new_keys_does_not_start_a_follower_for_each_key() -> None:
    subscriptions = Subscriptions()
    began = 0
    for number in range(500):
        follow(subscriptions, kids(1, first=number))
        follower = subscriptions.enlist(now_ms=0)
        if follower is not None:
            began += 1
            subscriptions.next_poll(follower, due_ms=1_000)
    assert began == 2


def test_a_follower_that_misses_its_due_time_is_replaced() -> None:
    """Its thread may be gone, for example after a fork."""
    subscriptions = Subscriptions()
    follow(subscriptions, kids(1))
    gone = subscriptions.enlist(now_ms=0)
    assert gone is not None
    subscriptions.next_poll(gone, due_ms=1_000)
    assert subscriptions.enlist(now_ms=1_000) is None
    assert subscriptions.enlist(now_ms=1_001) is not None


@settings(max_examples=profiles.CURRENT.many_examples)
@given(st.data())
def test_every_key_is_polled_soon_in_any_order_of_followers(data: st.DataObject) -> None:
    subscriptions = Subscriptions()
    known = data.draw(st.sampled_from([3, 1_000, 1_500, 2_048]))
    follow(subscriptions, kids(known))
    running: dict[int, tuple[bytes, ...]] = {}
    for _ in range(data.draw(st.integers(1, 15))):
        if data.draw(st.booleans()):
            known += 1
            follow(subscriptions, kids(1, first=known))
        while (follower := subscriptions.enlist(now_ms=0)) is not None:
            running[follower] = ()
            if (poll := subscriptions.next_poll(follower, due_ms=1_000)) is not None:
                running[follower] = poll.kids
        back = data.draw(st.sampled_from(sorted(running)))
        if (poll := subscriptions.next_poll(back, due_ms=1_000)) is None:
            del running[back]
            subscriptions.dismiss(back)
        else:
            running[back] = poll.kids
        assert len(running) <= -(-known // api.MAX_KIDS) + 1
    for back in sorted(running):  # Each follower returns once.
        poll = subscriptions.next_poll(back, due_ms=1_000)
        running[back] = () if poll is None else poll.kids
    while (follower := subscriptions.enlist(now_ms=0)) is not None:
        poll = subscriptions.next_poll(follower, due_ms=1_000)
        running[follower] = () if poll is None else poll.kids
    polled = {kid for each in running.values() for kid in each}
    assert polled == {key.kid for key in subscriptions}


def test_the_realm_splits_its_feed_into_complete_pages_in_order() -> None:
    """``limit`` splits the feed as the authority does: complete pages in order, and `more` on all but the last."""
    realm = Realm()
    token = realm.mint()
    for number in range(5):
        realm.revoke(api.Lineage(token.kid, number.to_bytes(16)) if number % 2 else None)
    after, count = realm.journal.position(0), 0
    while True:
        page = realm.feed([token.kid], realm.journal, after, 5, limit=1)
        count += len(page.revocations)
        if not page.more:
            break
        assert page.position > after
        after = page.position
    assert (count, page.position) == (2, realm.position)
