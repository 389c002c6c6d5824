"""A rejected request: the reason, and the HTTP response. Pure.

======  ======================  ================================================================================
status  error (RFC 6750, 3.1)   when
======  ======================  ================================================================================
401     none                    the request has no token
400     ``invalid_request``     the Authorization header is malformed, or there are several
401     ``invalid_token``       the token is denied, for one of the reasons of `tkdb.errors.Reason`
403     ``insufficient_scope``  the token is valid; it is another organization's, or a caveat doesn't allow the access
503     none                    the authority can't be reached, or no machine can prove that it is fresh enough
======  ======================  ================================================================================

The body is a problem (RFC 9457) with the members ``reason``, ``caveat`` and ``hint``, if there are any. No part
contains any of a token's bytes.

>>> from tkdb.errors import ExpiredToken
>>> Rejection.denied(ExpiredToken("caveat 1 of 2: expired 9 s ago", caveat=1)).challenge("shop")
'Bearer realm="shop", error="invalid_token", error_description="expired: caveat 1 of 2: expired 9 s ago"'
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import msgspec

from tkdb.errors import CaveatUnmet, Denied, ForeignOrganization, Reason, Unavailable

DESCRIPTION_CHARS: Final = 400
"""The longest ``error_description``, because headers are short."""

# Characters that an error_description may not contain (RFC 6750, 3). A quote or a backslash becomes a similar
# character, and any other one becomes a question mark.
_QUOTE: Final = str.maketrans({'"': "'", "\\": "/"})
_UNPRINTABLE: Final = re.compile(r"[^ !#-\[\]-~]")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Rejection(Exception):
    """A rejected request. Raised where a token is required; the middleware turns it into the response.

    Args:
        status: the HTTP status.
        title: the problem, the same for all requests of this kind.
        detail: the problem of this request.
        kind: the permanent end of the problem's URI.
        code: RFC 6750's error, or None.
        error: the denial, if the authority or a caveat denied the token.
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy it with all its arguments. By default, only ``args`` would reach the new object."""
        return partial(type(self), kind=self.kind, code=self.code, error=self.error), (
            self.status,
            self.title,
            self.detail,
        )

    @classmethod
    def missing(cls) -> Self:
        """Return the rejection of a request without a token."""
        return cls(401, "A token is required", "send it as: Authorization: Bearer TOKEN", kind="token-missing")

    @classmethod
    def malformed(cls, detail: str) -> Self:
        """Return the rejection of an Authorization header that can't be read."""
        return cls(400, "The Authorization header is malformed", detail, kind="bad-header", code="invalid_request")

    @classmethod
    def denied(cls, error: Denied) -> Self:
        """Return the rejection of a token that is denied for every access."""
        return cls(401, "The token is denied", error.message, kind="denied", code="invalid_token", error=error)

    @classmethod
    def unmet(cls, error: Denied) -> Self:
        """Return the rejection of a valid token that doesn't clear."""
        if not isinstance(error, CaveatUnmet | ForeignOrganization):
            return cls.denied(error)
        title = "The token does not allow this"
        return cls(403, title, error.message, kind="denied", code="insufficient_scope", error=error)

    @classmethod
    def unavailable(cls, error: Unavailable) -> Self:
        """Return the rejection of a token that can't be verified now."""
        return cls(503, "The token can't be verified now", error.message, kind="unavailable", error=error)

    @property
    def reason(self) -> Reason | None:
        """The word of the closed list, if a token was denied."""
        return self.error.reason if isinstance(self.error, Denied) else None

    @property
    def retry_after_s(self) -> int | None:
        """The wait before the next try, in whole seconds; None if a retry doesn't help."""
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
"""An app's own responses to rejections."""


def render(rejection: Rejection, realm: str) -> Answer:
    """Return the response to a rejection: a challenge and a problem, never to be stored."""
    headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if rejection.status != 503:
        headers.append(("www-authenticate", rejection.challenge(realm)))
    if rejection.retry_after_s is not None:
        headers.append(("retry-after", str(rejection.retry_after_s)))
    return Answer(rejection.status, tuple(headers), msgspec.json.encode(rejection.problem()))


def _quoted(text: str) -> str:
    """Return a text escaped for a quoted-string (RFC 9110, 5.6.4), without characters that aren't allowed in one."""
    return re.sub(r'(["\\])', r"\\\1", re.sub(r"[^ -~]", "", text))


def _plain(text: str) -> str:
    """Return a text without characters that aren't allowed in an error_description."""
    return _UNPRINTABLE.sub("?", text.translate(_QUOTE))[:DESCRIPTION_CHARS]
