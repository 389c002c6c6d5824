"""Remembered narrowing gives exactly the same tokens as narrowing."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.cache.model.realm import Realm
from tkdb import errors
from tkdb.macaroon.caveats import Act, AnyCaveat, App, Aud, Exp
from tkdb.macaroon.token import Macaroon
from tkdb_client import narrowing
from tkdb_client.narrowing import Narrowing

TOKENS = [Realm().mint(number=number) for number in range(2)]
arguments = st.fixed_dictionaries(
    {
        "action": st.sampled_from([None, "r", "rw"]),
        "resource": st.sampled_from(
            [None, {"app": {"a": "r", "b": "w"}}, {"app": {"b": "w", "a": "r"}}, {"job": {"*": "r"}}]
        ),
        "audience": st.sampled_from([None, "shop"]),
        "prefix": st.sampled_from([None, {"object": {"logs/": "r"}}]),
        "ip": st.sampled_from([None, "10.0.0.0/8", ["10.0.0.0/8", "2001:db8::/32"]]),
        "method": st.sampled_from([None, "GET"]),
        "path": st.sampled_from([None, "/a", "/**"]),
        "expires_in_s": st.sampled_from([None, 1, 7.5, 60]),
    }
)


further = st.lists(st.sampled_from([App("plan", "pro"), App("plan", {"a": 1}), Act("r")]), max_size=2)


@given(st.lists(st.tuples(st.sampled_from(TOKENS), arguments, further, st.floats(0, 200), st.booleans()), max_size=30))
def test_remembered_narrowing_gives_the_same_token_as_narrow(
    calls: list[tuple[Any, dict[str, Any], list[AnyCaveat], float, bool]],
) -> None:
    remembers = Narrowing()
    for token, given_, caveats, now_s, as_text in calls:
        narrowed = remembers.narrow(token.text if as_text else token, *caveats, now_s=now_s, **given_)
        assert narrowed == token.narrow(*caveats, now_s=now_s, **given_)


def test_an_invalid_argument_is_refused_each_time() -> None:
    remembers = Narrowing()
    for _ in range(2):
        with pytest.raises(errors.InvalidCaveat):
            remembers.narrow(TOKENS[0], now_s=0, action="x")
        with pytest.raises(errors.InvalidCaveat):
            remembers.narrow(TOKENS[0], now_s=0, expires_in_s=0)


LARGE = TOKENS[0].extend([Aud("a" * 1_900 + str(number)) for number in range(7)])
MANY = TOKENS[0].extend([Exp(1_900_000_000 + number) for number in range(50)])


@pytest.mark.parametrize("token", [TOKENS[0], LARGE, MANY], ids=["small", "large", "many"])
def test_narrowed_tokens_take_at_most_their_share_of_memory(token: Macaroon, monkeypatch: pytest.MonkeyPatch) -> None:
    max_bytes = 1 << 20
    monkeypatch.setattr(narrowing, "MAX_BYTES", max_bytes)
    remembers = Narrowing()
    presented = [token.extend([Exp(1_800_000_000 + number)]).text for number in range(1_500)]
    remembers.narrow(presented[0], now_s=0, action="r")  # fills the memos of caveats
    gc.collect()
    tracemalloc.start()
    largest = 0
    for text in presented:
        remembers.narrow("".join(list(text)), now_s=0, action="r").text  # noqa: B018 -- the text is made on first use
        largest = max(largest, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(remembers._known) > 5
    assert largest < max_bytes * 1.3


def test_counting_narrowed_tokens_instead_of_weighing_them_lets_large_ones_take_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(narrowing, "_size", lambda narrowed: (1 << 20) // 1_024)
    with pytest.raises(AssertionError):
        test_narrowed_tokens_take_at_most_their_share_of_memory(LARGE, monkeypatch)
