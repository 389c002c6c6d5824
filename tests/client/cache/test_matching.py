"""The revocations that cover a token: each one, and all of a key combined."""

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
def test_combined_revocations_cover_exactly_what_one_of_them_covers(
    given_: list[WideRevocation], subject: str | None, at_ms: int
) -> None:
    token = Realm().mint(at_ms=at_ms)
    assert KeyRevocations(given_).covers(token, subject) == any(covers(each, token, subject) for each in given_)


def test_a_page_of_many_subjects_checks_each_token_of_the_key_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of each token for each subject took a minute, and blocked every other verification."""
    single = Single()
    tokens = [single.realm.mint(number=number) for number in range(50)]
    for token in tokens:
        single.ask(token)
    checks = 0
    covers_ = KeyRevocations.covers

    def counted(*given: object) -> bool:
        nonlocal checks
        checks += 1
        return covers_(*given)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(KeyRevocations, "covers", counted)
    for number in range(511):
        single.realm.revoke(api.IssuedBefore([KID], subjects=[(subject_digest(f"user-{number}"), NOW_MS + 1)]))
    single.poll()
    assert checks == len(tokens)
    assert all(single.get(token) is not None for token in tokens)
    single.realm.revoke(api.IssuedBefore([KID], subjects=[(subject_digest("kim"), NOW_MS + 1)]))
    single.poll()
    assert single.cache.info().entries == 0
