"""What entries take, and which go; which keys are followed, by whom."""

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
    """Much in few bytes: a thousand short ids."""
    return [Res("app", {f"{number:03}{each:x}": "r" for each in range(600)})]


@pytest.mark.parametrize("said", [lambda _: [Act("r")], usual, wide], ids=["small", "usual", "wide"])
def test_an_entry_takes_about_as_much_memory_as_is_counted_for_it(said: Any) -> None:
    count = 200
    single = Single(max_bytes=1 << 30)
    raws = [single.realm.mint(*said(number), number=number).raw for number in range(count)]
    module._typed_kept.cache_clear()
    gc.collect()
    tracemalloc.start()
    for raw in raws:
        single.ask(Macaroon.parse(bytes(bytearray(raw))))
    module._typed_kept.cache_clear()  # what others keep is counted as if the entry alone kept it
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    counted = single.cache.info().bytes / count
    assert taken * 0.9 < counted < taken * 2


# --- followers -------------------------------------------------------------------------------------------------------


def kids(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(16) for number in range(first, first + count)]


def follow(followed: Subscriptions, wanted: list[bytes]) -> None:
    for kid in wanted:
        followed.key(kid, position=1)


def test_a_key_that_is_new_while_a_poll_is_under_way_gets_a_poll_at_once_and_then_shares_one() -> None:
    followed = Subscriptions()
    follow(followed, kids(10))
    main = followed.enlist(now_ms=0)
    assert main is not None
    assert len(followed.next_poll(main, due_ms=1_000).kids) == 10  # type: ignore[union-attr]
    assert followed.enlist(now_ms=0) is None  # all are polled
    follow(followed, kids(1, first=10))
    side = followed.enlist(now_ms=0)
    assert side is not None
    assert followed.next_poll(side, due_ms=1_000).kids == tuple(kids(1, first=10))  # type: ignore[union-attr]
    assert len(followed.next_poll(main, due_ms=2_000).kids) == 11  # type: ignore[union-attr]
    assert followed.next_poll(side, due_ms=2_000) is None


def test_more_keys_than_one_poll_carries_are_polled_by_several() -> None:
    followed = Subscriptions()
    follow(followed, kids(2_500))
    polled: list[bytes] = []
    while (follower := followed.enlist(now_ms=0)) is not None:
        poll = followed.next_poll(follower, due_ms=1_000)
        assert poll is not None
        assert len(poll.kids) <= api.MAX_KIDS
        polled += poll.kids
    assert sorted(polled) == kids(2_500)


def test_a_storm_of_keys_does_not_start_a_follower_for_each() -> None:
    followed = Subscriptions()
    began = 0
    for number in range(500):
        follow(followed, kids(1, first=number))
        follower = followed.enlist(now_ms=0)
        if follower is not None:
            began += 1
            followed.next_poll(follower, due_ms=1_000)
    assert began == 2


def test_a_follower_that_does_not_come_back_is_replaced() -> None:
    """Its thread isn't there any more: the process has forked, say."""
    followed = Subscriptions()
    follow(followed, kids(1))
    gone = followed.enlist(now_ms=0)
    assert gone is not None
    followed.next_poll(gone, due_ms=1_000)
    assert followed.enlist(now_ms=1_000) is None
    assert followed.enlist(now_ms=1_001) is not None


@settings(max_examples=profiles.CURRENT.many_examples)
@given(st.data())
def test_every_key_is_polled_soon_whatever_order_followers_come_in(data: st.DataObject) -> None:
    followed = Subscriptions()
    known = data.draw(st.sampled_from([3, 1_000, 1_500, 2_048]))
    follow(followed, kids(known))
    running: dict[int, tuple[bytes, ...]] = {}
    for _ in range(data.draw(st.integers(1, 15))):
        if data.draw(st.booleans()):
            known += 1
            follow(followed, kids(1, first=known))
        while (follower := followed.enlist(now_ms=0)) is not None:
            running[follower] = ()
            if (poll := followed.next_poll(follower, due_ms=1_000)) is not None:
                running[follower] = poll.kids
        back = data.draw(st.sampled_from(sorted(running)))
        if (poll := followed.next_poll(back, due_ms=1_000)) is None:
            del running[back]
            followed.dismiss(back)
        else:
            running[back] = poll.kids
        assert len(running) <= -(-known // api.MAX_KIDS) + 1
    for back in sorted(running):  # each comes back once
        poll = followed.next_poll(back, due_ms=1_000)
        running[back] = () if poll is None else poll.kids
    while (follower := followed.enlist(now_ms=0)) is not None:
        poll = followed.next_poll(follower, due_ms=1_000)
        running[follower] = () if poll is None else poll.kids
    polled = {kid for each in running.values() for kid in each}
    assert polled == {key.kid for key in followed}


def test_a_realm_tells_the_feed_as_the_authority_does() -> None:
    """The model's own journal: pages are whole, in order, and end where more follows."""
    realm = Realm()
    token = realm.mint()
    for number in range(5):
        realm.revoke(api.Lineage(token.kid, number.to_bytes(16)) if number % 2 else None)
    after, heard = realm.journal.position(0), 0
    while True:
        page = realm.feed([token.kid], realm.journal, after, 5, limit=1)
        heard += len(page.revocations)
        if not page.more:
            break
        assert page.position > after
        after = page.position
    assert (heard, page.position) == (2, realm.position)
