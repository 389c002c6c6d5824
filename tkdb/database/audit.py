"""The audit: the check that a database matches its journal, and that the journal matches the signers' requests.

An audit proves the database (``tkdb.database.proof``) and checks each signature for which it has the public key. Limit:
it can't detect that someone cut off the end of the journal and the matching table rows. To detect that, keep a report's
``head`` in another place and compare it with the next report's.

    async with await Database.open(Path("tkdb.db"), read_only=True) as database:
        report = await audit(database, seal_keys, verify=verifier("tkdb.example", keys))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tkdb import api, errors
from tkdb.channel.envelope import prologue, verify_signature
from tkdb.channel.keys import SignerPublic
from tkdb.database.database import Database
from tkdb.database.proof import HINT, prove
from tkdb.journal.entry import Entry, Tip
from tkdb.journal.fold import read_call
from tkdb.journal.seal import SealKeys


class UnknownSigner(msgspec.Struct, frozen=True):
    """A signer whose public key the audit doesn't have: its thumbprint, and its entries.

    ``first`` and ``last`` are the positions of the first and of the last of these ``entries``.
    """

    signer: bytes
    entries: int
    first: int
    last: int


class AuditReport(msgspec.Struct, frozen=True):
    """The result of an audit that found nothing wrong.

    ``signed`` entries have a signature that was checked. The entries of the signers in ``unknown`` have a signature
    that couldn't be checked. The others are the authority's own, or were requested by the holder of a token.
    """

    entries: int
    signed: int
    unknown: list[UnknownSigner]
    head: Tip

    @property
    def unknown_entries(self) -> int:
        """The number of entries whose signature couldn't be checked."""
        return sum(signer.entries for signer in self.unknown)


async def audit(database: Database, seal_keys: SealKeys, verify: Callable[[Entry], bool | None]) -> AuditReport:
    """Check the whole of ``database`` as it is now; other processes may continue to write it.

    Args:
        database: best opened read-only. If it is open for writing, its writes wait until the audit ends.
        seal_keys: the sealing secrets; each chain key is sealed under one of them.
        verify: returns whether an entry's signature is valid, or None if the signer's public key isn't known.

    Raises:
        BrokenJournal: something was altered or damaged; the message names the entry or row.
        WrongSealKey: the sealing secret of a chain key isn't given.
        StoreError: the database can't be read.
    """
    signed = 0
    unknown: dict[bytes, UnknownSigner] = {}

    def check(entry: Entry) -> None:
        nonlocal signed
        verdict = _check_signature(entry, verify)
        signed += verdict is True
        if verdict is None:
            so_far = unknown.get(entry.signer) or UnknownSigner(entry.signer, 0, entry.seq, entry.seq)
            unknown[entry.signer] = UnknownSigner(entry.signer, so_far.entries + 1, so_far.first, entry.seq)

    head = (await prove(database, seal_keys, check)).state.head
    return AuditReport(entries=head.seq, signed=signed, unknown=list(unknown.values()), head=head)


def verifier(name: str, keys: Iterable[SignerPublic]) -> Callable[[Entry], bool | None]:
    """Return a function that checks an entry's signature, and returns None if no key of ``keys`` belongs to its signer.

    Args:
        name: the authority's name.
        keys: the public keys of present and retired signers.
    """
    known = {key.thumbprint: key for key in keys}
    context = prologue(api.WRITE, name)

    def verify(entry: Entry) -> bool | None:
        key = known.get(entry.signer)
        if key is None:
            return None
        try:
            verify_signature(key, context, entry.signed_ms, entry.request_id, entry.body, entry.signature)
        except errors.ChannelError:
            return False
        return True

    return verify


def _check_signature(entry: Entry, verify: Callable[[Entry], bool | None]) -> bool | None:
    """Return True if the signature is valid, None if its key isn't known, and False if there is no signature."""
    if not entry.signer and not entry.signature:
        _check_unsigned(entry)
        return False
    verdict = verify(entry)
    if verdict is False:
        raise errors.BrokenJournal(f"entry {entry.seq}: its signature isn't the signer's", hint=HINT)
    return verdict


def _check_unsigned(entry: Entry) -> None:
    """Check that an entry without a signer is one that needs none.

    Such an entry is the authority's own, or revokes one branch for a holder of a token of this branch. Without this
    check, anyone who holds the sealing secret could remove a write's signature and turn it into another write.

    Raises:
        BrokenJournal: the entry needs a signature.
    """
    match read_call(entry):
        case None | api.Revoke(targets=[api.Branch()]):
            return
    raise errors.BrokenJournal(f"entry {entry.seq}: it needs a signer's signature, and has none", hint=HINT)
