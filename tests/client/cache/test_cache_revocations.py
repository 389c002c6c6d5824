"""A revoked token leaves the cache, for every kind of revocation. The negative controls show the opposite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.client.cache.model import controls
from tests.client.cache.model.realm import NOW_MS, Realm
from tests.client.cache.model.single import Single, branch_of
from tkdb import api, errors
from tkdb.macaroon import verify
from tkdb.macaroon.caveats import Act, Exp
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import Cache

# --- revoked branches -------------------------------------------------------------------------------------------------


def revoked_before_it_is_cached(single: Single) -> Macaroon:
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    single.realm.revoke(branch_of(child))
    single.ask(token)
    return child


def revoked_while_it_is_cached(single: Single) -> Macaroon:
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    single.ask(token)
    for _ in range(3):
        assert single.get(child) is not None
    single.realm.revoke(branch_of(child))
    single.poll()
    return child


@pytest.mark.parametrize("setting", [revoked_before_it_is_cached, revoked_while_it_is_cached])
def test_a_revoked_branch_is_denied_although_its_parent_is_cached(
    single: Single, setting: Callable[[Single], Macaroon]
) -> None:
    child = setting(single)
    for revoked in (child, child.narrow(Exp(1_900_000_000))):
        with pytest.raises(errors.RevokedToken):
            single.get(revoked)


@pytest.mark.parametrize(
    ("setting", "control"),
    [
        (revoked_before_it_is_cached, controls.BranchesNotStored),
        (revoked_while_it_is_cached, controls.BranchesNotLookedUp),
        (revoked_while_it_is_cached, controls.ignoring(api.Branch)),
    ],
)
def test_without_the_branch_checks_a_revoked_branch_is_accepted(
    setting: Callable[[Single], Macaroon], control: type[Cache]
) -> None:
    single = Single(control)
    assert single.get(setting(single).narrow(Exp(1_900_000_000))) is not None


def test_with_too_many_revoked_branches_only_the_exact_token_is_cached(single: Single) -> None:
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    for number in range(api.MAX_TOLD_BRANCHES + 1):
        single.realm.revoke(api.Branch(token.kid, token.nonce, number.to_bytes(16)))
    single.ask(token)
    assert single.get(token) is not None
    assert single.get(child) is None


def test_a_token_that_may_be_in_a_revoked_branch_is_verified_again(single: Single) -> None:
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    grandchild = child.narrow(Exp(1_900_000_000))
    single.ask(grandchild)  # Neither the token nor the child was ever presented.
    single.realm.revoke(branch_of(child))
    single.poll()
    assert single.get(grandchild) is None
    assert isinstance(single.ask(grandchild), errors.RevokedToken)


def test_a_minted_token_stays_cached_when_a_branch_of_its_lineage_is_revoked(single: Single) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.realm.revoke(branch_of(token.narrow(Act("r"))))
    single.poll()
    assert single.get(token) is not None
    assert single.get(token.narrow(Act("w"))) is not None


def test_a_token_whose_branch_is_revoked_during_the_walk_is_not_cached(
    single: Single, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed reports the revocation after the local verification and before the token is stored. Its parent stays."""
    token = single.realm.mint()
    child = token.narrow(Act("r"))
    single.ask(token)
    assert single.get(child) is not None
    keep = Cache._keep_walked

    def late(cache: Cache, *given: Any) -> None:
        single.realm.revoke(branch_of(child))
        single.poll()
        keep(cache, *given)

    monkeypatch.setattr(Cache, "_keep_walked", late)
    single.get(child)
    monkeypatch.undo()
    with pytest.raises(errors.RevokedToken):
        single.get(child)


# --- every kind of revocation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda token: api.Lineage(token.kid, token.nonce),
        lambda token: api.Branch(token.kid, token.nonce, token.branch),
        lambda token: api.IssuedBefore([token.kid], token.issued_ms + 1),
        lambda token: api.IssuedBefore([token.kid], subjects=[(verify.subject_digest("kim"), token.issued_ms + 1)]),
        lambda token: api.KeyRetired(token.kid),
    ],
    ids=["lineage", "branch", "issued before", "subject", "key"],
)
@pytest.mark.parametrize("applies", [True, False])
def test_a_revocation_in_the_feed_drops_the_token_and_its_child(
    make: Callable[[Macaroon], api.Revocation], applies: bool
) -> None:
    token = Realm().mint()
    revocation = make(token)
    single = Single(Cache if applies else controls.ignoring(type(revocation)))
    other = single.realm.mint(kid=single.realm.kids[1], number=1)
    for each in (token, other):
        single.ask(each)
    child = token.narrow(Act("r"))
    for _ in range(3):
        assert single.get(child) is not None
    single.realm.revoke(revocation)
    single.poll()
    cached = {single.get(token) is not None, single.get(child) is not None}
    assert cached == {not applies}  # Without the rule, both stay cached.
    assert single.get(other) is not None


@pytest.mark.parametrize(
    "revocation",
    [
        api.IssuedBefore([Realm().kids[0]], NOW_MS),
        api.IssuedBefore([Realm().kids[0]], subjects=[(verify.subject_digest("kim"), NOW_MS)]),
        api.IssuedBefore([Realm().kids[0]], subjects=[(verify.subject_digest("lee"), NOW_MS + 1)]),
        api.IssuedBefore([Realm().kids[1]], NOW_MS + 1),
        api.Lineage(Realm().kids[1], Realm().mint().nonce),
    ],
)
def test_a_token_that_a_revocation_does_not_cover_stays_cached(single: Single, revocation: api.Revocation) -> None:
    token = single.realm.mint()
    single.ask(token)
    single.realm.revoke(revocation)
    single.poll()
    assert single.get(token) is not None
