"""A mistake in an access or a policy is the app's own, and raises an error when it is made: never a denial."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tkdb.errors import ConfigurationError
from tkdb.macaroon.access import ANY, ANY_ORGANIZATION, Access, Policy, Source

WRONG: dict[type, dict[str, tuple[Any, ...]]] = {
    Access: {
        "organization": (5, b"acme", ["acme"], True, object()),
        "action": ("", "read", "x", 5, b"r", ["r"], True),
        "resource": (
            None,
            "app",
            ["app"],
            {"a b": "x"},
            {5: "x"},
            {"": "x"},
            {"app": 1.5},
            {"app": True},
            {"app": ["x"]},
            {"app": b"x"},
        ),
        "method": (5, b"GET", ["GET"]),
        "path": (5, b"/", ["/"]),
        "ip": (5, b"::1", ["::1"]),
        "source": ("acme", {"app": "web"}, 5),
        "key_thumbprint": (5, b"x"),
        "now_s": ("1", True, b"1", [1]),
    },
    Policy: {
        "organization": ("", "Acme", "a" * 64, "acme\n", 5, b"acme", ["acme"]),
        "clock": (5, "now"),
        "audience": ("", 5, b"shop", ["shop"]),
        "skew_s": (-1, "1", True, None, float("nan"), float("inf"), timedelta(seconds=-1)),
        "checkers": (None, 5, [], {"plan": 5}, {"Plan": bool}, {5: bool}, {"": bool}),
    },
    Source: {"organization": (5, b"a"), "app": (5, ["a"]), "machine": (5, b"a")},
}
CASES = [(kind, name, value) for kind, fields in WRONG.items() for name, values in fields.items() for value in values]


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_field_of_a_wrong_type_or_value_is_named_when_it_is_made(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}( is |=)") as raised:
        kind(**{name: value})
    assert raised.value.hint


def test_the_cases_contain_every_field() -> None:
    for kind, fields in WRONG.items():
        assert fields.keys() == set(kind.__struct_fields__) - {"extra"}  # extra may have any value


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_without_the_check_a_wrong_field_is_accepted(
    monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, value: Any
) -> None:
    """The negative control: nothing else refuses these values."""
    unchecked = type("Unchecked", (kind,), {"__post_init__": lambda self: None}, frozen=True, kw_only=True)
    assert getattr(unchecked(**{name: value}), name) is value


def test_text_that_a_caller_may_have_chosen_is_never_a_mistake() -> None:
    for text in ("", "*", "a\n", "ü", "a" * 5_000):
        Access(organization=text, resource={"app": text}, method=text, path=text, ip=text, key_thumbprint=text)
        Source(organization=text, app=text, machine=text)


def test_integers_are_ids() -> None:
    assert Access(resource={"app": 5, "db": "x", "job": ANY, "log": None}).resource == {
        "app": "5",
        "db": "x",
        "job": ANY,
        "log": None,
    }


def test_the_accepted_forms_of_an_organization() -> None:
    for name in (None, "acme", ANY_ORGANIZATION):
        assert Access(organization=name).organization is name
        assert Policy(organization=name).organization is name


def test_a_skew_may_be_a_timedelta() -> None:
    assert Policy(skew_s=timedelta(seconds=90)).skew_s == Policy(skew_s=90).skew_s == 90


def test_no_error_of_an_access_repeats_a_token() -> None:
    token = "tkdb_AgEMdGtkYi5l" + "x" * 200
    for wrong in ({"action": token}, {"resource": {token: "x"}}, {"resource": [token]}, {"source": token}):
        with pytest.raises(ConfigurationError) as raised:
            Access(**wrong)
        assert token[:40] not in str(raised.value)
