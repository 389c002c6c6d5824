"""The methods of the authority, as messages.

A request is one struct, tagged with its method's name. It may be sent to the path whose union contains it. The
response is one ``Answer``: the method's result, or the error. All messages are msgpack maps (JSON in ``tkdb dev``).
Unknown fields are refused, so that a misspelled field is never ignored.

==============  =======  ================================================  =========================
path            Noise    callers                                           answered by
==============  =======  ================================================  =========================
``/v1/verify``  IK       anyone who knows the authority's public key       any region
``/v1/revoke``  IK       anyone, by possession of the token                 the primary (it writes)
``/v1/sign``    KK       signers                                           any region
``/v1/write``   KK       signers                                           the primary (it writes)
==============  =======  ================================================  =========================

>>> body = encode(Mint(organization="acme", caveats=[b'["act","r"]']))
>>> decode_request("/v1/sign", body)
Mint(organization='acme', caveats=[b'["act","r"]'], expires_in_s=None)
>>> decode_request("/v1/verify", body)
Traceback (most recent call last):
...
tkdb.errors.InvalidRequest: the field method can't be read: Invalid value 'mint': see the methods of /v1/verify
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeVar

import msgspec

from tkdb import errors
from tkdb.failure import DENIALS, Failure

Bytes16 = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
OrganizationName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]

MAX_BUNDLES: Final = 200
MAX_KIDS: Final = 1024
MAX_SUBJECT: Final = 256
MAX_TARGETS: Final = 1024
MAX_CAVEATS: Final = 63
MAX_FEED_BYTES: Final = 65_000
"""The largest size of one entry's revocations, so that one message can carry them: entries aren't split."""
MAX_TOLD_BRANCHES: Final = 8
MAX_PAGE: Final = 500
MAX_PAGE_BYTES: Final = 48 * 1024
MAX_KEYS: Final = 32
MAX_WAIT_MS: Final = 30_000

R = TypeVar("R")


class Call(msgspec.Struct, Generic[R], frozen=True, forbid_unknown_fields=True, tag_field="method"):
    """A request. ``R`` is the type of its result."""

    result: ClassVar[Any]


# --- /v1/verify ---------------------------------------------------------------------------------------------


class Valid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="valid"):
    """The chain, the discharges and the revocations of one bundle are valid. Caveats are not cleared.

    ``branches`` are the revoked branches of its lineage. This token is in none of them, but tokens attenuated from it
    may be: a client that wants to check those without another request needs this list. None: there are too many.
    """

    organization: str
    branches: Annotated[list[Bytes16], msgspec.Meta(max_length=MAX_TOLD_BRANCHES)] | None = []


class Invalid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="denied"):
    """One bundle is denied."""

    reason: errors.Reason
    message: str
    hint: str = ""
    caveat: int | None = None

    def error(self) -> errors.Denied:
        """Return the denial as a new error, because an error records where it was raised."""
        return DENIALS[self.reason](self.message, caveat=self.caveat, hint=self.hint)


class Unsure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="unsure"):
    """This machine can't decide about one bundle yet: its key may be too new to be known here. Ask about it alone."""


class Verified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One result for each bundle, in order."""

    results: list[Valid | Invalid | Unsure]


class Verify(Call[Verified], frozen=True, tag="verify"):
    """Check bundles. Each is the text of an Authorization header's tokens, comma-separated."""

    result: ClassVar = Verified
    bundles: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_BUNDLES)]

    def __repr__(self) -> str:
        return f"Verify({len(self.bundles)} bundles)"


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="lineage"):
    """A minted token and every token attenuated from it, to be revoked, or revoked."""

    kid: Bytes16
    nonce: Bytes16


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="branch"):
    """One attenuated token and its descendants, to be revoked, or revoked. ``branch``: 16 bytes of the SHA-256 of
    its tail."""

    kid: Bytes16
    nonce: Bytes16
    branch: Bytes16


class IssuedBefore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="issued-before"):
    """Every token under these keys, all of one organization, whose nonce's time is before ``before_ms``.

    Of the tokens that were minted for one of ``subjects``: every token whose time is before the subject's time. A
    subject is given as 16 bytes of the SHA-256 of its UTF-8. The allowed clock skew is already added.
    """

    kids: Annotated[list[Bytes16], msgspec.Meta(max_length=MAX_KIDS)]
    before_ms: Count = 0
    subjects: Annotated[list[tuple[Bytes16, Count]], msgspec.Meta(max_length=MAX_TARGETS)] = []


class KeyRetired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="key"):
    """Every token under the key."""

    kid: Bytes16


Revocation = Lineage | Branch | IssuedBefore | KeyRetired


class Feed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Revocations in journal order. Ask again from ``position``, and at once if ``more``."""

    position: Count
    revocations: list[Revocation]
    more: bool


class Revocations(Call[Feed], frozen=True, tag="revocations"):
    """Follow the revocations that affect the keys ``kids``, after position ``after``. Wait for new ones at most
    ``wait_ms`` (long poll). Subjects and organizations are included only as far as they affect these keys."""

    result: ClassVar = Feed
    kids: Annotated[list[Bytes16], msgspec.Meta(min_length=1, max_length=MAX_KIDS)]
    after: Count
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_WAIT_MS)] = 0


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machines' head, as the answering machine last saw it.

    ``epoch`` counts primaries, ``rev`` counts changes of the head, and ``seq`` is the last entry that it names.
    ``primary`` is the machine that takes writes, in ``region``; empty if none is known. The last change was seen
    ``unchanged_ms`` before the last read, which was ``read_ms`` ago. If ``unchanged_ms`` is more than ``lease_ms``,
    another machine may take over. If ``read_ms`` is more than ``bound_ms``, the machine's bound, nobody may rely on any
    of this: the store may be out of reach, and another machine may be primary.
    """

    epoch: Count
    rev: Count
    seq: Count
    primary: str
    region: str
    lease_ms: Count
    unchanged_ms: Count
    read_ms: Count
    bound_ms: Count

    @property
    def is_current(self) -> bool:
        """True if the head was read within the bound."""
        return self.read_ms <= self.bound_ms


class StatusReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The status of a machine.

    ``uptime_ms`` counts from its start. ``position`` is the last entry that it serves, and ``age_ms`` the largest
    possible age of that data (None: unknown). ``fault`` is the reason why it can't answer now, or empty. ``cluster`` is
    None for a machine that stands alone. ``time_ms`` is its wall clock, right or wrong (None: a version that doesn't
    report it). ``attested`` is True if it answers only callers that Fly's proxy attests.
    """

    name: str
    version: str
    role: Literal["primary", "replica"]
    region: str
    machine: str
    uptime_ms: Count
    position: Count
    age_ms: Count | None
    fault: str = ""
    cluster: Cluster | None = None
    time_ms: Count | None = None
    attested: bool = False


class Status(Call[StatusReport], frozen=True, tag="status"):
    """Ask for the status of the machine that answers."""

    result: ClassVar = StatusReport


# --- /v1/revoke ---------------------------------------------------------------------------------------------


class Revoked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The revocation is durable. ``already``: all its targets had been revoked before."""

    already: bool


class RevokeOwn(Call[Revoked], frozen=True, tag="revoke-own"):
    """Revoke exactly the branch of the given token. Possession of the token is the permission."""

    result: ClassVar = Revoked
    token: str

    def __repr__(self) -> str:
        return "RevokeOwn(…)"


# --- /v1/sign -----------------------------------------------------------------------------------------------


class Minted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new token, as text. It is a secret: anyone who holds it can use it."""

    token: str
    expires_s: Count

    def __repr__(self) -> str:
        return f"Minted(…, expires_s={self.expires_s})"


class Mint(Call[Minted], frozen=True, tag="mint"):
    """Mint a token with these caveats, each the bytes of one typed caveat. One ``exp`` is among them, or is added:
    ``expires_in_s`` from now. Default: an hour, or the organization's maximum if that is shorter."""

    result: ClassVar = Minted
    organization: OrganizationName
    caveats: Annotated[list[bytes], msgspec.Meta(max_length=MAX_CAVEATS)] = []
    expires_in_s: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | None = None


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A root key, without the key itself. ``until_ms``: the time by which the last token under it has expired, or
    None."""

    kid: Bytes16
    generation: Count
    state: Literal["signing", "verifying", "retired"]
    until_ms: Count | None = None


class Organization(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An organization and its newest keys, at most ``MAX_KEYS``, the newest first."""

    name: str
    max_lifetime_s: Count
    created_ms: Count
    keys: list[Key]


class Organizations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One page, sorted by name. If ``more``, ask again with ``after`` set to the last name."""

    organizations: list[Organization]
    more: bool


class ListOrganizations(Call[Organizations], frozen=True, tag="organization.list"):
    """List the organizations that the signer may act for, at most ``limit``, and fewer if they are large."""

    result: ClassVar = Organizations
    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 100


class TakenOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that answered is now primary, of epoch ``epoch``."""

    machine: str
    epoch: Count


class TakeOver(Call[TakenOver], frozen=True, tag="take-over"):
    """Make the machine that receives this primary, at once, and without asking the current one. No acknowledged
    write is lost. Writes in progress at the current primary end with an unknown outcome."""

    result: ClassVar = TakenOver


# --- /v1/write ----------------------------------------------------------------------------------------------


class CreateOrganization(Call[Organization], frozen=True, tag="organization.create"):
    """Create an organization with a first root key. ``max_lifetime_s``: the longest lifetime of its tokens.
    Default: the authority's maximum."""

    result: ClassVar = Organization
    name: OrganizationName
    max_lifetime_s: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | None = None


class ConfigureOrganization(Call[Organization], frozen=True, tag="organization.configure"):
    """Change the longest lifetime of the organization's tokens, for tokens minted from now on."""

    result: ClassVar = Organization
    name: OrganizationName
    max_lifetime_s: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]


class RotateKey(Call[Organization], frozen=True, tag="organization.rotate"):
    """Mint under a new root key. The old key verifies until its last token has expired."""

    result: ClassVar = Organization
    name: OrganizationName


class Deleted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The organization is deleted, together with every token of it. Its name is never used again."""


class DeleteOrganization(Call[Deleted], frozen=True, tag="organization.delete"):
    """Retire every key of the organization, permanently."""

    result: ClassVar = Deleted
    name: OrganizationName


class Before(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="before"):
    """Target: everything of an organization, or of one subject in it, that was issued before a time (None: now)."""

    organization: OrganizationName
    before_ms: Count | None = None
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SUBJECT)] | None = None


class RetireKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="key"):
    """Target: every token under a key. A signing key is replaced with a new one in the same step."""

    kid: Bytes16


Target = Lineage | Branch | Before | RetireKey


class Revoke(Call[Revoked], frozen=True, tag="revoke"):
    """Revoke many targets in one journal entry: all of them, or none."""

    result: ClassVar = Revoked
    targets: Annotated[list[Target], msgspec.Meta(min_length=1, max_length=MAX_TARGETS)]


class Resealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``resealed`` records are now sealed with the first sealing secret. Ask again while ``remaining`` > 0."""

    resealed: Count
    remaining: Count


class Reseal(Call[Resealed], frozen=True, tag="reseal"):
    """Seal records of an older sealing secret again, with the first one, at most ``limit`` at a time."""

    result: ClassVar = Resealed
    limit: Annotated[int, msgspec.Meta(ge=1, le=256)] = 256


class Restored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Organizations and keys are again as after entry ``seq``. ``changed`` of them differed."""

    seq: Count
    changed: Count


class Restore(Call[Restored], frozen=True, tag="restore"):
    """Restore the state after entry ``seq``, or after the last entry up to ``at_ms``. Give one of them. Later
    revocations, retired keys and deleted organizations are never undone."""

    result: ClassVar = Restored
    seq: Count | None = None
    at_ms: Count | None = None


class HandedOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The primary has published all its entries and leads no longer: ``machine`` is next."""

    machine: str


class HandOver(Call[HandedOver], frozen=True, tag="hand-over"):
    """Move the primary to ``machine``, as planned. It takes over at once, or else a lease runs out as usual. This
    writes no entry of the journal."""

    result: ClassVar = HandedOver
    machine: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9._-]*\Z")]


VerifyCall = Verify | Revocations | Status
RevokeCall = RevokeOwn
SignCall = Mint | ListOrganizations | TakeOver
WriteCall = CreateOrganization | ConfigureOrganization | RotateKey | DeleteOrganization | Revoke | Reseal | Restore
"""The calls that are carried out by an entry of the journal."""

VERIFY: Final = "/v1/verify"
REVOKE: Final = "/v1/revoke"
SIGN: Final = "/v1/sign"
WRITE: Final = "/v1/write"

CALLS_BY_PATH: Final[dict[str, Any]] = {
    VERIFY: VerifyCall,
    REVOKE: RevokeCall,
    SIGN: SignCall,
    WRITE: WriteCall | HandOver,
}
SIGNED_PATHS: Final = frozenset({SIGN, WRITE})
WRITING_PATHS: Final = frozenset({REVOKE, WRITE})


# --- responses ----------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The result, or the failure, and the position of the machine that answers.

    ``journal`` is the journal's id. ``position`` is the last entry that the machine serves; for a write it is at least
    the write's own. ``age_ms`` is the largest possible age of its data. A read's result was computed at that position
    or later: position and age are taken before it, not after.
    """

    journal: Bytes16
    position: Count
    age_ms: Count
    result: msgspec.Raw = msgspec.Raw()
    failure: Failure | None = None


_encoder = msgspec.msgpack.Encoder()
_decoders = {path: msgspec.msgpack.Decoder(union) for path, union in CALLS_BY_PATH.items()}
_answer_decoder = msgspec.msgpack.Decoder(Answer)


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as msgpack."""
    return _encoder.encode(message)


def decode_request(path: str, body: bytes | msgspec.Raw) -> Any:
    """Return the request of ``path`` in ``body``.

    Raises:
        InvalidRequest: it isn't msgpack, isn't a method of this path, or has a wrong field.
    """
    try:
        return _decoders[path].decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise errors.InvalidRequest(problem(error), hint=f"see the methods of {path}") from None


def decode_answer(body: bytes) -> Answer:
    """Return the answer in ``body``.

    Raises:
        ChannelError: it isn't an answer. (The sender holds the authority's key, so this is a bug or a newer version.)
    """
    try:
        return _answer_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _unreadable("answer") from None


def decode_result(call: Call[R], answer: Answer) -> R:
    """Return the result that ``answer`` contains for ``call``.

    Raises:
        TkdbError: the failure that it contains instead, in the class of its code.
        ChannelError: it contains neither.
    """
    if answer.failure is not None:
        raise answer.failure.error()
    try:
        result: R = msgspec.msgpack.decode(answer.result, type=call.result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _unreadable("result") from None
    return result


def _unreadable(what: str) -> errors.ChannelError:
    return errors.ChannelError(f"the {what} can't be read", hint="upgrade this client if the authority is newer")


def problem(error: Exception) -> str:
    """Return the reason why a request can't be read, with the name of the field, if it is about one."""
    reason, _, path = str(error).splitlines()[0][:200].partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    return f"the field {field} can't be read: {reason}" if field else f"the request can't be read: {reason}"
