"""A token clears only for the data of its own organization, and clearing without a named organization is an error."""

from __future__ import annotations

from typing import Any

import pytest

from tkdb.errors import ConfigurationError, ForeignOrganization, Reason
from tkdb.macaroon import clearing
from tkdb.macaroon.access import ANY_ORGANIZATION, Access, Policy
from tkdb.macaroon.caveats import Exp

NOW_S = 1_700_000_000


def clears(organization: str, *, policy: Any = None, access: Any = None) -> bool:
    try:
        clearing.clear(
            organization, (), Access(organization=access), Policy(organization=policy, clock=lambda: float(NOW_S))
        )
    except ForeignOrganization:
        return False
    return True


@pytest.mark.parametrize(
    ("policy", "access", "expected"),
    [
        ("acme", None, True),
        (None, "acme", True),
        ("acme", "acme", True),
        ("acme", ANY_ORGANIZATION, True),
        (ANY_ORGANIZATION, None, True),
        (None, ANY_ORGANIZATION, True),
        (ANY_ORGANIZATION, "acme", True),
        ("evil", None, False),
        (None, "evil", False),
        ("acme", "evil", False),
        ("evil", "acme", False),
        ("evil", ANY_ORGANIZATION, False),
        (ANY_ORGANIZATION, "evil", False),
        (None, "", False),
        (None, "ACME", False),
        (None, "acme ", False),
        (None, "*", False),
        (None, "any organization", False),
    ],
)
def test_a_token_clears_only_for_every_named_organization(policy: Any, access: Any, *, expected: bool) -> None:
    assert clears("acme", policy=policy, access=access) is expected


def test_without_a_named_organization_clearing_never_answers() -> None:
    for caveats in ((), (Exp(0),)):
        with pytest.raises(ConfigurationError, match="neither the access nor the policy names the organization"):
            clearing.clear("acme", caveats, Access(), Policy(clock=lambda: float(NOW_S)))


def test_the_denial_names_both_organizations_and_comes_before_any_caveat() -> None:
    policy = Policy(organization="acme", clock=lambda: float(NOW_S))
    with pytest.raises(ForeignOrganization, match=r"belongs to the organization evil; .* data of acme$") as caught:
        clearing.clear("evil", (Exp(0),), Access(), policy)
    assert caught.value.reason is Reason.FOREIGN_ORGANIZATION
    assert caught.value.caveat is None


def test_the_denial_shows_a_callers_text_without_control_characters() -> None:
    with pytest.raises(ForeignOrganization) as caught:
        clearing.clear("acme", (), Access(organization="a\x1b[2J" + "b" * 500), Policy(clock=lambda: float(NOW_S)))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_without_the_check_of_the_organization_every_token_clears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "require_organization", lambda *_: None)
    assert clears("evil", policy="acme")
