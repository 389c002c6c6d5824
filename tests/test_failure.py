"""Errors on the wire: each decodes to its own class, and an internal error reveals nothing about the machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tkdb import api, errors
from tkdb.failure import KINDS, Failure


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_code_decodes_to_its_class(code: str) -> None:
    kind = KINDS[code]
    error: Any = kind("what", hint="try")
    if isinstance(error, errors.Denied):
        error.caveat = 3
    if isinstance(error, errors.Unavailable):
        error.retry_after_ms = 250
    failure = msgspec.msgpack.decode(msgspec.msgpack.encode(Failure.from_error(error)), type=Failure)
    back = failure.error()
    assert type(back) is kind
    assert vars(back) == vars(error)
    with pytest.raises(kind, match="what: try"):
        api.decode_result(api.Status(), api.Answer(bytes(16), 3, 250, failure=failure))


def test_every_error_in_an_answer_has_a_code() -> None:
    in_answers = {
        errors.Refused,
        errors.Unavailable,
        *errors.Refused.__subclasses__(),
        *errors.Unavailable.__subclasses__(),
    }
    assert set(KINDS.values()) == in_answers | set(errors.Denied.__subclasses__())


@pytest.mark.parametrize("code", ["a newer word", "", "error", "channel", "store", "\x00"])
def test_an_unknown_code_becomes_refused(code: str) -> None:
    back = Failure(code, "what", "try", retry_after_ms=5).error()
    assert type(back) is errors.Refused
    assert str(back) == "what: try"


@pytest.mark.parametrize("kind", [errors.WrongSealKey, errors.BrokenJournal, errors.StoreError, errors.ChannelError])
def test_an_internal_error_reaches_the_caller_as_unavailable_without_details(
    kind: type[errors.TkdbError],
) -> None:
    error = Failure.from_error(kind("the secret 0011 is missing", hint="look into /data")).error()
    assert type(error) is errors.Unavailable
    assert "0011" not in str(error)
    assert "/data" not in str(error)
