"""An error on the wire: the code of its class in ``tkdb.errors``, and its texts.

>>> failure = Failure.from_error(errors.RevokedToken("the token is revoked", hint="ask for a new one", caveat=2))
>>> failure.code
'revoked'
>>> raise failure.error()
Traceback (most recent call last):
...
tkdb.errors.RevokedToken: the token is revoked: ask for a new one
"""

from __future__ import annotations

from typing import Annotated, Final, Self

import msgspec

from tkdb import errors


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error on the wire.

    ``caveat`` is the number of the caveat that denied, from 1. ``retry_after_ms`` is when an unavailable machine may be
    asked again. ``authority_ms`` is the authority's time, if the request's time was wrong.
    """

    code: str
    message: str
    hint: str = ""
    caveat: int | None = None
    retry_after_ms: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    authority_ms: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None

    @classmethod
    def from_error(cls, error: errors.TkdbError) -> Self:
        """Return the failure for an error.

        An error that is neither a denial nor a refusal is this machine's own problem. For the caller, this machine is
        unavailable, and another one may answer.
        """
        if not isinstance(error, errors.Denied | errors.Refused | errors.Unavailable):
            return cls(errors.Unavailable.code, "this machine can't answer", "try again; the machine's log has details")
        return cls(
            code=error.code,
            message=error.message,
            hint=error.hint,
            caveat=getattr(error, "caveat", None),
            retry_after_ms=getattr(error, "retry_after_ms", None),
            authority_ms=getattr(error, "authority_ms", None),
        )

    def error(self) -> errors.TkdbError:
        """Return the error. A code of a newer version becomes ``Refused``."""
        kind = KINDS.get(self.code, errors.Refused)
        if issubclass(kind, errors.Denied):
            return kind(self.message, caveat=self.caveat, hint=self.hint)
        if issubclass(kind, errors.Unavailable):
            return kind(self.message, hint=self.hint, retry_after_ms=self.retry_after_ms)
        if issubclass(kind, errors.OutOfTime):
            return kind(self.message, hint=self.hint, authority_ms=self.authority_ms)
        return kind(self.message, hint=self.hint)


def _with_subclasses(kind: type[errors.TkdbError]) -> list[type[errors.TkdbError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _with_subclasses(child))]


DENIALS: Final = {kind.reason: kind for kind in errors.Denied.__subclasses__()}
"""The class of each reason."""
KINDS: Final[dict[str, type[errors.TkdbError]]] = {
    **{kind.code: kind for each in (errors.Refused, errors.Unavailable) for kind in _with_subclasses(each)},
    **{kind.code: kind for kind in DENIALS.values()},
}
"""The class of each code."""
