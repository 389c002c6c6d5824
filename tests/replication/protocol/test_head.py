"""Others may write to the bucket, so a machine accepts only heads that a holder of the keys wrote."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.replication.protocol.harness import KEYS, entries, head_of, place
from tkdb.errors import BrokenHead, ConfigurationError
from tkdb.journal.seal import SealKey
from tkdb_replication.protocol.head import (
    BEGINNING,
    HEAD_BYTES_MAX,
    RECENT_BYTES_MAX,
    RECENT_ENTRIES_MAX,
    Checkpoint,
    HeadKeys,
    decode_head,
    encode_head,
)

JOURNAL = entries(6)
HEAD = head_of(JOURNAL, recent=3)
RAW = encode_head(HEAD, KEYS)


def altered(**changes: object) -> bytes:
    """Return the bytes of a changed head, signed with the right keys."""
    return encode_head(msgspec.structs.replace(HEAD, **changes), KEYS)


def test_a_head_is_read_as_it_was_written() -> None:
    assert decode_head(RAW, KEYS) == HEAD


def test_a_head_has_one_encoding() -> None:
    assert encode_head(decode_head(RAW, KEYS), KEYS) == RAW


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(BrokenHead):
        decode_head(raw, KEYS)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_even_if_they_are_signed(content: bytes) -> None:
    with pytest.raises(BrokenHead):
        decode_head(KEYS.sign(content), KEYS)


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_a_head_altered_in_any_byte_is_refused(at: int, by: int) -> None:
    raw = bytearray(RAW)
    raw[at] ^= by
    with pytest.raises(BrokenHead):
        decode_head(bytes(raw), KEYS)


@given(st.integers(0, len(RAW) - 1))
def test_a_head_cut_short_is_refused(length: int) -> None:
    with pytest.raises(BrokenHead):
        decode_head(RAW[:length], KEYS)


def test_a_head_under_another_sealing_secret_is_refused_with_that_reason() -> None:
    with pytest.raises(BrokenHead, match="another sealing secret"):
        decode_head(RAW, HeadKeys([SealKey(b"\x02" * 32)]))


def test_during_a_change_of_secrets_all_machines_read_all_heads() -> None:
    old, new = SealKey(b"\x01" * 32), SealKey(b"\x02" * 32)
    assert decode_head(encode_head(HEAD, HeadKeys([old])), HeadKeys([new, old])) == HEAD
    assert decode_head(encode_head(HEAD, HeadKeys([new, old])), HeadKeys([old, new])) == HEAD


def test_a_head_longer_than_the_limit_is_refused_before_it_is_verified() -> None:
    with pytest.raises(BrokenHead, match=f"at most {HEAD_BYTES_MAX} are allowed"):
        decode_head(RAW + bytes(HEAD_BYTES_MAX), KEYS)


def test_a_head_with_the_most_entries_and_the_longest_names_fits() -> None:
    journal = entries(RECENT_ENTRIES_MAX, body=bytes(100))
    assert sum(len(msgspec.msgpack.encode(entry)) for entry in journal) < RECENT_BYTES_MAX
    head = head_of(journal, recent=RECENT_ENTRIES_MAX, machine="m" * 64, region="r" * 64, base="b" * 128)
    assert decode_head(encode_head(head, KEYS), KEYS) == head


@pytest.mark.parametrize(
    "changes",
    [
        {"recent": (JOURNAL[3], JOURNAL[5])},
        {"recent": (JOURNAL[4], JOURNAL[3], JOURNAL[5])},
        {"recent": tuple(JOURNAL[2:5])},
        {"seq": 7},
        {"hash": bytes(32)},
        {"rev": -1},
        {"lease_ms": 0},
        {"attempt": b"short"},
        {"owner": bytes(17)},
        {"machine": "m1\r\nfly-replay: elsewhere"},
        {"region": "a b"},
        {"base": "../other"},
        {"base": ""},
        {"base": "/epochs"},
        {"base": "epochs//1"},
        {"base": "epochs/../1"},
        {"base": "epochs/1/"},
        {"recent": tuple(entries(RECENT_ENTRIES_MAX + 1))},
    ],
    ids=str,
)
def test_an_inconsistent_head_is_refused_even_if_it_is_signed(changes: dict[str, object]) -> None:
    with pytest.raises(BrokenHead):
        decode_head(altered(**changes), KEYS)


def test_a_base_may_contain_folders() -> None:
    raw = altered(base="epochs/00000007-0123456789abcdef")
    assert decode_head(raw, KEYS).base == "epochs/00000007-0123456789abcdef"


def test_a_head_continues_each_place_that_it_names_and_no_other() -> None:
    assert HEAD.after(place(JOURNAL[2])) == tuple(JOURNAL[3:])
    assert HEAD.after(place(JOURNAL[4])) == (JOURNAL[5],)
    assert HEAD.after(place(JOURNAL[5])) == ()
    assert HEAD.after(place(JOURNAL[1])) is None
    assert HEAD.after(Checkpoint(5, bytes(32))) is None
    assert HEAD.after(Checkpoint(7, JOURNAL[5].hash)) is None


def test_the_first_entries_continue_an_empty_journal() -> None:
    assert head_of(JOURNAL[:2], recent=2).after(BEGINNING) == tuple(JOURNAL[:2])


def test_a_head_contradicts_places_that_are_not_on_its_journal() -> None:
    assert HEAD.contradicts(Checkpoint(7, bytes(32)))
    assert HEAD.contradicts(Checkpoint(4, bytes(32)))
    assert not HEAD.contradicts(place(JOURNAL[3]))
    assert not HEAD.contradicts(Checkpoint(1, bytes(32)))  # it is before ``recent``, so the head can't contradict it


def test_the_repr_of_head_keys_shows_no_key() -> None:
    secret = SealKey(b"\x01" * 32)
    assert repr(HeadKeys([secret])) == f"HeadKeys({secret.id.hex()})"


def test_head_keys_without_a_secret_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="TKDB_SEAL_KEYS"):
        HeadKeys([])
