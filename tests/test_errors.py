"""The tree of errors: its docstring shows exactly its classes, and each denial has one of thirteen reasons."""

from __future__ import annotations

import inspect
import re

import pytest

from tkdb import errors
from tkdb.errors import Denied, Reason, TkdbError

CLASSES: list[type[TkdbError]] = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, TkdbError) and kind.__module__ == errors.__name__
]
DENIALS = [kind for kind in CLASSES if issubclass(kind, Denied) and kind is not Denied]


def test_denials_and_reasons_match_one_to_one() -> None:
    assert len(DENIALS) == 13
    assert sorted(kind.reason for kind in DENIALS) == sorted(Reason)


def test_the_thirteen_reasons_keep_their_words() -> None:
    assert [reason.value for reason in Reason] == [
        "truncated",
        "malformed",
        "unknown key",
        "bad signature",
        "revoked",
        "not yet valid",
        "expired",
        "caveat unmet",
        "foreign organization",
        "unknown caveat",
        "discharge missing",
        "discharge invalid",
        "over limit",
    ]


def test_a_denials_code_is_its_reason() -> None:
    assert all(kind.code == kind.reason.value for kind in DENIALS)


def test_stale_data_is_never_a_denial_of_the_token() -> None:
    assert issubclass(errors.StaleAuthority, errors.Unavailable)
    assert not issubclass(errors.StaleAuthority, Denied)
    assert errors.StaleAuthority.code == "stale"


def test_every_code_names_one_class() -> None:
    codes = [kind.code for kind in CLASSES if kind is not Denied]
    assert len(set(codes)) == len(codes)


def test_every_exception_class_is_in_one_tree() -> None:
    raised = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert set(raised) == set(CLASSES)


def test_every_denial_is_a_direct_subclass_of_denied() -> None:
    assert set(Denied.__subclasses__()) >= set(DENIALS)
    assert all(kind.__bases__ == (Denied,) for kind in DENIALS)


def test_the_docstring_shows_exactly_the_tree() -> None:
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("Each error says")[0]
    drawn = re.findall(r"(?:^ {4}|[├└]── )([A-Z]\w+)", drawing, flags=re.MULTILINE)
    assert sorted(drawn) == sorted(kind.__name__ for kind in CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_a_docstring(kind: type[TkdbError]) -> None:
    assert "__doc__" in vars(kind)
    assert kind.__doc__


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not Denied], ids=lambda kind: kind.__name__)
def test_an_errors_text_is_its_message_and_its_hint(kind: type[TkdbError]) -> None:
    assert str(kind("what happened")) == "what happened"
    error = kind("what happened", hint="what to try")
    assert (error.message, error.hint, str(error)) == ("what happened", "what to try", "what happened: what to try")


def test_an_invalid_caveat_is_a_value_error_and_not_a_denial() -> None:
    assert issubclass(errors.InvalidCaveat, ValueError)
    assert not issubclass(errors.InvalidCaveat, Denied)
