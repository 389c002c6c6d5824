"""Fly-Src: a request's source is accepted only from the proxy, signed by it, fresh, and once."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tkdb.attestation import (
    AGE_MAX_S,
    Presented,
    Source,
    Verifier,
    parse_public_key,
    sign,
)
from tkdb.errors import ConfigurationError, NotPermitted

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SOURCE = Source("4d891d7e", "web", "acme", 1_756_684_800)
PROXY = "172.16.3.1"
HEADER, SIGNATURE = sign(KEY, SOURCE)


def presented(peer: str = PROXY, source: str = HEADER, signature: str = SIGNATURE, request: str = "1") -> Presented:
    return Presented(peer, source, signature, request)


def assert_refused(parts: Presented, words: str, now_s: float = SOURCE.ts) -> None:
    with pytest.raises(NotPermitted, match=words):
        Verifier(KEY.public_key()).verify(parts, now_s=now_s)


def signed(text: str) -> Presented:
    return presented(source=text, signature=base64.b64encode(KEY.sign(text.encode())).decode())


def test_a_request_from_the_proxy_is_accepted() -> None:
    assert Verifier(KEY.public_key()).verify(presented(), now_s=SOURCE.ts + 1.5) == SOURCE


@pytest.mark.parametrize("peer", ["10.0.0.1", "172.17.0.1", "fdaa:0:1:0:a:0:1:2", "::ffff:172.16.0.1", "", "localhost"])
def test_a_connection_from_elsewhere_is_refused(peer: str) -> None:
    assert_refused(presented(peer=peer), "isn't from the proxy")


@pytest.mark.parametrize("lag_s", [AGE_MAX_S + 0.1, -AGE_MAX_S - 0.1, 1e9, float("nan"), float("inf")])
def test_an_old_or_future_attestation_is_refused(lag_s: float) -> None:
    assert_refused(presented(), "another time", SOURCE.ts + lag_s)


def test_a_signature_of_another_key_is_refused() -> None:
    assert_refused(presented(signature=sign(Ed25519PrivateKey.generate(), SOURCE)[1]), "isn't signed")


def test_a_source_that_was_altered_after_signing_is_refused() -> None:
    assert_refused(presented(source=HEADER.replace("web", "root")), "isn't signed")


@pytest.mark.parametrize(
    "text",
    [
        "instance=a;app=b;org=c",
        "instance=a;app=b;org=c;ts=1756684800;more=1",
        "app=b;instance=a;org=c;ts=1756684800",
        "instance=a;app=b;app=x;org=c;ts=1756684800",
        "instance=a;app=b;org=c;ts=01756684800",
        "instance=a;app=b;org=c;ts=-1",
        "instance=a;app=b;org=c;ts=1756684800 ",
        "instance=a;app=b;org=;ts=1756684800",
    ],
)
def test_a_signed_source_without_exactly_the_four_keys_is_refused(text: str) -> None:
    assert_refused(signed(text), "exactly instance, app, org and ts")


def test_a_request_is_accepted_once() -> None:
    verifier = Verifier(KEY.public_key())
    verifier.verify(presented(), now_s=SOURCE.ts)
    with pytest.raises(NotPermitted, match="is a replay"):
        verifier.verify(presented(), now_s=SOURCE.ts + AGE_MAX_S)


@pytest.mark.parametrize("lists", [{"apps": ["api"]}, {"orgs": ["initech"]}, {"apps": ["web"], "orgs": ["initech"]}])
def test_an_unlisted_app_or_organization_is_refused_and_not_remembered(lists: dict[str, list[str]]) -> None:
    verifier = Verifier(KEY.public_key(), **lists)
    with pytest.raises(NotPermitted, match="isn't allowed"):
        verifier.verify(presented(), now_s=SOURCE.ts)
    assert verifier.remembered == 0


WRONG_LISTS: list[tuple[str, Any]] = [
    *((name, empty) for name in ("apps", "orgs", "proxies") for empty in ([], (), set(), "", b"", {}, iter(()))),
    *((name, wrong) for name in ("apps", "orgs") for wrong in ("web", 5, [5], [""], ["a b"], [None], [b"web"])),
    ("proxies", "172.16.0.0/16"),
    ("proxies", None),
    ("key", b"k" * 32),
    ("key", None),
    ("seen_max", 0),
    ("seen_max", "5"),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_LISTS)
def test_an_empty_list_and_a_wrong_type_are_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}( is |=)"):
        Verifier(**{"key": KEY.public_key(), name: wrong})


def test_none_allows_any_app_and_organization() -> None:
    assert Verifier(KEY.public_key(), apps=None, orgs=None).verify(presented(), now_s=SOURCE.ts) == SOURCE


@pytest.mark.parametrize("name", ["apps", "orgs"])
def test_without_the_refusal_an_empty_list_allows_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The negative control: a list that is empty in spite of the refusal doesn't count as None."""
    monkeypatch.setattr("tkdb.attestation._names", lambda _, names: names and frozenset(names))
    verifier = Verifier(KEY.public_key(), **{name: []})
    with pytest.raises(NotPermitted, match="isn't allowed"):
        verifier.verify(presented(), now_s=SOURCE.ts)


def test_a_listed_app_and_organization_are_accepted() -> None:
    verifier = Verifier(KEY.public_key(), apps=["api", "web"], orgs=["acme"])
    assert verifier.verify(presented(), now_s=SOURCE.ts) == SOURCE


def test_two_requests_with_the_same_attestation_are_both_accepted() -> None:
    verifier = Verifier(KEY.public_key())
    assert sign(KEY, SOURCE) == sign(KEY, SOURCE)
    assert [verifier.verify(presented(request=name), now_s=SOURCE.ts) for name in ("1", "2")] == [SOURCE, SOURCE]


def test_a_request_after_a_failed_replay_is_a_new_request() -> None:
    headers = [(b"Fly-Src", HEADER.encode()), (b"Fly-Src-Signature", SIGNATURE.encode()), (b"Fly-Request-Id", b"1")]
    returned = [*headers, (b"fly-replay-failed", b"reason=timeout")]
    verifier = Verifier(KEY.public_key())
    for each in (headers, returned):
        assert verifier.verify(Presented.from_headers(PROXY, each), now_s=SOURCE.ts) == SOURCE
    with pytest.raises(NotPermitted, match="is a replay"):
        verifier.verify(Presented.from_headers(PROXY, returned), now_s=SOURCE.ts)


def test_a_repeated_header_counts_as_missing() -> None:
    headers = [(b"fly-src", HEADER.encode())] * 2 + [(b"fly-src-signature", SIGNATURE.encode())]
    assert_refused(Presented.from_headers(PROXY, headers), "more than one")


def test_remembered_requests_are_bounded_and_dropped_when_too_old() -> None:
    verifier = Verifier(KEY.public_key(), seen_max=10)
    for number in range(100):
        verifier.verify(presented(request=str(number)), now_s=SOURCE.ts)
    assert verifier.remembered == 10
    later = Source("4d891d7e", "web", "acme", SOURCE.ts + 3 * AGE_MAX_S)
    verifier.verify(Presented(PROXY, *sign(KEY, later), "1"), now_s=later.ts)
    assert verifier.remembered == 1


@given(
    st.text(max_size=80), st.text(max_size=100) | st.binary(max_size=64).map(lambda raw: base64.b64encode(raw).decode())
)
def test_hostile_headers_raise_only_not_permitted(source: str, signature: str) -> None:
    with pytest.raises(NotPermitted):
        Verifier(KEY.public_key()).verify(presented(source=source, signature=signature), now_s=SOURCE.ts)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"fly-src", b"fly-src-signature", b"Fly-Src", b"fly-request-id"]) | st.binary(max_size=20),
            st.binary(max_size=100) | st.sampled_from([HEADER.encode(), SIGNATURE.encode()]),
        ),
        max_size=8,
    ),
    st.text(max_size=20) | st.just(PROXY),
)
def test_any_header_bytes_are_accepted_or_refused(headers: list[tuple[bytes, bytes]], peer: str) -> None:
    try:
        source = Verifier(KEY.public_key()).verify(Presented.from_headers(peer, headers), now_s=SOURCE.ts)
    except NotPermitted:
        return
    assert (source, peer) == (SOURCE, PROXY)


@given(st.text(max_size=80))
def test_each_source_has_one_text(text: str) -> None:
    try:
        source = Source.parse(text)
    except NotPermitted:
        return
    assert str(source) == text


@given(st.text(max_size=70))
def test_a_public_key_is_64_hex_digits(text: str) -> None:
    try:
        key = parse_public_key(text)
    except ConfigurationError:
        return
    assert len(key.public_bytes_raw()) == 32


def test_a_public_key_with_a_newline_is_read() -> None:
    text = KEY.public_key().public_bytes_raw().hex() + "\n"
    assert parse_public_key(text).public_bytes_raw() == KEY.public_key().public_bytes_raw()
