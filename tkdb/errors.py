"""Every error that tkdb raises, as one tree.

::

    TkdbError
    ├── Denied                   the token is denied; ``reason`` is one word of a closed list
    │   ├── TruncatedToken       ├── MalformedToken      ├── UnknownKey       ├── BadSignature
    │   ├── RevokedToken         ├── NotYetValid         ├── ExpiredToken     ├── CaveatUnmet
    │   ├── UnknownCaveat        ├── DischargeMissing    ├── DischargeInvalid
    │   └── OverLimit            └── ForeignOrganization
    ├── Refused                  the request was understood and refused; repeating it can't help
    │   ├── InvalidRequest       ├── NotPermitted        ├── NotFound
    │   ├── Conflict             ├── OutOfTime
    │   └── OverQuota
    ├── Unavailable              the request may be fine: try again
    │   ├── Overloaded           ├── Draining            ├── StoreUnwritable
    │   ├── DeadlineExceeded     ├── OutcomeUnknown
    │   ├── NoPrimary            ├── StaleAuthority
    │   └── WrongClock
    ├── InvalidCaveat            a caveat that can't be written (a ValueError too)
    ├── ChannelError             a Noise message that can't be opened, whatever the cause
    ├── ConfigurationError       a setting, key or file that can't be used
    │   └── UnfitObjectStore
    └── StoreError               the database can't be trusted or used
        ├── ForeignDatabase      ├── WrongSealKey        ├── BrokenJournal
        ├── BrokenHead          ├── NoBackup            └── RestoreFailed

Each error has a ``message``, with the problem and the expectation, and a ``hint``, with one thing to try. No error
contains a secret: no key, no token, no tail.

>>> raise CaveatUnmet("the request is w; act allows r", caveat=3, hint="ask for a token that may write")
Traceback (most recent call last):
...
tkdb.errors.CaveatUnmet: the request is w; act allows r: ask for a token that may write
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """The reasons for which a token is denied. The list is closed: every denial has one of these."""

    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown key"
    BAD_SIGNATURE = "bad signature"
    REVOKED = "revoked"
    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    CAVEAT_UNMET = "caveat unmet"
    FOREIGN_ORGANIZATION = "foreign organization"
    UNKNOWN_CAVEAT = "unknown caveat"
    DISCHARGE_MISSING = "discharge missing"
    DISCHARGE_INVALID = "discharge invalid"
    OVER_LIMIT = "over limit"


class TkdbError(Exception):
    """The root of the tree.

    Args:
        message: the problem and the expectation, without a final full stop.
        hint: one thing to try, as an imperative; empty if nothing helps.
    """

    code: ClassVar[str] = "error"
    """The permanent word for this error on the wire and in ``--json``."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class Denied(TkdbError):
    """The token is denied. ``reason`` is the class's word of the closed list.

    Args:
        message: the problem and the expectation.
        caveat: the number of the caveat that denied, from 1; None if no caveat did.
        hint: one thing to try.
    """

    reason: ClassVar[Reason]

    def __init__(self, message: str, *, caveat: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.caveat = caveat

    def __init_subclass__(cls) -> None:
        cls.code = cls.reason.value


class TruncatedToken(Denied):
    """The checksum of the text doesn't match: the text was cut short, or altered while it was copied."""

    reason = Reason.TRUNCATED


class MalformedToken(Denied):
    """The bytes aren't a macaroon in the one accepted encoding."""

    reason = Reason.MALFORMED


class UnknownKey(Denied):
    """The identifier names a root key that this authority doesn't hold, or no longer holds."""

    reason = Reason.UNKNOWN_KEY


class BadSignature(Denied):
    """The chain doesn't end in the given signature: the token is forged or altered."""

    reason = Reason.BAD_SIGNATURE


class RevokedToken(Denied):
    """A revocation covers this token."""

    reason = Reason.REVOKED


class NotYetValid(Denied):
    """The token becomes valid later, or its nonce is in the future."""

    reason = Reason.NOT_YET_VALID


class ExpiredToken(Denied):
    """The token has expired."""

    reason = Reason.EXPIRED


class CaveatUnmet(Denied):
    """A caveat doesn't clear against the access, or isn't allowed at its place."""

    reason = Reason.CAVEAT_UNMET


class ForeignOrganization(Denied):
    """The token belongs to another organization than the data that the request touches."""

    reason = Reason.FOREIGN_ORGANIZATION


class UnknownCaveat(Denied):
    """This version can't read a caveat, so it can't clear it."""

    reason = Reason.UNKNOWN_CAVEAT


class DischargeMissing(Denied):
    """A third-party caveat has no discharge in the bundle."""

    reason = Reason.DISCHARGE_MISSING


class DischargeInvalid(Denied):
    """A discharge doesn't belong to a caveat of this token, or isn't bound to the token."""

    reason = Reason.DISCHARGE_INVALID


class OverLimit(Denied):
    """The token or bundle exceeds a limit on bytes, caveats, discharges or depth."""

    reason = Reason.OVER_LIMIT


class Refused(TkdbError):
    """The request was understood and refused. Repeating it unchanged can't help."""

    code = "refused"


class InvalidRequest(Refused):
    """The request's body, or one of its arguments, isn't valid."""

    code = "invalid request"


class NotPermitted(Refused):
    """The signer may not do this, or not for this organization."""

    code = "not permitted"


class NotFound(Refused):
    """The request names something that doesn't exist."""

    code = "not found"


class Conflict(Refused):
    """The request would create something that exists already, or its request id was used for another request."""

    code = "conflict"


class OutOfTime(Refused):
    """The request's time is too old, or in the future: a replay, or a wrong clock.

    Args:
        message: the problem.
        hint: one thing to try.
        authority_ms: the authority's time, in ms since 1970, if it is known.
    """

    code = "out of time"

    def __init__(self, message: str, *, hint: str = "", authority_ms: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.authority_ms = authority_ms


class OverQuota(Refused):
    """The organization has as many revocations of single tokens, or of subjects, as it may have."""

    code = "over quota"


class Unavailable(TkdbError):
    """The authority couldn't be reached, or can't answer now. Try again.

    Args:
        message: the problem.
        hint: one thing to try.
        retry_after_ms: the shortest time to wait before the next try, or None.
    """

    code = "unavailable"

    def __init__(self, message: str, *, hint: str = "", retry_after_ms: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_ms = retry_after_ms


class StaleAuthority(Unavailable):
    """The machine or the cache can't prove that its data is fresh enough to include every revocation.

    This says nothing about the token. Code that catches ``Denied``, and sends a user to the login, doesn't catch it.
    """

    code = "stale"


class Overloaded(Unavailable):
    """There are too many requests at once, in all or for one lineage. Send fewer."""

    code = "slow down"


class Draining(Unavailable):
    """This machine is shutting down. Another machine answers."""

    code = "draining"


class StoreUnwritable(Unavailable):
    """The database can't be written, because the disk is full or read-only. Nothing was changed, and reads continue."""

    code = "store unwritable"


class DeadlineExceeded(Unavailable):
    """The caller's deadline passed before an answer came."""

    code = "deadline exceeded"


class OutcomeUnknown(Unavailable):
    """A write was sent, and its outcome is unknown. It is safe to repeat it with its request id.

    Args:
        message: the problem.
        hint: one thing to try.
        retry_after_ms: the shortest time to wait before the next try, or None.
        request_id: the request id of the write: 16 bytes, or None on the authority's side.
    """

    code = "outcome unknown"

    def __init__(
        self, message: str, *, hint: str = "", retry_after_ms: int | None = None, request_id: bytes | None = None
    ) -> None:
        super().__init__(message, hint=hint, retry_after_ms=retry_after_ms)
        self.request_id = request_id


class NoPrimary(Unavailable):
    """No machine takes writes now, or this one doesn't: a takeover or a planned move is in progress."""

    code = "no primary"


class WrongClock(Unavailable):
    """The clock of this machine differs too much from the authority's, which therefore refuses every request."""

    code = "wrong clock"


class InvalidCaveat(TkdbError, ValueError):
    """A caveat was built that no reader would accept. It is also a ValueError, because it is a programmer's
    argument."""

    code = "invalid caveat"


class ChannelError(TkdbError):
    """A Noise message can't be opened. Every cause has this one class and one text, on purpose."""

    code = "channel"


class ConfigurationError(TkdbError):
    """A setting, key or file can't be used."""

    code = "configuration"


class UnfitObjectStore(ConfigurationError):
    """The object store ignores conditions, or doesn't read the last write: two machines could lead."""

    code = "unfit object store"


class StoreError(TkdbError):
    """The database can't be trusted or used."""

    code = "store"


class ForeignDatabase(StoreError):
    """The file isn't a tkdb database, or is one of a newer version."""

    code = "foreign database"


class WrongSealKey(StoreError):
    """A record can't be unsealed with the given secrets."""

    code = "wrong seal key"


class BrokenJournal(StoreError):
    """The journal's chain or its fold isn't valid: the database was altered or damaged."""

    code = "broken journal"


class BrokenHead(StoreError):
    """The head isn't valid: it is missing, altered, from another journal, or older than one seen before."""

    code = "broken head"


class NoBackup(StoreError):
    """There is no backup at that path."""

    code = "no backup"


class RestoreFailed(StoreError):
    """There is a backup, but it doesn't give a valid database."""

    code = "restore failed"
