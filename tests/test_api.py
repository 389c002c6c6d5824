"""The messages of the methods: decoding is strict, and untrusted bytes raise only the documented errors."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import api, errors
from tkdb.failure import Failure

KID, NONCE, BRANCH = b"k" * 16, b"n" * 16, b"b" * 16
EXAMPLES: dict[str, list[Any]] = {
    api.VERIFY: [api.Verify(["tkdb_a", "tkdb_b,tkdb_c"]), api.Revocations([KID], after=5, wait_ms=100), api.Status()],
    api.REVOKE: [api.RevokeOwn("tkdb_a")],
    api.SIGN: [api.Mint("acme", [b'["act","r"]'], 60), api.ListOrganizations("acme", 5), api.TakeOver()],
    api.WRITE: [
        api.CreateOrganization("acme", 60),
        api.ConfigureOrganization("acme", 60),
        api.RotateKey("acme"),
        api.DeleteOrganization("acme"),
        api.Revoke([api.Lineage(KID, NONCE), api.Branch(KID, NONCE, BRANCH)]),
        api.Revoke([api.Before("acme", 5, "kim"), api.Before("acme"), api.RetireKey(KID)]),
        api.Reseal(5),
        api.Restore(seq=5),
        api.HandOver("m-1a2b"),
    ],
}
CASES = [(path, call) for path, calls in EXAMPLES.items() for call in calls]
RESULTS: list[Any] = [
    api.Verified([api.Valid("acme"), api.Invalid(errors.Reason.EXPIRED, "what", "try", 3), api.Unsure()]),
    api.Feed(
        7,
        [
            api.Lineage(KID, NONCE),
            api.Branch(KID, NONCE, BRANCH),
            api.IssuedBefore([KID], 5),
            api.IssuedBefore([KID, NONCE], subjects=[(NONCE, 5)]),
            api.KeyRetired(KID),
        ],
        more=False,
    ),
    api.Minted("tkdb_a", 5),
    api.Organization("acme", 60, 5, [api.Key(KID, 1, "signing")]),
    api.Deleted(),
    api.Revoked(already=True),
]


def call_types(path: str) -> tuple[type, ...]:
    union = api.CALLS_BY_PATH[path]
    return get_args(union) or (union,)


def ids(case: object) -> str | None:
    return type(case).__name__ if isinstance(case, msgspec.Struct) else None


def test_every_method_has_an_example_here() -> None:
    assert {(path, kind) for path in api.CALLS_BY_PATH for kind in call_types(path)} == {
        (path, type(call)) for path, call in CASES
    }


@pytest.mark.parametrize(("path", "call"), CASES, ids=ids)
def test_a_request_decodes_to_itself_on_its_own_path(path: str, call: Any) -> None:
    assert api.decode_request(path, api.encode(call)) == call


@pytest.mark.parametrize(("path", "call"), CASES, ids=ids)
def test_a_request_is_refused_on_every_other_path(path: str, call: Any) -> None:
    for other in api.CALLS_BY_PATH.keys() - {path}:
        with pytest.raises(errors.InvalidRequest, match=f"see the methods of {other}"):
            api.decode_request(other, api.encode(call))


@pytest.mark.parametrize(("path", "call"), CASES, ids=ids)
def test_an_unknown_field_is_refused(path: str, call: Any) -> None:
    fields = msgspec.msgpack.decode(api.encode(call)) | {"more": 1}
    with pytest.raises(errors.InvalidRequest, match="unknown field"):
        api.decode_request(path, msgspec.msgpack.encode(fields))


def test_a_wrong_field_is_named_without_the_validators_path() -> None:
    body = msgspec.msgpack.encode({"method": "mint", "organization": 5})
    with pytest.raises(errors.InvalidRequest, match=r"^the field organization can't be read: ") as raised:
        api.decode_request(api.SIGN, body)
    assert "$" not in str(raised.value)


@pytest.mark.parametrize(("path", "call"), CASES, ids=ids)
def test_a_truncated_or_extended_request_is_refused(path: str, call: Any) -> None:
    body = api.encode(call)
    for size in range(len(body)):
        with pytest.raises(errors.InvalidRequest):
            api.decode_request(path, body[:size])
    with pytest.raises(errors.InvalidRequest):
        api.decode_request(path, body + b"\x00")


@pytest.mark.parametrize("path", sorted(api.CALLS_BY_PATH))
@given(body=st.binary(max_size=300))
def test_any_bytes_decode_or_raise_invalid_request(path: str, body: bytes) -> None:
    with contextlib.suppress(errors.InvalidRequest):
        api.decode_request(path, body)


@pytest.mark.parametrize(("path", "call"), CASES, ids=ids)
@given(data=st.data())
def test_an_altered_request_decodes_or_raises_invalid_request(path: str, call: Any, data: st.DataObject) -> None:
    body = bytearray(api.encode(call))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    with contextlib.suppress(errors.InvalidRequest):
        api.decode_request(path, bytes(body))


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"], ids=bytes.hex)
@pytest.mark.parametrize("size", [2**32 - 1, 2**28, 2**16])
def test_a_false_length_is_refused_before_memory_is_allocated(head: bytes, size: int) -> None:
    false_length = head + size.to_bytes(4, "big")
    for body in (
        false_length,
        b"\x82\xa6method\xa6verify\xa7bundles" + false_length,
        b"\x82\xa6method\xa6verify\xa7bundles\x91" + false_length,
    ):
        with pytest.raises(errors.InvalidRequest):
            api.decode_request(api.VERIFY, body)
        with pytest.raises(errors.ChannelError):
            api.decode_answer(body)


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa1a"], ids=["arrays", "maps"])
def test_deep_nesting_is_refused(nest: bytes) -> None:
    with pytest.raises(errors.InvalidRequest):
        api.decode_request(api.VERIFY, b"\x82\xa1a" + nest * 100_000)
    head = api.encode(api.Answer(KID, 1, 0, msgspec.Raw(b"\x00")))[:-1]
    with pytest.raises(errors.ChannelError):
        api.decode_answer(head + nest * 100_000)


def test_an_answer_decodes_to_its_result() -> None:
    for result in RESULTS:
        answer = api.Answer(KID, 3, 250, msgspec.Raw(api.encode(result)))
        read = api.decode_answer(api.encode(answer))
        call = next(call for _, call in CASES if call.result is type(result))
        assert api.decode_result(call, read) == result


@given(st.binary(max_size=200))
def test_any_bytes_decode_as_an_answer_or_raise_channel_error(body: bytes) -> None:
    with contextlib.suppress(errors.ChannelError):
        api.decode_answer(body)


@given(st.integers(0, 400), st.binary(max_size=6), st.integers(0, 3))
def test_an_altered_answer_decodes_or_raises_channel_error(at: int, new: bytes, cut: int) -> None:
    body = bytearray(api.encode(api.Answer(KID, 3, 250, failure=Failure("revoked", "what", "try", 3, 5))))
    at %= len(body)
    body[at : at + cut] = new
    with contextlib.suppress(errors.ChannelError):
        api.decode_answer(bytes(body))


@pytest.mark.parametrize("raw", [b"", b"\xc0", b"\x80", b"\xff", b"\x91" * 5000, b"\x81\xa3odd\x01"], ids=bytes.hex)
def test_an_invalid_result_is_a_channel_error(raw: bytes) -> None:
    with pytest.raises(errors.ChannelError, match="can't be read"):
        api.decode_result(api.Status(), api.Answer(KID, 3, 250, msgspec.Raw(raw)))


@pytest.mark.parametrize("reason", list(errors.Reason))
def test_every_reason_decodes_to_its_denial(reason: errors.Reason) -> None:
    back = api.Invalid(reason, "what", "try", 3).error()
    assert type(back) in errors.Denied.__subclasses__()
    assert (back.reason, back.caveat, str(back)) == (reason, 3, "what: try")


def test_no_repr_contains_a_token() -> None:
    shown = [
        repr(call) for call in (api.Verify(["tkdb_secret"]), api.RevokeOwn("tkdb_secret"), api.Minted("tkdb_secret", 5))
    ]
    assert "secret" not in "".join(shown)
