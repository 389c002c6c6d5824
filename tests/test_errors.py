"""The tree of errors is what its docstring draws, and a denial's reason is one of a closed list."""

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


def test_every_denial_has_a_reason_of_its_own_and_every_reason_a_denial() -> None:
    assert len(DENIALS) == 14
    assert sorted(kind.reason for kind in DENIALS) == sorted(Reason)


def test_reasons_are_the_permanent_words() -> None:
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
        "stale",
        "over limit",
    ]


def test_a_denials_code_is_its_reason() -> None:
    assert all(kind.code == kind.reason.value for kind in DENIALS)


def test_every_code_names_one_class() -> None:
    codes = [kind.code for kind in CLASSES if kind is not Denied]
    assert len(set(codes)) == len(codes)


def test_everything_raised_is_one_tree() -> None:
    raised = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert set(raised) == set(CLASSES)


def test_every_denial_hangs_directly_from_denied() -> None:
    assert set(Denied.__subclasses__()) >= set(DENIALS)
    assert all(kind.__bases__ == (Denied,) for kind in DENIALS)


def test_the_docstring_draws_the_whole_tree_and_nothing_else() -> None:
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("Each error says")[0]
    drawn = re.findall(r"(?:^ {4}|[├└]── )([A-Z]\w+)", drawing, flags=re.MULTILINE)
    assert sorted(drawn) == sorted(kind.__name__ for kind in CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_says_what_it_means(kind: type[TkdbError]) -> None:
    assert "__doc__" in vars(kind)
    assert kind.__doc__


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not Denied], ids=lambda kind: kind.__name__)
def test_an_error_is_its_message_and_its_hint(kind: type[TkdbError]) -> None:
    assert str(kind("what happened")) == "what happened"
    error = kind("what happened", hint="what to try")
    assert (error.message, error.hint, str(error)) == ("what happened", "what to try", "what happened: what to try")


def test_a_caveat_that_cannot_be_written_is_a_value_error_too() -> None:
    assert issubclass(errors.InvalidCaveat, ValueError)
    assert not issubclass(errors.InvalidCaveat, Denied)
