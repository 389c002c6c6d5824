"""The request and the result of each method, for both clients and on a real socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.client.fake_authority import FakeAuthority, report
from tkdb import api, errors
from tkdb.macaroon.caveats import Act, App, Aud, Exp, Res, Sub, decode
from tkdb.macaroon.token import Macaroon
from tkdb_client import Access

FAR_S = 2_000_000_000


def valid(call: Any) -> api.Verified:
    return api.Verified(results=[api.Valid(organization="acme") for _ in call.bundles])


def calls(authority: FakeAuthority) -> list[Any]:
    return [request.call for request in authority.requests]


def test_a_verified_token_clears_and_denies_by_its_caveats(
    client: Any, authority: FakeAuthority, token: Macaroon
) -> None:
    authority.handler = valid
    verified = client.call("verify", client.client.narrow(token, action="r", expires_in_s=60))
    assert verified.organization == "acme"
    verified.clear(Access(organization="acme", action="r"))
    with pytest.raises(errors.CaveatUnmet, match="the request is w"):
        verified.clear(Access(organization="acme", action="w"))


@pytest.mark.parametrize("form", ["{}", "Bearer {}", "bearer  {} ", " {}\n"])
def test_a_token_is_read_from_text_and_header(
    client: Any, authority: FakeAuthority, token: Macaroon, form: str
) -> None:
    authority.handler = valid
    assert client.call("verify", form.format(token.text)).macaroon == token
    assert calls(authority)[0].bundles == [token.text]


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda text: text[:-1], errors.TruncatedToken),
        (lambda text: text[: len(text) // 2], errors.TruncatedToken),
        (lambda text: "", errors.MalformedToken),
        (lambda text: "Basic " + text, errors.MalformedToken),
        (lambda text: text + "," + text[:-1], errors.TruncatedToken),
        (lambda text: "tkdb_\ud800\N{SNOWMAN}", errors.Denied),
        (lambda text: text + "A" * 100_000, errors.OverLimit),
    ],
)
def test_a_damaged_token_is_denied_by_the_client_and_never_sent(
    client: Any, authority: FakeAuthority, token: Macaroon, damage: Callable[[str], str], kind: type[errors.Denied]
) -> None:
    for method in ("verify", "revoke"):
        with pytest.raises(kind) as raised:
            client.call(method, damage(token.text))
        assert token.text[:60] not in str(raised.value)
    assert authority.requests == []


def test_the_error_for_a_truncated_token_has_a_hint(client: Any, token: Macaroon) -> None:
    with pytest.raises(errors.TruncatedToken, match="copy it again, whole"):
        client.call("verify", token.text[:-9])


def test_verify_many_keeps_the_order_and_sends_no_damaged_token(
    client: Any, authority: FakeAuthority, mint_one: Callable[..., Macaroon]
) -> None:
    first, second = mint_one(Exp(FAR_S)), mint_one(Exp(FAR_S), Act("r"))
    revoked = api.Invalid(reason=errors.Reason.REVOKED, message="revoked", caveat=2)
    authority.handler = lambda call: api.Verified(results=[api.Valid(organization="acme"), revoked])
    results = client.call("verify_many", [first, "nonsense", second.text])
    assert results[0].macaroon == first
    assert isinstance(results[1], errors.MalformedToken)
    assert isinstance(results[2], errors.RevokedToken)
    assert results[2].caveat == 2
    assert [call.bundles for call in calls(authority)] == [[first.text, second.text]]


def test_verify_many_of_no_tokens_sends_no_request(client: Any, authority: FakeAuthority) -> None:
    assert client.call("verify_many", []) == []
    assert authority.requests == []


@pytest.mark.parametrize(("count", "size"), [(600, 1), (40, 3_000)])
def test_many_tokens_are_split_into_requests_that_fit(
    client: Any, authority: FakeAuthority, mint_one: Callable[..., Macaroon], count: int, size: int
) -> None:
    authority.handler = valid
    tokens = [mint_one(Exp(FAR_S), App("pad", "x" * size)) for _ in range(count)]
    results = client.call("verify_many", tokens)
    assert [each.macaroon for each in results] == tokens
    assert len(authority.requests) == 3
    assert all(len(request.message) <= 65_535 for request in authority.requests)


def test_an_answer_with_the_wrong_number_of_results_is_rejected(
    client: Any, authority: FakeAuthority, token: Macaroon
) -> None:
    authority.handler = lambda call: api.Verified(results=[])
    with pytest.raises(errors.ChannelError, match="number of results"):
        client.call("verify", token)


def test_a_fact_appended_by_a_holder_denies_even_if_the_chain_is_valid(
    client: Any, authority: FakeAuthority, mint_one: Callable[..., Macaroon]
) -> None:
    authority.handler = valid
    honest = mint_one(Exp(FAR_S), Sub("kim"))
    forged = Macaroon.parse(honest.raw.replace(b"k" * 16 + honest.nonce + b"\x02", b"k" * 16 + honest.nonce + b"\x01"))
    assert client.call("verify", honest).subject == "kim"
    with pytest.raises(errors.CaveatUnmet, match="states a fact"):
        client.call("verify", forged)


def test_mint_sends_its_caveats_in_a_stable_order(client: Any, authority: FakeAuthority, token: Macaroon) -> None:
    authority.handler = lambda _: api.Minted(token=token.text, expires_s=FAR_S)
    extra = App("ticket", 7)
    minted = client.call(
        "mint",
        "acme",
        extra,
        resource={"app": {"shop": "rw"}},
        action="rw",
        audience="shop",
        subject="kim",
        expires_in_s=3600,
    )
    assert minted == token
    (call,) = calls(authority)
    assert (call.organization, call.expires_in_s) == ("acme", 3600)
    assert [decode(cid) for cid in call.caveats] == [
        Sub("kim"),
        Aud("shop"),
        Act("rw"),
        Res("app", {"shop": "rw"}),
        extra,
    ]


def test_an_invalid_caveat_is_refused_before_a_request_is_sent(client: Any, authority: FakeAuthority) -> None:
    with pytest.raises(errors.InvalidCaveat):
        client.call("mint", "acme", action="everything")
    assert authority.requests == []


def test_a_signer_revokes_the_lineage_of_a_minted_token_and_the_branch_of_an_attenuated_one(
    client: Any, authority: FakeAuthority, token: Macaroon
) -> None:
    authority.handler = lambda _: api.Revoked(already=False)
    child = token.narrow(Act("r"))
    client.call("revoke", token)
    client.call("revoke", child.text)
    assert [call.targets for call in calls(authority)] == [
        [api.Lineage(kid=token.kid, nonce=token.nonce)],
        [api.Branch(kid=token.kid, nonce=token.nonce, branch=child.branch)],
    ]


def test_a_client_without_a_signer_revokes_by_sending_the_token(
    connect: Any, authority: FakeAuthority, token: Macaroon
) -> None:
    authority.handler = lambda _: api.Revoked(already=True)
    assert connect(signer=None).call("revoke", f"Bearer {token.text}") is True
    (request,) = authority.requests
    assert (request.path, request.call) == (api.REVOKE, api.RevokeOwn(token=token.text))
    assert "tkdb-signer" not in request.headers


def test_many_revocations_are_split_into_requests_that_fit(
    client: Any, authority: FakeAuthority, mint_one: Callable[..., Macaroon]
) -> None:
    answers = iter([True, False])
    authority.handler = lambda _: api.Revoked(already=next(answers))
    tokens = [mint_one(Exp(FAR_S)).narrow(Act("r")) for _ in range(1000)]
    assert client.call("revoke_many", tokens) is False
    assert sum(len(call.targets) for call in calls(authority)) == 1000
    assert len(authority.requests) == 2


def test_revocations_by_time_and_by_key_send_their_targets(client: Any, authority: FakeAuthority) -> None:
    authority.handler = lambda _: api.Revoked(already=False)
    client.call("revoke_before", "acme")
    client.call("revoke_before", "acme", before_ms=5, subject="kim")
    client.call("retire_key", b"k" * 16)
    assert [call.targets for call in calls(authority)] == [
        [api.Before(organization="acme")],
        [api.Before(organization="acme", before_ms=5, subject="kim")],
        [api.RetireKey(kid=b"k" * 16)],
    ]


def test_the_feed_is_returned_as_the_authority_sends_it(client: Any, authority: FakeAuthority) -> None:
    feed = api.Feed(position=9, revocations=[api.KeyRetired(kid=b"k" * 16)], more=True)
    authority.handler = lambda _: feed
    assert client.call("revocations", [b"k" * 16], after=3, wait_ms=20) == feed
    assert calls(authority) == [api.Revocations(kids=[b"k" * 16], after=3, wait_ms=20)]


def organization(name: str) -> api.Organization:
    return api.Organization(name=name, max_lifetime_s=60, created_ms=1, keys=[])


def test_organizations_are_created_changed_and_deleted(client: Any, authority: FakeAuthority) -> None:
    authority.handler = lambda call: (
        api.Deleted() if isinstance(call, api.DeleteOrganization) else organization(call.name)
    )
    assert client.call("create_organization", "acme", max_lifetime_s=60) == organization("acme")
    assert client.call("configure_organization", "acme", max_lifetime_s=30) == organization("acme")
    assert client.call("rotate_key", "acme") == organization("acme")
    assert client.call("delete_organization", "acme") is None
    assert calls(authority) == [
        api.CreateOrganization(name="acme", max_lifetime_s=60),
        api.ConfigureOrganization(name="acme", max_lifetime_s=30),
        api.RotateKey(name="acme"),
        api.DeleteOrganization(name="acme"),
    ]


def test_organizations_are_listed_page_by_page(client: Any, authority: FakeAuthority) -> None:
    pages = {"": (["a", "b"], True), "b": (["c"], True), "c": ([], True)}

    def page(call: api.ListOrganizations) -> api.Organizations:
        names, more = pages[call.after]
        return api.Organizations(organizations=[organization(name) for name in names], more=more)

    authority.handler = page
    assert [each.name for each in client.list("list_organizations")] == ["a", "b", "c"]


def test_reseal_continues_until_no_record_remains(client: Any, authority: FakeAuthority) -> None:
    answers = iter([(256, 300), (256, 44), (44, 0)])
    authority.handler = lambda _: api.Resealed(*next(answers))
    assert client.call("reseal") == 556


def test_reseal_stops_if_it_makes_no_progress(client: Any, authority: FakeAuthority) -> None:
    authority.handler = lambda _: api.Resealed(0, 3)
    with pytest.raises(errors.Unavailable, match="3 records"):
        client.call("reseal")
    assert len(authority.requests) == 1


@pytest.mark.parametrize("where", [{"seq": 7}, {"at_ms": 7}])
def test_restore_sends_its_entry_and_returns_the_number_of_changes(
    client: Any, authority: FakeAuthority, where: dict[str, int]
) -> None:
    authority.handler = lambda _: api.Restored(seq=7, changed=2)
    assert client.call("restore", **where) == api.Restored(seq=7, changed=2)
    assert calls(authority) == [api.Restore(**where)]


def test_status_returns_the_report_of_the_machine(client: Any) -> None:
    assert client.call("status") == report()


def test_hand_over_and_take_over_use_different_paths(client: Any, authority: FakeAuthority) -> None:
    answers: dict[type, Any] = {api.HandOver: api.HandedOver("m2"), api.TakeOver: api.TakenOver("m1", 8)}
    authority.handler = lambda call: answers[type(call)]
    assert client.call("hand_over", "m2") is None
    assert client.call("take_over") == api.TakenOver("m1", 8)
    assert [(request.path, request.call) for request in authority.requests] == [
        (api.WRITE, api.HandOver("m2")),
        (api.SIGN, api.TakeOver()),
    ]


@pytest.mark.parametrize("method", [("hand_over", "m2"), ("take_over",)])
def test_only_a_signer_can_move_the_primary(connect: Any, authority: FakeAuthority, method: tuple[str, ...]) -> None:
    with pytest.raises(errors.ConfigurationError, match="signer"):
        connect(signer=None).call(*method)
    assert authority.requests == []
