"""The state: the fold in memory, which the hot path reads instead of a database.

>>> from tkdb.journal.entry import link
>>> from tkdb.journal.additions import Genesis
>>> from tkdb.journal.seal import ChainKey
>>> state = State()
>>> genesis = Genesis(journal=b"j" * 16, name="tkdb.internal", chain_key=b"sealed")
>>> state.apply(link(state.head, ChainKey(bytes(32)), now_ms=1, epoch=0, made=genesis))
>>> state.name, state.head.seq
('tkdb.internal', 1)
>>> state.revocation(bytes(32)) is None
True
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from tkdb.journal.entry import START, Entry, Tip, check_place
from tkdb.journal.fold import changes, is_sealed_otherwise
from tkdb.journal.rows import (
    AuthorityRow,
    ChainKeyRow,
    Change,
    Forget,
    KeyRow,
    OrganizationRow,
    RevocationRow,
    SubjectRow,
    bucket,
    is_covered,
)

Revoked = set[bytes] | Literal[True]
"""The revoked part of a lineage: these branches, or the whole lineage (True)."""

_EMPTY: Final[dict[bytes, Revoked]] = {}


class State:
    """All rows that entries have put, and the journal's tip.

    Attributes:
        journal: the journal's id, 16 bytes; empty before the first entry.
        name: the authority's name.
        head: the last entry applied.
        organizations: by name, including deleted ones.
        keys: root keys by kid, sealed; including retired ones, without their key.
        revoked: by bucket (``rows.bucket``), then by lineage (``lineage_key``): the revoked part of the lineage. After
            ``tidy``, it contains no revocation that is covered (``rows.is_covered``).
        chain_keys: sealed, by generation.
        longest_lifetime_s: the longest lifetime that any organization's tokens could ever have.
    """

    def __init__(self) -> None:
        self.journal = b""
        self.name = ""
        self.head: Tip = START
        self.longest_lifetime_s = 0
        self.organizations: dict[str, OrganizationRow] = {}
        self.keys: dict[bytes, KeyRow] = {}
        self.revoked: dict[bytes, dict[bytes, Revoked]] = {}
        self.chain_keys: dict[int, ChainKeyRow] = {}
        self._subjects: dict[str, dict[bytes, int]] = {}
        # The number of each organization's revocations in each bucket.
        self._remembered: dict[str, dict[bytes, int]] = {}
        # The organizations that may have covered revocations.
        self._untidy: set[str] = set()
        # The kids of an organization, joined, the newest first. With one key, the common case, it is that kid itself.
        self._kids: dict[str, bytes] = {}
        self._verifying: set[bytes] = set()

    def apply(self, entry: Entry) -> None:
        """Apply the next entry. Its hash isn't checked here: that takes the chain key (``journal.check_link``).

        Raises:
            BrokenJournal: it isn't the next entry, can't be read, or contradicts the rows. Nothing was changed.
        """
        check_place(self.head, entry)
        for change in changes(self, entry):
            self.put(change)
        self.head = entry.head

    def tidy(self) -> None:
        """Drop the revocations that are covered now, because they only take memory.

        Call it after several entries: it looks at all revocations of the buckets that these organizations use.
        """
        for name in self._untidy:
            self._drop_covered(name)
        self._untidy.clear()

    def become(self, other: State) -> None:
        """Take over the content of ``other``: all users of this state see it. Don't use ``other`` afterwards."""
        self.__dict__.update(other.__dict__)

    def put(self, change: Change) -> None:
        """Carry out one change of an entry."""
        match change:
            case RevocationRow():
                self._put_revocation(change)
            case KeyRow():
                self._put_key(change)
            case OrganizationRow():
                self.organizations[change.name] = change
                self._untidy.add(change.name)
                self.longest_lifetime_s = max(self.longest_lifetime_s, change.longest_lifetime_s)
            case SubjectRow():
                self._subjects.setdefault(change.organization, {})[change.subject] = change.issued_from_ms
            case ChainKeyRow():
                self.chain_keys[change.generation] = change
            case AuthorityRow():
                self.journal, self.name = change.journal, change.name
            case Forget():
                self._forget(change)

    def revocation(self, lineage: bytes) -> Revoked | None:
        """Return the revoked part of a lineage (kid and nonce: 32 bytes as in an identifier), or None."""
        return self.revoked.get(lineage[16:19], _EMPTY).get(lineage[1:])

    def is_revoked(self, lineage: bytes, branch: bytes) -> bool:
        """Return True if a whole lineage or exactly this branch of it is revoked. An empty ``branch`` is no branch."""
        revoked = self.revocation(lineage)
        return revoked is True or (revoked is not None and branch in revoked)

    def organization(self, name: str) -> OrganizationRow | None:
        """Return the organization with this name, deleted or not."""
        return self.organizations.get(name)

    def live(self) -> Iterable[OrganizationRow]:
        """Return the organizations that aren't deleted."""
        return (row for row in self.organizations.values() if not row.deleted)

    def key(self, kid: bytes) -> KeyRow | None:
        """Return the root key with this name, retired or not."""
        return self.keys.get(kid)

    def keys_of(self, name: str) -> list[KeyRow]:
        """Return the root keys of an organization, the newest first."""
        kids = self._kids.get(name, b"")
        return [self.keys[kids[at : at + 16]] for at in range(0, len(kids), 16)]

    def signing_key(self, name: str) -> KeyRow | None:
        """Return the key under which an organization's tokens are minted; None for a deleted organization."""
        return next((key for key in self.keys_of(name) if key.state == "signing"), None)

    def verifying(self) -> list[KeyRow]:
        """Return all root keys that still verify but no longer sign."""
        return [self.keys[kid] for kid in self._verifying]

    def issued_from(self, organization: str, subject: bytes) -> int:
        """Return the time before which a subject's tokens are revoked, in ms; 0 if none are revoked.

        ``subject`` has 16 bytes (``macaroon.verify.subject_digest``). The organization's own time is in its row.
        """
        return self._subjects.get(organization, {}).get(subject, 0)

    def branches_of(self, lineage: bytes) -> int:
        """Return the number of revoked branches of a lineage; 0 if the whole lineage is revoked."""
        revoked = self.revocation(lineage)
        return len(revoked) if isinstance(revoked, set) else 0

    def remembered(self, name: str) -> int:
        """Return the number of an organization's revoked lineages and branches, without covered ones."""
        return sum(self._remembered.get(name, {}).values())

    def count_subjects(self, name: str) -> int:
        """Return the number of an organization's subjects with revoked tokens."""
        return len(self._subjects.get(name, ()))

    def subjects_of(self, organization: str) -> Mapping[bytes, int] | None:
        """Return an organization's subjects with revoked tokens, with their ``issued_from``; None if there are none."""
        return self._subjects.get(organization)

    def chain_key(self, generation: int) -> ChainKeyRow | None:
        """Return the chain key of this generation."""
        return self.chain_keys.get(generation)

    def last_generation(self) -> int:
        """Return the generation of the chain key in force; 0 before the first entry."""
        return len(self.chain_keys)

    def sealed_otherwise(self, first_id: bytes) -> Iterator[KeyRow | ChainKeyRow]:
        """Yield the rows with a key under another sealing secret than ``first_id``: root keys, then chain keys."""
        for key in self.keys.values():
            if is_sealed_otherwise(key, first_id):
                yield key
        for chain_key in self.chain_keys.values():
            if is_sealed_otherwise(chain_key, first_id):
                yield chain_key

    def _put_revocation(self, row: RevocationRow) -> None:
        key = self.keys.get(row.kid)
        if key is not None and is_covered(self.organizations.get(key.organization), key, row.nonce):
            return
        span, lineage = bucket(row.nonce), lineage_key(row.kid, row.nonce)
        lineages = self.revoked.setdefault(span, {})
        there = lineages.get(lineage)
        if there is True:
            return
        count = _weight(there)
        if row.branch and there is not None:
            there.add(row.branch)
        else:
            lineages[lineage] = {row.branch} if row.branch else True
        if key is not None:
            spans = self._remembered.setdefault(key.organization, {})
            spans[span] = spans.get(span, 0) + _weight(lineages[lineage]) - count

    def _drop_covered(self, name: str) -> None:
        spans = self._remembered.get(name)
        if not spans:
            return
        organization, keys = self.organizations.get(name), {key.kid[1:]: key for key in self.keys_of(name)}
        for span in list(spans):
            lineages = self.revoked[span]
            for lineage in list(lineages):
                key = keys.get(lineage[:15])
                if key is not None and is_covered(organization, key, lineage[15:]):
                    spans[span] -= _weight(lineages.pop(lineage))
            if not lineages:
                del self.revoked[span]
            if not spans[span]:
                del spans[span]
        if not spans:
            del self._remembered[name]

    def _put_key(self, row: KeyRow) -> None:
        if row.kid not in self.keys:
            # This keeps the newest first, because rows are put in the order of their generations.
            older = self._kids.get(row.organization)
            self._kids[row.organization] = row.kid if older is None else row.kid + older
        self.keys[row.kid] = row
        if row.state == "verifying":
            self._verifying.add(row.kid)
        else:
            self._verifying.discard(row.kid)
        if row.state == "retired":
            self._untidy.add(row.organization)

    def _forget(self, forget: Forget) -> None:
        first = forget.first_bucket
        for name in [name for name in self.revoked if name < first]:
            del self.revoked[name]
        for organization, spans in list(self._remembered.items()):
            left = {span: count for span, count in spans.items() if span >= first}
            if left:
                self._remembered[organization] = left
            else:
                del self._remembered[organization]
        for organization, subjects in list(self._subjects.items()):
            kept = {subject: ms for subject, ms in subjects.items() if ms > forget.horizon_ms}
            if kept:
                self._subjects[organization] = kept
            else:
                del self._subjects[organization]


def _weight(revoked: Revoked | None) -> int:
    """Return the number of revocations in the revoked part of a lineage."""
    return 0 if revoked is None else 1 if revoked is True else len(revoked)


def lineage_key(kid: bytes, nonce: bytes) -> bytes:
    """Return the key of a lineage within its bucket: kid and nonce without the kid's first byte.

    CPython stores 31 bytes in 64 bytes, and 32 bytes in 80: this saves 16 MB for a million lineages. Kids are random
    and chosen by the authority, so the remaining 120 bits still distinguish them.
    """
    return kid[1:] + nonce
