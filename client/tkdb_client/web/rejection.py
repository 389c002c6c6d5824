"""Why a request isn't let in, and the HTTP answer that says so. Pure.

======  ======================  ================================================================================
status  error (RFC 6750, 3.1)   when
======  ======================  ================================================================================
401     none                    no token was presented
400     ``invalid_request``     the Authorization header is malformed, or there are several
401     ``invalid_token``       the token is denied, for one of the reasons of `tkdb.errors.Reason`
403     ``insufficient_scope``  the token is good, and a caveat doesn't allow what the request attempts
503     none                    the authority can't be reached, or who answers can't show that it is fresh enough
======  ======================  ================================================================================

The body is a problem (RFC 9457) with the members ``reason``, ``caveat`` and ``hint`` where there are any. Nothing of
a token's bytes is in any of it.

>>> from tkdb.errors import ExpiredToken
>>> Rejection.denied(ExpiredToken("caveat 1 of 2: expired 9 s ago", caveat=1)).challenge("shop")
'Bearer realm="shop", error="invalid_token", error_description="expired: caveat 1 of 2: expired 9 s ago"'
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from tkdb.errors import CaveatUnmet, Denied, Reason, StaleAuthority, Unavailable

DESCRIPTION_CHARS: Final = 400
"""Of an ``error_description``: headers are short."""

# What an error_description may not hold (RFC 6750, 3). Quotes are told apart from what nobody should print.
_QUOTE: Final = str.maketrans({'"': "'", "\\": "/"})
_UNPRINTABLE: Final = re.compile(r"[^ !#-\[\]-~]")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Rejection(Exception):
    """A request isn't let in. Raised where a token is required; the middleware turns it into the answer.

    Args:
        status: the HTTP status.
        title: what is wrong, for all requests of this kind.
        detail: what is wrong with this one.
        kind: the end of the problem's URI, for good.
        code: RFC 6750's error, or None.
        error: what denied, where the authority or a caveat did.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        kind: str,
        code: str | None = None,
        error: Denied | Unavailable | None = None,
    ) -> None:
        super().__init__(f"{status} {code or kind}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.kind = kind
        self.code = code
        self.error = error

    @classmethod
    def missing(cls) -> Self:
        """No token was presented."""
        return cls(401, "A token is required", "send it as: Authorization: Bearer TOKEN", kind="token-missing")

    @classmethod
    def malformed(cls, detail: str) -> Self:
        """The Authorization header can't be read."""
        return cls(400, "The Authorization header is malformed", detail, kind="bad-header", code="invalid_request")

    @classmethod
    def denied(cls, error: Denied) -> Self:
        """The token is refused, whatever the request attempts."""
        if isinstance(error, StaleAuthority):
            return cls.unavailable(error)
        return cls(401, "The token is denied", error.message, kind="denied", code="invalid_token", error=error)

    @classmethod
    def unmet(cls, error: Denied) -> Self:
        """The token is good, and its caveats don't clear."""
        if not isinstance(error, CaveatUnmet):
            return cls.denied(error)
        title = "The token does not allow this"
        return cls(403, title, error.message, kind="denied", code="insufficient_scope", error=error)

    @classmethod
    def unavailable(cls, error: Unavailable | StaleAuthority) -> Self:
        """Nobody could say whether the token is good."""
        return cls(503, "The token can't be verified now", error.message, kind="unavailable", error=error)

    @property
    def reason(self) -> Reason | None:
        """The word of the closed list, where a token was denied."""
        return self.error.reason if isinstance(self.error, Denied) else None

    @property
    def retry_after_s(self) -> int | None:
        """How long to wait before the next try, in whole seconds; None where trying again doesn't help."""
        if self.status != 503:
            return None
        delay_ms = self.error.retry_after_ms if isinstance(self.error, Unavailable) else None
        return max(1, -(-(delay_ms or 0) // 1000))

    def challenge(self, realm: str) -> str:
        """Return the value of WWW-Authenticate (RFC 6750, 3)."""
        parameters = [f'realm="{_quoted(realm)}"']
        if self.code is not None:
            said = f"{self.reason}: {self.detail}" if self.reason else self.detail
            parameters += [f'error="{self.code}"', f'error_description="{_plain(said)}"']
        return "Bearer " + ", ".join(parameters)

    def problem(self) -> dict[str, Any]:
        """Return the members of the problem document (RFC 9457)."""
        members: dict[str, Any] = {
            "type": f"urn:tkdb:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.reason is not None:
            members["reason"] = self.reason.value
        if isinstance(self.error, Denied) and self.error.caveat is not None:
            members["caveat"] = self.error.caveat
        if self.error is not None and self.error.hint:
            members["hint"] = self.error.hint
        return members


Render = Callable[[Rejection], Answer]
"""An app's own answers to rejections."""


def render(rejection: Rejection, realm: str) -> Answer:
    """Return the answer to a rejection: challenge, problem, and never to be stored."""
    headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if rejection.status != 503:
        headers.append(("www-authenticate", rejection.challenge(realm)))
    if rejection.retry_after_s is not None:
        headers.append(("retry-after", str(rejection.retry_after_s)))
    return Answer(rejection.status, tuple(headers), msgspec.json.encode(rejection.problem()))


def _quoted(text: str) -> str:
    """Escape for a quoted-string (RFC 9110, 5.6.4); what may not stand in one is left out."""
    return re.sub(r'(["\\])', r"\\\1", re.sub(r"[^ -~]", "", text))


def _plain(text: str) -> str:
    """Return a text with nothing in it that may not stand in an error_description."""
    return _UNPRINTABLE.sub("?", text.translate(_QUOTE))[:DESCRIPTION_CHARS]
