"""Journal entries: no field can be altered, and no entry added, without the chain key."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import errors
from tkdb.journal.additions import Purged
from tkdb.journal.entry import START, Entry, Origin, check_link, check_place, decode_entry, encode_entry, link
from tkdb.journal.seal import ChainKey

KEY = ChainKey(b"c" * 32)
ORIGIN = Origin(signer=b"s" * 16, request_id=b"r" * 16, signed_ms=7, signature=b"g" * 64)
FIRST = link(START, KEY, now_ms=1_000, epoch=2, made=Purged(), body=b"body", origin=ORIGIN)


def altered(field: str) -> Entry:
    value = getattr(FIRST, field)
    return msgspec.structs.replace(FIRST, **{field: value + 1 if isinstance(value, int) else b"\xff" + value[1:]})


def test_an_unaltered_entry_passes_the_check() -> None:
    check_link(START, KEY, FIRST)
    second = link(FIRST.head, KEY, now_ms=1_001, epoch=2, made=Purged())
    check_link(FIRST.head, KEY, second)
    assert second.previous == FIRST.hash


@pytest.mark.parametrize("field", Entry.__struct_fields__)
def test_an_entry_with_any_altered_field_is_refused(field: str) -> None:
    with pytest.raises(errors.BrokenJournal):
        check_link(START, KEY, altered(field))


@pytest.mark.parametrize("field", sorted(set(Entry.__struct_fields__) - {"seq", "previous"}))
def test_without_the_hash_alterations_would_pass(field: str) -> None:
    check_place(START, altered(field))


def test_an_entry_linked_with_another_chain_key_is_refused() -> None:
    with pytest.raises(errors.BrokenJournal):
        check_link(START, KEY, link(START, ChainKey(b"x" * 32), now_ms=1, epoch=0, made=Purged()))


def test_bytes_cannot_move_between_fields_without_changing_the_hash() -> None:
    one = link(START, KEY, now_ms=1, epoch=0, body=b"ab", origin=Origin(signature=b"c"))
    other = link(START, KEY, now_ms=1, epoch=0, body=b"b", origin=Origin(signature=b"ca"))
    assert one.hash != other.hash


def test_an_entry_keeps_the_last_entrys_time_if_the_clock_goes_back() -> None:
    entry = link(FIRST.head, KEY, now_ms=10, epoch=2, made=Purged())
    assert entry.time_ms == FIRST.time_ms
    check_link(FIRST.head, KEY, entry)


def test_an_entry_with_an_earlier_time_or_epoch_is_refused() -> None:
    for change in ({"time_ms": 999}, {"epoch": 1}):
        entry = link(FIRST.head, KEY, now_ms=1_000, epoch=2, made=Purged())
        with pytest.raises(errors.BrokenJournal):
            check_place(FIRST.head, msgspec.structs.replace(entry, **change))


def test_an_entry_is_unchanged_after_encoding_and_decoding() -> None:
    assert decode_entry(encode_entry(FIRST)) == FIRST


@given(st.binary(max_size=300) | st.builds(lambda at, by: _flip(at, by), st.integers(0, 10_000), st.integers(1, 255)))
def test_decoding_any_bytes_raises_no_foreign_error(raw: bytes) -> None:
    try:
        entry = decode_entry(raw)
    except errors.BrokenJournal:
        return
    with pytest.raises(errors.BrokenJournal):
        check_link(START, KEY, entry)


def _flip(at: int, by: int) -> bytes:
    raw = bytearray(encode_entry(FIRST))
    raw[at % len(raw)] ^= by
    return bytes(raw)
