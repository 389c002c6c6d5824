"""What revocations say of a token: one by one, and summed up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.cache.model.realm import NOW_MS, Realm
from tests.client.cache.model.single import Single
from tkdb import api
from tkdb.macaroon.verify import subject_digest
from tkdb_client.cache.matching import KeyRevocations, WideRevocation, covers

KID = Realm().kids[0]
times = st.integers(NOW_MS - 2, NOW_MS + 2)
revocations: st.SearchStrategy[WideRevocation] = st.one_of(
    st.builds(
        api.IssuedBefore,
        st.just([KID]),
        times | st.just(0),
        st.lists(st.tuples(st.sampled_from("ab").map(subject_digest), times), max_size=3),
    ),
    st.builds(api.KeyRetired, st.just(KID)),
)


@given(st.lists(revocations, max_size=6), st.sampled_from(["a", "b", "c", None]), times)
def test_summed_up_revocations_cover_what_one_of_them_covers(
    given_: list[WideRevocation], subject: str | None, at_ms: int
) -> None:
    token = Realm().mint(at_ms=at_ms)
    assert KeyRevocations(given_).covers(token, subject) == any(covers(each, token, subject) for each in given_)


def test_a_page_full_of_subjects_goes_through_a_key_s_tokens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at each token for each subject took a minute, in which nothing else was verified."""
    single = Single()
    tokens = [single.realm.mint(number=number) for number in range(50)]
    for token in tokens:
        single.ask(token)
    looks = 0
    look = KeyRevocations.covers

    def counted(*given: object) -> bool:
        nonlocal looks
        looks += 1
        return look(*given)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(KeyRevocations, "covers", counted)
    for number in range(511):
        single.realm.revoke(api.IssuedBefore([KID], subjects=[(subject_digest(f"user-{number}"), NOW_MS + 1)]))
    single.poll()
    assert looks == len(tokens)
    assert all(single.get(token) is not None for token in tokens)
    single.realm.revoke(api.IssuedBefore([KID], subjects=[(subject_digest("kim"), NOW_MS + 1)]))
    single.poll()
    assert single.cache.info().entries == 0
