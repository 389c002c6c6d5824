"""Everything that tkdb raises, as one tree.

::

    TkdbError
    ├── Denied                   the token is refused; ``reason`` is one word of a closed list
    │   ├── TruncatedToken       ├── MalformedToken      ├── UnknownKey       ├── BadSignature
    │   ├── RevokedToken         ├── NotYetValid         ├── ExpiredToken     ├── CaveatUnmet
    │   ├── UnknownCaveat        ├── DischargeMissing    ├── DischargeInvalid
    │   └── StaleAuthority       └── OverLimit
    ├── Refused                  the request was understood and will not be done; repeating it can't help
    │   ├── InvalidRequest       ├── NotPermitted        ├── NotFound
    │   └── Conflict             └── OutOfTime
    ├── Unavailable              nothing is known to be wrong with the request: try again
    │   ├── Overloaded           ├── Draining            ├── StoreUnwritable
    │   ├── DeadlineExceeded     ├── OutcomeUnknown
    │   └── NoPrimary
    ├── InvalidCaveat            a caveat that can't be written (a ValueError too)
    ├── ChannelError             a Noise message that can't be opened, whatever the cause
    ├── ConfigurationError       a setting, key or file that can't be used
    │   └── UnfitObjectStore
    └── StoreError               the database can't be trusted or used
        ├── ForeignDatabase      ├── WrongSealKey        ├── BrokenJournal
        ├── BrokenHead          ├── NoBackup            └── RestoreFailed

Each error says what happened and what was expected (``message``), and what to try (``hint``). No error
carries a secret: no key, no token, no tail.

>>> raise CaveatUnmet("the request is w; act allows r", caveat=3, hint="ask for a token that may write")
Traceback (most recent call last):
...
tkdb.errors.CaveatUnmet: the request is w; act allows r: ask for a token that may write
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why a token is denied. The list is closed: every denial is one of these."""

    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown key"
    BAD_SIGNATURE = "bad signature"
    REVOKED = "revoked"
    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    CAVEAT_UNMET = "caveat unmet"
    UNKNOWN_CAVEAT = "unknown caveat"
    DISCHARGE_MISSING = "discharge missing"
    DISCHARGE_INVALID = "discharge invalid"
    STALE = "stale"
    OVER_LIMIT = "over limit"


class TkdbError(Exception):
    """The root of the tree: what happened, and what to try.

    Args:
        message: what happened and what was expected, without a final full stop.
        hint: what to try, in the imperative; empty where nothing helps.
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
    """The token is refused. ``reason`` is the class's word of the closed list.

    Args:
        message: what was seen and what was expected.
        caveat: the caveat that denied, counted from 1, or None when it wasn't a caveat.
        hint: what to try.
    """

    reason: ClassVar[Reason]

    def __init__(self, message: str, *, caveat: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.caveat = caveat

    def __init_subclass__(cls) -> None:
        cls.code = cls.reason.value


class TruncatedToken(Denied):
    """The text's checksum doesn't match: it was cut short or altered while being copied."""

    reason = Reason.TRUNCATED


class MalformedToken(Denied):
    """The bytes are not a macaroon in its one accepted encoding."""

    reason = Reason.MALFORMED


class UnknownKey(Denied):
    """The identifier names a root key that this authority doesn't hold (or holds no more)."""

    reason = Reason.UNKNOWN_KEY


class BadSignature(Denied):
    """The chain doesn't end in the signature presented: forged, or altered."""

    reason = Reason.BAD_SIGNATURE


class RevokedToken(Denied):
    """A revocation covers this token."""

    reason = Reason.REVOKED


class NotYetValid(Denied):
    """The token's validity begins later, or its nonce lies in the future."""

    reason = Reason.NOT_YET_VALID


class ExpiredToken(Denied):
    """The token's validity has ended."""

    reason = Reason.EXPIRED


class CaveatUnmet(Denied):
    """A caveat does not clear against the access, or stands where it may not stand."""

    reason = Reason.CAVEAT_UNMET


class UnknownCaveat(Denied):
    """A caveat that this version can't read; what can't be read can't be cleared."""

    reason = Reason.UNKNOWN_CAVEAT


class DischargeMissing(Denied):
    """A third-party caveat has no discharge in the bundle."""

    reason = Reason.DISCHARGE_MISSING


class DischargeInvalid(Denied):
    """A discharge does not answer a caveat of this token, or isn't bound to it."""

    reason = Reason.DISCHARGE_INVALID


class StaleAuthority(Denied):
    """Who was asked can't show that it is fresh enough to know of every revocation."""

    reason = Reason.STALE


class OverLimit(Denied):
    """The token or bundle exceeds a limit on bytes, caveats, discharges or depth."""

    reason = Reason.OVER_LIMIT


class Refused(TkdbError):
    """The request was understood and will not be done. Repeating it unchanged can't help."""

    code = "refused"


class InvalidRequest(Refused):
    """The request's body or one of its arguments is not acceptable."""

    code = "invalid request"


class NotPermitted(Refused):
    """The signer may not do this, or not for this organization."""

    code = "not permitted"


class NotFound(Refused):
    """What the request names does not exist."""

    code = "not found"


class Conflict(Refused):
    """What the request would make exists already, or its request id was used for something else."""

    code = "conflict"


class OutOfTime(Refused):
    """The request's time is too old or in the future: a replay, or a clock that is wrong."""

    code = "out of time"


class Unavailable(TkdbError):
    """The authority could not be reached or could not answer now. Try again.

    Args:
        message: what happened.
        hint: what to try.
        retry_after_ms: the least time to wait before the next try, or None.
    """

    code = "unavailable"

    def __init__(self, message: str, *, hint: str = "", retry_after_ms: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_ms = retry_after_ms


class Overloaded(Unavailable):
    """Too much is being asked at once, in all or of one lineage: slow down."""

    code = "slow down"


class Draining(Unavailable):
    """This machine is shutting down; another one answers."""

    code = "draining"


class StoreUnwritable(Unavailable):
    """The database can't be written (full or read-only disk). Nothing was changed; reads go on."""

    code = "store unwritable"


class DeadlineExceeded(Unavailable):
    """The caller's deadline passed before an answer came."""

    code = "deadline exceeded"


class OutcomeUnknown(Unavailable):
    """A write was sent and its outcome is not known. Repeating it with its request id is safe."""

    code = "outcome unknown"


class NoPrimary(Unavailable):
    """No machine takes writes now, or not this one: a takeover or a planned move is under way."""

    code = "no primary"


class InvalidCaveat(TkdbError, ValueError):
    """A caveat was built that no reader would accept. (A ValueError too: it is a programmer's argument.)"""

    code = "invalid caveat"


class ChannelError(TkdbError):
    """A Noise message that can't be opened. One class and one text for every cause, by intent."""

    code = "channel"


class ConfigurationError(TkdbError):
    """A setting, key or file that can't be used."""

    code = "configuration"


class UnfitObjectStore(ConfigurationError):
    """The object store doesn't keep its conditions, or doesn't read what was written: two machines could lead."""

    code = "unfit object store"


class StoreError(TkdbError):
    """The database can't be trusted or used."""

    code = "store"


class ForeignDatabase(StoreError):
    """The file is not a tkdb database, or one of a newer version."""

    code = "foreign database"


class WrongSealKey(StoreError):
    """A record can't be unsealed with the secrets given."""

    code = "wrong seal key"


class BrokenJournal(StoreError):
    """The journal's chain or its fold doesn't hold: the database was altered or damaged."""

    code = "broken journal"


class BrokenHead(StoreError):
    """The head can't be trusted: it is missing, altered, of another journal, or older than one seen before."""

    code = "broken head"


class NoBackup(StoreError):
    """There is no backup where one was looked for."""

    code = "no backup"


class RestoreFailed(StoreError):
    """A backup is there, and doesn't give a sound database."""

    code = "restore failed"
