"""Sealing: a sealed key opens only with its secret and in its place, and no error or repr contains a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.journal.scribe import BOTH_RING, NEW_RING, NEW_SEAL_KEY, OLD_RING, OLD_SEAL_KEY
from tkdb import errors
from tkdb.journal.seal import SEALED_BYTES, ChainKey, RootKey, SealKey, SealKeys, seal_id

KEY = RootKey(b"r" * 32)
PLACE = {"organization": "acme", "kid": b"k" * 16, "generation": 3}


def sealed() -> bytes:
    return OLD_RING.seal_root_key(KEY, nonce=b"n" * 12, **PLACE)


def test_a_sealed_key_unseals_and_is_not_visible_in_its_record() -> None:
    assert OLD_RING.unseal_root_key(sealed(), **PLACE) == KEY
    assert KEY.raw not in sealed()
    assert len(sealed()) == SEALED_BYTES


@pytest.mark.parametrize(
    "elsewhere",
    [{"organization": "evil"}, {"kid": b"x" * 16}, {"generation": 4}],
    ids=lambda change: next(iter(change)),
)
def test_a_record_moved_to_another_place_does_not_unseal(elsewhere: dict[str, object]) -> None:
    with pytest.raises(errors.BrokenJournal):
        OLD_RING.unseal_root_key(sealed(), **{**PLACE, **elsewhere})


def test_a_root_key_does_not_unseal_as_a_chain_key() -> None:
    record = OLD_RING.seal_root_key(KEY, organization="", kid=b"k" * 16, generation=1, nonce=b"n" * 12)
    with pytest.raises(errors.BrokenJournal):
        OLD_RING.unseal_chain_key(record, journal=b"k" * 16, generation=1)


@given(st.integers(8, SEALED_BYTES - 1), st.integers(1, 255))
def test_a_record_altered_in_any_byte_does_not_unseal(at: int, by: int) -> None:
    record = bytearray(sealed())
    record[at] ^= by
    with pytest.raises(errors.BrokenJournal):
        OLD_RING.unseal_root_key(bytes(record), **PLACE)


@given(st.binary(max_size=2 * SEALED_BYTES))
def test_unsealing_any_bytes_raises_only_store_errors(record: bytes) -> None:
    with pytest.raises(errors.StoreError):
        OLD_RING.unseal_root_key(OLD_SEAL_KEY.id + record, **PLACE)
    with pytest.raises(errors.StoreError):
        OLD_RING.unseal_root_key(record, **PLACE)


def test_the_first_secret_seals_and_every_secret_unseals() -> None:
    assert BOTH_RING.unseal_root_key(sealed(), **PLACE) == KEY
    assert seal_id(BOTH_RING.seal_root_key(KEY, nonce=b"n" * 12, **PLACE)) == NEW_SEAL_KEY.id


def test_the_error_about_a_missing_secret_contains_ids_but_no_key() -> None:
    with pytest.raises(errors.WrongSealKey) as caught:
        NEW_RING.unseal_root_key(sealed(), **PLACE)
    assert OLD_SEAL_KEY.id.hex() in str(caught.value)
    assert NEW_SEAL_KEY.id.hex() in str(caught.value)
    for key in (OLD_SEAL_KEY, NEW_SEAL_KEY, KEY):
        assert key.raw.hex() not in str(caught.value)


def test_a_secret_is_unchanged_after_writing_and_parsing_its_text() -> None:
    assert SealKey.parse(OLD_SEAL_KEY.text()) == OLD_SEAL_KEY
    ring = SealKeys.parse(f"{NEW_SEAL_KEY.text()}, {OLD_SEAL_KEY.text()}")
    assert ring.first_id == NEW_SEAL_KEY.id
    assert ring.unseal_root_key(sealed(), **PLACE) == KEY


@pytest.mark.parametrize("text", ["", " , ", "tkdbseal_", "hunter2", OLD_SEAL_KEY.text()[:-1], "tkdbseal_AAAA12345"])
def test_an_invalid_sealing_secret_is_refused_and_not_repeated_in_the_error(text: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        SealKeys.parse(text)
    assert not text.strip(" ,") or text == "tkdbseal_" or text not in str(caught.value)


def test_no_repr_shows_a_secret() -> None:
    for secret in (KEY, ChainKey(b"r" * 32), SealKey(b"r" * 32), SealKeys([SealKey(b"r" * 32)])):
        assert "rrrr" not in repr(secret)
        assert (b"r" * 32).hex() not in repr(secret)


def test_secrets_of_different_kinds_are_never_equal() -> None:
    assert RootKey(b"r" * 32) != ChainKey(b"r" * 32)
    assert RootKey(b"r" * 32) == RootKey(b"r" * 32)
    assert len({RootKey(b"r" * 32), ChainKey(b"r" * 32), RootKey(b"r" * 32)}) == 2


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError):
        SealKey(b"short")
