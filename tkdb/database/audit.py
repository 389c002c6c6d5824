"""The audit: a database is what its journal says, and its journal what the signers asked for.

An audit proves the database (``tkdb.database.proof``) and checks each signature that it knows the key of. What it can't
see is an end that was cut off tables and journal alike: keep a report's ``head`` elsewhere to see that.

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
from tkdb.journal.entry import Entry, Head
from tkdb.journal.fold import read_call
from tkdb.journal.seal import SealKeys


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit found to be in order.

    ``signed`` entries carry a signature that was checked, ``unknown`` ones one whose key isn't known any more;
    the rest are the authority's own, or were asked for by possession of a token.
    """

    entries: int
    signed: int
    unknown: int
    head: Head


async def audit(database: Database, seal_keys: SealKeys, verify: Callable[[Entry], bool | None]) -> AuditReport:
    """Check ``database`` as a whole, as of now; writes by others may go on.

    Args:
        database: best opened read-only. One that is also written waits with that until the end.
        seal_keys: the sealing secrets; the chain keys lie under one of them.
        verify: says whether an entry's signature is right; None where the signer's public key isn't known.

    Raises:
        BrokenJournal: something was altered or damaged; the message says which entry or row.
        WrongSealKey: the sealing secret of a chain key isn't given.
        StoreError: the database can't be read.
    """
    signed = unknown = 0

    def check(entry: Entry) -> None:
        nonlocal signed, unknown
        verdict = _check_signature(entry, verify)
        signed += verdict is True
        unknown += verdict is None

    head = (await prove(database, seal_keys, check)).state.head
    return AuditReport(entries=head.seq, signed=signed, unknown=unknown, head=head)


def verifier(name: str, keys: Iterable[SignerPublic]) -> Callable[[Entry], bool | None]:
    """Return what says whether an entry's signature is its signer's: None where that isn't one of ``keys``.

    Args:
        name: the authority's.
        keys: those that signers have, or have had.
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
    """Return True if the signature was checked, None if its key isn't known, False if there is none to check."""
    if not entry.signer and not entry.signature:
        _check_unsigned(entry)
        return False
    verdict = verify(entry)
    if verdict is False:
        raise errors.BrokenJournal(f"entry {entry.seq}: its signature isn't its signer's", hint=HINT)
    return verdict


def _check_unsigned(entry: Entry) -> None:
    """Without a signer, an entry is the authority's own, or revokes one branch for whoever presented a token of it.

    Else who holds the sealing secret could strip a write of its signature and make another of it.
    """
    match read_call(entry):
        case None | api.Revoke(targets=[api.Branch()]):
            return
    raise errors.BrokenJournal(f"entry {entry.seq}: it needs a signer's signature, and has none", hint=HINT)
