"""The response to a rejected caller: it follows RFC 6750, 9110 and 9457, and leaks nothing."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import errors
from tkdb_client.web.rejection import Rejection, render

DENIALS = [kind for kind in errors.Denied.__subclasses__() if kind is not errors.StaleAuthority]
# RFC 6750, section 3: the whole challenge, with the characters that error_description allows.
CHALLENGE = re.compile(
    r'Bearer realm="(?:[ !#-\[\]-~]|\\["\\])*"'
    r'(?:, error="(invalid_request|invalid_token|insufficient_scope)", error_description="[ !#-\[\]-~]*")?'
)


def headers(rejection: Rejection, realm: str = "shop") -> dict[str, str]:
    return dict(render(rejection, realm).headers)


def test_without_a_token_no_error_is_named() -> None:
    assert headers(Rejection.missing())["www-authenticate"] == 'Bearer realm="shop"'


@pytest.mark.parametrize("kind", DENIALS)
def test_every_denial_is_a_401_that_names_its_reason(kind: type[errors.Denied]) -> None:
    rejection = Rejection.denied(kind("why", caveat=3, hint="do this"))
    answer = render(rejection, "shop")
    assert answer.status == 401
    assert f'error="invalid_token", error_description="{kind.reason}: why"' in dict(answer.headers)["www-authenticate"]
    assert msgspec.json.decode(answer.body) == {
        "type": "urn:tkdb:problem:denied",
        "title": "The token is denied",
        "status": 401,
        "detail": "why",
        "reason": kind.reason.value,
        "caveat": 3,
        "hint": "do this",
    }


def test_an_unmet_caveat_is_a_403_and_an_expired_token_is_a_401() -> None:
    unmet = Rejection.unmet(errors.CaveatUnmet("it allows r; the request is w", caveat=1))
    assert (unmet.status, unmet.code) == (403, "insufficient_scope")
    assert 'error="insufficient_scope"' in headers(unmet)["www-authenticate"]
    assert Rejection.unmet(errors.ExpiredToken("late", caveat=1)).status == 401


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (errors.Unavailable("gone"), 1),
        (errors.Overloaded("busy", retry_after_ms=2_500), 3),
        (errors.DeadlineExceeded("late", retry_after_ms=0), 1),
        (errors.StaleAuthority("behind"), 1),
    ],
)
def test_an_unavailable_authority_is_a_503_with_retry_after(error: Any, wait_s: int) -> None:
    rejection = Rejection.denied(error) if isinstance(error, errors.Denied) else Rejection.unavailable(error)
    assert rejection.status == 503
    assert headers(rejection)["retry-after"] == str(wait_s)
    assert "www-authenticate" not in headers(rejection)


@given(realm=st.text(max_size=40), message=st.text(max_size=600))
def test_no_text_breaks_out_of_the_challenge(realm: str, message: str) -> None:
    for rejection in (
        Rejection.denied(errors.MalformedToken(message)),
        Rejection.unmet(errors.CaveatUnmet(message)),
        Rejection.malformed(message),
        Rejection.missing(),
    ):
        challenge = rejection.challenge(realm)
        assert CHALLENGE.fullmatch(challenge)
        assert len(challenge) < 700


def test_a_rejection_is_never_stored() -> None:
    assert headers(Rejection.missing())["cache-control"] == "no-store"
