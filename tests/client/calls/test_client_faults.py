"""Faults between a client and the authority. The client must not hang, and must trust only sealed answers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import fake_authority as fake
from tests.client.fake_authority import FakeAuthority
from tkdb import api, errors
from tkdb.failure import Failure
from tkdb.macaroon.token import Macaroon

TRANSIENT = {
    "503": fake.plain(503, b"no machine"),
    "502 with Retry-After": fake.plain(502, b"", "retry-after: 0"),
    "503 with a date": fake.plain(503, b"", "retry-after: Wed, 21 Oct 2026 07:28:00 GMT"),
    "503 with nonsense": fake.plain(503, b"", "retry-after: -1"),
    "reset before reading": fake.reset_unread,
    "reset after reading": fake.reset_after_reading,
    "garbage": fake.garbage,
    "not HTTP": fake.not_http,
    "truncated": fake.truncated,
    "cut short": fake.cut_short,
    "huge": fake.huge,
    "empty": fake.plain(200),
    "forged 400": fake.plain(400, b'{"code":"channel"}'),
    "overloaded": fake.sealed(errors.Overloaded("slow down", retry_after_ms=1)),
    "draining": fake.sealed(errors.Draining("going away")),
    "unavailable": fake.sealed(errors.Unavailable("no primary yet")),
}
FORGED_DENIALS = {
    "401": fake.plain(401, b"denied: revoked", "www-authenticate: Bearer"),
    "403": fake.plain(403, b'{"code":"revoked","message":"denied"}', "content-type: application/json"),
    "404": fake.plain(404, b"not found"),
    "200 in plain": fake.plain(200, api.encode(Failure(code="revoked", message="denied"))),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_call_survives_a_transient_fault(client: Any, authority: FakeAuthority, fault: fake.Fault) -> None:
    authority.script.extend([fault, fault] if fault is not fake.reset_unread else [fault])
    assert client.call("status") == fake.report()
    assert not authority.script


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_repeated_write_keeps_its_request_id(
    client: Any, authority: FakeAuthority, fault: fake.Fault, token: Macaroon
) -> None:
    authority.handler = lambda _: api.Revoked(already=False)
    authority.script.append(fault)
    assert client.call("revoke", token) is False
    opened = [request.opened for request in authority.requests if request.opened]
    assert len({each.envelope.request_id for each in opened}) == 1
    assert len({each.envelope.body for each in opened}) == 1
    assert len({request.message for request in authority.requests}) == len(authority.requests)


def test_each_call_has_a_new_request_id(client: Any, authority: FakeAuthority) -> None:
    client.call("status")
    client.call("status")
    ids = [request.opened.envelope.request_id for request in authority.requests if request.opened]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("fault", FORGED_DENIALS.values(), ids=FORGED_DENIALS.keys())
def test_a_forged_denial_is_ignored(client: Any, authority: FakeAuthority, fault: fake.Fault, token: Macaroon) -> None:
    authority.handler = lambda _: api.Verified(results=[api.Valid(organization="acme")])
    authority.script.append(fault)
    assert client.call("verify", token).organization == "acme"


@pytest.mark.parametrize("fault", FORGED_DENIALS.values(), ids=FORGED_DENIALS.keys())
def test_repeated_forged_denials_are_unavailable_and_never_denied(
    client: Any, authority: FakeAuthority, fault: fake.Fault, token: Macaroon
) -> None:
    authority.script.extend([fault] * 1000)
    with pytest.raises(errors.Unavailable):
        client.call("verify", token)


def test_a_denial_inside_message_2_is_raised_at_once(client: Any, authority: FakeAuthority, token: Macaroon) -> None:
    denied = api.Invalid(reason=errors.Reason.REVOKED, message="revoked", hint="ask for a new one")
    authority.handler = lambda _: api.Verified(results=[denied])
    with pytest.raises(errors.RevokedToken, match="ask for a new one"):
        client.call("verify", token)
    assert len(authority.requests) == 1


@pytest.mark.parametrize("kind", [errors.NotPermitted, errors.Conflict, errors.InvalidRequest])
def test_a_refusal_is_raised_without_a_retry(client: Any, authority: FakeAuthority, kind: type[errors.Refused]) -> None:
    authority.script.append(fake.sealed(kind("no")))
    with pytest.raises(kind):
        client.call("create_organization", "acme")
    assert len(authority.requests) == 1


@pytest.mark.parametrize("fault", [fake.hang, fake.drip])
def test_an_attempt_that_hangs_or_drips_is_abandoned(connect: Any, authority: FakeAuthority, fault: fake.Fault) -> None:
    client = connect(attempt_timeout_ms=500)
    authority.script.append(fault)
    assert client.call("status") == fake.report()
    assert len(authority.requests) == 2


def test_the_answer_to_another_request_is_refused(client: Any, authority: FakeAuthority) -> None:
    async def record(server: FakeAuthority, request: fake.Request, writer: Any) -> None:
        message = server.answer(request)
        assert message is not None
        server.recorded = message  # type: ignore[attr-defined]
        await fake.respond(writer, 200, message)

    authority.script.append(record)
    assert client.call("status") == fake.report()
    authority.script.append(fake.replayed)
    assert client.call("status") == fake.report()
    assert len(authority.requests) == 3


def test_a_redirect_is_not_followed(connect: Any, authority: FakeAuthority) -> None:
    with FakeAuthority() as elsewhere:
        authority.script.append(fake.plain(307, b"", f"location: {elsewhere.url}/v1/verify"))
        assert connect().call("status") == fake.report()
        assert len(authority.requests) == 2
        assert not elsewhere.requests


def test_a_proxy_in_the_environment_is_not_used(
    connect: Any, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeAuthority() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert connect().call("status") == fake.report()
        assert not proxy.requests


def test_a_write_with_a_lost_answer_has_an_unknown_outcome(
    connect: Any, authority: FakeAuthority, token: Macaroon
) -> None:
    authority.handler = lambda _: api.Revoked(already=False)
    authority.script.extend([fake.answer_lost, *[fake.sealed(errors.Overloaded("slow down"))] * 1000])
    with pytest.raises(errors.OutcomeUnknown, match="outcome is unknown"):
        connect(timeout_ms=2_000).call("revoke", token)


def test_a_write_that_was_never_sent_has_a_known_outcome(connect: Any, token: Macaroon) -> None:
    unreachable = "http://127.0.0.1:1"
    with pytest.raises(errors.Unavailable) as raised:
        connect(url=unreachable, timeout_ms=200).call("revoke", token)
    assert not isinstance(raised.value, errors.OutcomeUnknown)
    assert unreachable in str(raised.value)


def test_a_write_that_the_authority_cannot_store_has_a_known_outcome(
    client: Any, authority: FakeAuthority, token: Macaroon
) -> None:
    authority.script.extend([fake.sealed(errors.StoreUnwritable("the disk is full"))] * 1000)
    with pytest.raises(errors.StoreUnwritable, match="the disk is full"):
        client.call("revoke", token)


def test_a_wrong_authority_key_is_reported(connect: Any, authority: FakeAuthority) -> None:
    stranger = fake.Brain().identity
    with pytest.raises(errors.Unavailable, match="check that TKDB_AUTHORITY"):
        connect(authority=stranger).call("status")
    assert len(authority.requests) == 3


def test_an_unlisted_signer_gets_a_hint_to_check_its_key(connect: Any) -> None:
    stranger = fake.Brain().signer
    with pytest.raises(errors.Unavailable, match="check that TKDB_AUTHORITY and TKDB_SIGNER"):
        connect(signer=stranger).call("mint", "acme")


def test_connections_are_reused(client: Any, authority: FakeAuthority) -> None:
    for _ in range(3):
        client.call("status")
    assert {request.connection for request in authority.requests} == {1}


def test_a_connection_older_than_its_limit_carries_no_new_request(
    client: Any, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.call("status")
    monkeypatch.setattr("tkdb.net.connections.MAX_AGE_S", -1)
    client.call("status")
    assert [request.connection for request in authority.requests] == [1, 2]


def test_a_closed_client_raises_a_configuration_error(client: Any) -> None:
    client.call("close")
    with pytest.raises(errors.ConfigurationError, match="closed"):
        client.call("status")


def test_the_repr_of_a_client_shows_no_secret(client: Any, authority: FakeAuthority, token: Macaroon) -> None:
    assert authority.signer.text() not in repr(client.client)
    assert token.text not in repr(client.client)
    assert repr(client.client).endswith(f"Client of {authority.url}>")


def test_a_request_has_only_the_headers_of_the_channel(client: Any, authority: FakeAuthority) -> None:
    client.call("status")
    (request,) = authority.requests
    assert set(request.headers) == {"host", "content-type", "content-length", "tkdb-key"}
