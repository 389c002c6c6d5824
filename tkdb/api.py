"""The methods of the authority, as the messages that carry them.

A request is one struct, tagged with its method's name; the path that it may be sent to is the one whose union
holds it. What comes back is one ``Answer``: the method's result, or the error. All are msgpack maps (JSON in
``tkdb dev``), and unknown fields are refused, so that a typing error is never ignored.

==============  =======  ================================================  =========================
path            Noise    who may ask                                       answered by
==============  =======  ================================================  =========================
``/v1/verify``  IK       anyone who knows the authority's public key       any region
``/v1/revoke``  IK       anyone; the token presented is the authority      the primary (it writes)
``/v1/sign``    KK       signers                                           any region
``/v1/write``   KK       signers                                           the primary (it writes)
==============  =======  ================================================  =========================

>>> body = encode(Mint(organization="acme", caveats=[b'["act","r"]']))
>>> decode_request("/v1/sign", body)
Mint(organization='acme', caveats=[b'["act","r"]'], expires_in_s=None)
>>> decode_request("/v1/verify", body)
Traceback (most recent call last):
...
tkdb.errors.InvalidRequest: Invalid value 'mint' - at `$.method`: see the methods of /v1/verify
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
MAX_TARGETS: Final = 1024
MAX_FEED_BYTES: Final = 65_000
"""What the revocations of one entry may take, so that a message carries them: entries aren't split."""
MAX_TOLD_BRANCHES: Final = 8
MAX_PAGE: Final = 500
MAX_PAGE_BYTES: Final = 48 * 1024
MAX_KEYS: Final = 32
MAX_WAIT_MS: Final = 30_000

R = TypeVar("R")


class Call(msgspec.Struct, Generic[R], frozen=True, forbid_unknown_fields=True, tag_field="method"):
    """A request; ``R`` is the type of its result."""

    result: ClassVar[Any]


# --- /v1/verify ---------------------------------------------------------------------------------------------


class Valid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="valid"):
    """The chain, the discharges and the revocations of one bundle are in order; caveats are not cleared.

    ``branches`` are those of its lineage that are revoked. This token is in none of them, but what is attenuated from
    it may be: who wants to check that without asking again must know them. None: more than are told."""

    organization: str
    branches: Annotated[list[Bytes16], msgspec.Meta(max_length=MAX_TOLD_BRANCHES)] | None = []


class Invalid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="denied"):
    """One bundle is denied."""

    reason: errors.Reason
    message: str
    hint: str = ""
    caveat: int | None = None

    def error(self) -> errors.Denied:
        """Return the denial, made anew: errors carry their raising."""
        return DENIALS[self.reason](self.message, caveat=self.caveat, hint=self.hint)


class Verified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One result for each bundle, in order."""

    results: list[Valid | Invalid]


class Verify(Call[Verified], frozen=True, tag="verify"):
    """Check bundles (each the text of an Authorization header's tokens, comma-separated)."""

    result: ClassVar = Verified
    bundles: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_BUNDLES)]

    def __repr__(self) -> str:
        return f"Verify({len(self.bundles)} bundles)"


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="lineage"):
    """A minted token and every token attenuated from it: to be revoked, or revoked."""

    kid: Bytes16
    nonce: Bytes16


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="branch"):
    """One attenuated token and every token attenuated from it: to be revoked, or revoked. ``branch`` is 16 bytes of
    SHA-256 of its tail."""

    kid: Bytes16
    nonce: Bytes16
    branch: Bytes16


class IssuedBefore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="issued-before"):
    """Every token under these keys, all of one organization, whose nonce's time is before ``before_ms``; and of those
    that were minted for one of ``subjects``, each whose time is before the subject's. Subjects are given as 16 bytes of
    SHA-256 of their UTF-8. The stated clock skew is added already."""

    kids: Annotated[list[Bytes16], msgspec.Meta(max_length=MAX_KIDS)]
    before_ms: Count = 0
    subjects: Annotated[list[tuple[Bytes16, Count]], msgspec.Meta(max_length=MAX_TARGETS)] = []


class KeyRetired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="key"):
    """Every token under the key."""

    kid: Bytes16


Revocation = Lineage | Branch | IssuedBefore | KeyRetired


class Feed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Revocations in journal order. Ask again from ``position``; at once where ``more``."""

    position: Count
    revocations: list[Revocation]
    more: bool


class Revocations(Call[Feed], frozen=True, tag="revocations"):
    """Follow the revocations that touch the keys ``kids``, after position ``after``; wait for news at most
    ``wait_ms`` (long poll). Subjects and organizations are shown only as they touch those keys."""

    result: ClassVar = Feed
    kids: Annotated[list[Bytes16], msgspec.Meta(min_length=1, max_length=MAX_KIDS)]
    after: Count
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_WAIT_MS)] = 0


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of the regions' machines, as the machine that answers last saw it.

    ``epoch`` counts primaries, ``rev`` changes of the head, ``seq`` is the last entry that it names. ``primary`` is the
    machine that takes writes, in ``region``; empty where none is known to. The head was last seen to change
    ``unchanged_ms`` ago; when that exceeds ``lease_ms``, another machine may take over.
    """

    epoch: Count
    rev: Count
    seq: Count
    primary: str
    region: str
    lease_ms: Count
    unchanged_ms: Count


class StatusReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine says of itself.

    ``uptime_ms`` is since its start. ``position`` is the last entry that it serves, ``age_ms`` how old that may be at
    most (None: it doesn't know). ``fault`` says why it can't answer now; empty where it can. ``cluster`` is None for
    a machine that stands alone. ``time_ms`` is what its wall clock says, right or wrong (None: a version that doesn't
    tell); ``attested``, whether only callers that Fly's proxy attests are answered.
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
    """Ask who answers."""

    result: ClassVar = StatusReport


# --- /v1/revoke ---------------------------------------------------------------------------------------------


class Revoked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The revocation is durable. ``already`` where all its targets had been revoked before."""

    already: bool


class RevokeOwn(Call[Revoked], frozen=True, tag="revoke-own"):
    """Revoke exactly the branch of the token presented: possession is the authority to do so."""

    result: ClassVar = Revoked
    token: str

    def __repr__(self) -> str:
        return "RevokeOwn(…)"


# --- /v1/sign -----------------------------------------------------------------------------------------------


class Minted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new token, as text. It is a secret: who holds it may use it."""

    token: str
    expires_s: Count

    def __repr__(self) -> str:
        return f"Minted(…, expires_s={self.expires_s})"


class Mint(Call[Minted], frozen=True, tag="mint"):
    """Mint a token with these caveats (each the bytes of one typed caveat). One ``exp`` is among them, or is
    added: ``expires_in_s`` from now, an hour by default, at most the organization's maximum."""

    result: ClassVar = Minted
    organization: OrganizationName
    caveats: Annotated[list[bytes], msgspec.Meta(max_length=63)] = []
    expires_in_s: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | None = None


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A root key, without the key. ``until_ms``: when the last token under it can have expired, or None."""

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
    """One page, by name. Where ``more``, ask again with ``after`` = the last name."""

    organizations: list[Organization]
    more: bool


class ListOrganizations(Call[Organizations], frozen=True, tag="organization.list"):
    """List the organizations that the signer may act for, ``limit`` at most; fewer where they are large."""

    result: ClassVar = Organizations
    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 100


class TakenOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that answered is primary now, of epoch ``epoch``."""

    machine: str
    epoch: Count


class TakeOver(Call[TakenOver], frozen=True, tag="take-over"):
    """Make the machine that gets this primary, at once and without asking the one that is. Nothing acknowledged is
    lost by that; writes under way there end as unknown."""

    result: ClassVar = TakenOver


# --- /v1/write ----------------------------------------------------------------------------------------------


class CreateOrganization(Call[Organization], frozen=True, tag="organization.create"):
    """Make an organization with a first root key. ``max_lifetime_s``: how long its tokens may live at most
    (90 days, unless the authority's configuration allows more)."""

    result: ClassVar = Organization
    name: OrganizationName
    max_lifetime_s: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | None = None


class ConfigureOrganization(Call[Organization], frozen=True, tag="organization.configure"):
    """Change how long the organization's tokens may live, for tokens minted from now on."""

    result: ClassVar = Organization
    name: OrganizationName
    max_lifetime_s: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]


class RotateKey(Call[Organization], frozen=True, tag="organization.rotate"):
    """Mint under a new root key; the old one verifies until its last token can have expired."""

    result: ClassVar = Organization
    name: OrganizationName


class Deleted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The organization is gone, and every token of it with it. Its name is never given again."""


class DeleteOrganization(Call[Deleted], frozen=True, tag="organization.delete"):
    """Retire every key of the organization, for good."""

    result: ClassVar = Deleted
    name: OrganizationName


class Before(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="before"):
    """Target: everything of an organization, or of one subject in it, issued before a time (now: None)."""

    organization: OrganizationName
    before_ms: Count | None = None
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None


class RetireKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="key"):
    """Target: every token under a key. A signing key is replaced by a new one in the same step."""

    kid: Bytes16


Target = Lineage | Branch | Before | RetireKey


class Revoke(Call[Revoked], frozen=True, tag="revoke"):
    """Revoke many targets in one journal entry: all of them, or none."""

    result: ClassVar = Revoked
    targets: Annotated[list[Target], msgspec.Meta(min_length=1, max_length=MAX_TARGETS)]


class Resealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``resealed`` records now lie under the first sealing secret; ask again while ``remaining`` > 0."""

    resealed: Count
    remaining: Count


class Reseal(Call[Resealed], frozen=True, tag="reseal"):
    """Seal records that lie under an older sealing secret again, under the first; ``limit`` at a time."""

    result: ClassVar = Resealed
    limit: Annotated[int, msgspec.Meta(ge=1, le=256)] = 256


class Restored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Organizations and keys are as after entry ``seq`` again; ``changed`` of them were not."""

    seq: Count
    changed: Count


class Restore(Call[Restored], frozen=True, tag="restore"):
    """Go back to what entry ``seq``, or the last one before ``at_ms``, left: one of them is given. Revocations, retired
    keys and deleted organizations since are never undone."""

    result: ClassVar = Restored
    seq: Count | None = None
    at_ms: Count | None = None


class HandedOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The primary has published all that it had, and leads no more: it is ``machine``'s turn."""

    machine: str


class HandOver(Call[HandedOver], frozen=True, tag="hand-over"):
    """Move the primary to ``machine``, by plan: it takes over at once, or a lease runs out as ever. No entry of the
    journal."""

    result: ClassVar = HandedOver
    machine: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9._-]*\Z")]


VerifyCall = Verify | Revocations | Status
RevokeCall = RevokeOwn
SignCall = Mint | ListOrganizations | TakeOver
WriteCall = CreateOrganization | ConfigureOrganization | RotateKey | DeleteOrganization | Revoke | Reseal | Restore
"""The calls that an entry of the journal carries out."""

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


# --- what comes back ----------------------------------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The result, or the failure; and how far the machine that answers has come.

    ``journal`` is the journal's id, ``position`` the sequence number of the last entry that the machine
    serves (for a write: at least the write's own), ``age_ms`` how old its knowledge may be at most. What answers a read
    was found out at that position or later: they are taken before, not after.
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
        InvalidRequest: not msgpack, not a method of this path, or a field that is wrong.
    """
    try:
        return _decoders[path].decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise errors.InvalidRequest(_first_line(error), hint=f"see the methods of {path}") from None


def decode_answer(body: bytes) -> Answer:
    """Return the answer in ``body``.

    Raises:
        ChannelError: it isn't one. (Who answers holds the authority's key, so this is a fault or a newer version.)
    """
    try:
        return _answer_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.ChannelError("the answer can't be read", hint="is this client older than the authority?") from None


def decode_result(call: Call[R], answer: Answer) -> R:
    """Return the result that ``answer`` carries for ``call``.

    Raises:
        TkdbError: the failure that it carries instead, as the class of its code.
        ChannelError: it carries neither.
    """
    if answer.failure is not None:
        raise answer.failure.error()
    try:
        result: R = msgspec.msgpack.decode(answer.result, type=call.result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.ChannelError("the result can't be read", hint="is this client older than the authority?") from None
    return result


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] or type(error).__name__
