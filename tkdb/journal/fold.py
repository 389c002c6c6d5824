"""The fold: the rows that an entry puts. It depends only on the entry and on the rows before it.

It uses no clock, no randomness and no configuration, so it gives the same result on any machine, years later. No
authority ever acknowledged an entry that contradicts the rows (with a name that exists, or a key that is unknown, for
example). Such an entry is rejected as a whole.

>>> outlived_ms(3600)
3621000
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, Protocol, TypeVar

import msgspec

from tkdb import api, errors
from tkdb.journal.additions import (
    Created,
    Genesis,
    Made,
    Purged,
    Recovered,
    Replaced,
    Resealed,
    Restored,
    Rotated,
    decode_made,
)
from tkdb.journal.entry import Entry
from tkdb.journal.rows import (
    AuthorityRow,
    ChainKeyRow,
    Change,
    Forget,
    KeyRow,
    OrganizationRow,
    RevocationRow,
    SubjectRow,
)
from tkdb.journal.seal import seal_id
from tkdb.macaroon.verify import subject_digest

CLOCK_SKEW_MS: Final = 20_000
"""The largest difference between machines' clocks; a machine whose clock is further off doesn't mint. The meaning of
entries depends on it: another value would need new tags in ``tkdb.journal.additions``, and never applies to old
entries."""

_LAST_MS: Final = 2**53 - 1
"""The last time, chosen so that any lifetime can be added to any time."""
_UNREADABLE: Final = "upgrade tkdb, if this version is older than the one that wrote the journal"


def outlived_ms(lifetime_s: int) -> int:
    """Return for how many ms after a nonce's time its tokens may still be valid, if they may live ``lifetime_s``.

    A nonce's time may be earlier than the clock by ``CLOCK_SKEW_MS``. A token is valid to the end of its last second.
    """
    return lifetime_s * 1000 + CLOCK_SKEW_MS + 1000


def horizon_ms(rows: Rows, time_ms: int) -> int:
    """Return the latest time for which, at ``time_ms``, every token with an earlier nonce has expired."""
    return max(time_ms - outlived_ms(rows.longest_lifetime_s), 0)


def revoked_before_ms(target: api.Before, time_ms: int) -> int:
    """Return the time before which ``target`` revokes, in an entry of time ``time_ms``.

    A machine whose clock runs ahead creates nonces with later times. Those tokens are revoked, too.
    """
    asked_ms = time_ms if target.before_ms is None else target.before_ms
    return min(asked_ms + CLOCK_SKEW_MS, _LAST_MS)


class Rows(Protocol):
    """The rows before an entry, as the fold and the decisions on writes read them."""

    @property
    def journal(self) -> bytes:
        """The journal's id, 16 bytes; empty before the first entry."""

    @property
    def name(self) -> str:
        """The authority's name; empty before the first entry."""

    @property
    def longest_lifetime_s(self) -> int:
        """The longest lifetime that any organization's tokens could ever have."""

    def organization(self, name: str) -> OrganizationRow | None:
        """Return the organization with this name, deleted or not."""

    def live(self) -> Iterable[OrganizationRow]:
        """Return the organizations that aren't deleted."""

    def key(self, kid: bytes) -> KeyRow | None:
        """Return the root key with this name, retired or not."""

    def keys_of(self, name: str) -> list[KeyRow]:
        """Return the root keys of an organization, the newest first."""

    def verifying(self) -> list[KeyRow]:
        """Return all root keys that still verify but no longer sign."""

    def issued_from(self, organization: str, subject: bytes) -> int:
        """Return the time before which a subject's tokens are revoked, in ms; 0 if none are revoked."""

    def chain_key(self, generation: int) -> ChainKeyRow | None:
        """Return the chain key of this generation."""

    def last_generation(self) -> int:
        """Return the generation of the chain key in force; 0 before the first entry."""

    def is_revoked(self, lineage: bytes, branch: bytes) -> bool:
        """Return True if a whole lineage or exactly this branch of it is revoked. An empty ``branch`` is no branch."""

    def branches_of(self, lineage: bytes) -> int:
        """Return the number of revoked branches of a lineage; 0 if the whole lineage is revoked."""

    def remembered(self, name: str) -> int:
        """Return the number of an organization's revoked lineages and branches, without covered ones."""

    def subjects_of(self, name: str) -> Mapping[bytes, int] | None:
        """Return an organization's subjects with revoked tokens, with their ``issued_from``; None if there are none."""

    def count_subjects(self, name: str) -> int:
        """Return the number of an organization's subjects with revoked tokens."""

    def sealed_otherwise(self, first_id: bytes) -> Iterator[KeyRow | ChainKeyRow]:
        """Yield the rows with a key under another sealing secret than ``first_id``: root keys, then chain keys."""


class Draft:
    """The rows of ``base`` with further changes that aren't applied to ``base``. A draft can be a base itself.

    Its numbers of revocations may be too high, because they don't follow changes that cover or forget revocations.
    """

    def __init__(self, base: Rows) -> None:
        self._base = base
        self.changes: list[Change] = []
        self.journal = base.journal
        self.name = base.name
        self.longest_lifetime_s = base.longest_lifetime_s
        self._organizations: dict[str, OrganizationRow] = {}
        self._keys: dict[bytes, KeyRow] = {}
        self._subjects: dict[tuple[str, bytes], int] = {}
        self._chain_keys: dict[int, ChainKeyRow] = {}
        self._revoked: set[tuple[bytes, bytes]] = set()
        self._added: Counter[str] = Counter()
        self._horizon_ms = -1

    def put(self, change: Change) -> None:
        """Add a change."""
        self.changes.append(change)
        match change:
            case OrganizationRow():
                self._organizations[change.name] = change
                self.longest_lifetime_s = max(self.longest_lifetime_s, change.longest_lifetime_s)
            case KeyRow():
                self._keys[change.kid] = change
            case SubjectRow():
                self._subjects[change.organization, change.subject] = change.issued_from_ms
            case ChainKeyRow():
                self._chain_keys[change.generation] = change
            case RevocationRow():
                key, lineage = self.key(change.kid), change.kid + change.nonce
                if key is not None and not self.is_revoked(lineage, change.branch):
                    self._added[key.organization] += 1
                self._revoked.add((lineage, change.branch))
            case AuthorityRow():
                self.journal, self.name = change.journal, change.name
            case Forget():
                self._horizon_ms = change.horizon_ms
                self._subjects = {at: ms for at, ms in self._subjects.items() if ms > change.horizon_ms}

    def organization(self, name: str) -> OrganizationRow | None:
        return self._organizations.get(name) or self._base.organization(name)

    def live(self) -> Iterable[OrganizationRow]:
        rows = {row.name: row for row in self._base.live()} | self._organizations
        return [row for row in rows.values() if not row.deleted]

    def key(self, kid: bytes) -> KeyRow | None:
        return self._keys.get(kid) or self._base.key(kid)

    def keys_of(self, name: str) -> list[KeyRow]:
        if not self._keys:  # a loop over all organizations calls this many times
            return self._base.keys_of(name)
        rows = {row.kid: row for row in self._base.keys_of(name)}
        rows |= {row.kid: row for row in self._keys.values() if row.organization == name}
        return sorted(rows.values(), key=lambda row: -row.generation)

    def verifying(self) -> list[KeyRow]:
        rows = {row.kid: row for row in self._base.verifying()} | self._keys
        return [row for row in rows.values() if row.state == "verifying"]

    def issued_from(self, organization: str, subject: bytes) -> int:
        ours = self._subjects.get((organization, subject))
        if ours is not None:
            return ours
        theirs = self._base.issued_from(organization, subject)
        return theirs if theirs > self._horizon_ms else 0

    def chain_key(self, generation: int) -> ChainKeyRow | None:
        return self._chain_keys.get(generation) or self._base.chain_key(generation)

    def last_generation(self) -> int:
        return max(self._base.last_generation(), *self._chain_keys, 0)

    def is_revoked(self, lineage: bytes, branch: bytes) -> bool:
        here = (lineage, b"") in self._revoked or (bool(branch) and (lineage, branch) in self._revoked)
        return here or self._base.is_revoked(lineage, branch)

    def branches_of(self, lineage: bytes) -> int:
        return self._base.branches_of(lineage)

    def remembered(self, name: str) -> int:
        return self._base.remembered(name) + self._added[name]

    def count_subjects(self, name: str) -> int:
        return self._base.count_subjects(name) + sum(
            owner == name and not self._base.issued_from(owner, subject) for owner, subject in self._subjects
        )

    def subjects_of(self, name: str) -> Mapping[bytes, int] | None:
        theirs = (self._base.subjects_of(name) or {}).items()
        subjects = {subject: ms for subject, ms in theirs if ms > self._horizon_ms}
        subjects |= {subject: ms for (owner, subject), ms in self._subjects.items() if owner == name}
        return subjects or None

    def sealed_otherwise(self, first_id: bytes) -> Iterator[KeyRow | ChainKeyRow]:
        for row in self._base.sealed_otherwise(first_id):
            ours = self._keys.get(row.kid) if isinstance(row, KeyRow) else self._chain_keys.get(row.generation)
            if is_sealed_otherwise(ours or row, first_id):
                yield ours or row
        # Rows that only the draft has are sealed under the first secret, because no other one is used for sealing.


def is_sealed_otherwise(row: KeyRow | ChainKeyRow, first_id: bytes) -> bool:
    """Return True if a row holds a key, and this key is sealed under another sealing secret than ``first_id``."""
    return bool(row.sealed) and seal_id(row.sealed) != first_id


def changes(rows: Rows, entry: Entry) -> list[Change]:
    """Return the changes that ``entry`` makes to ``rows``, in order.

    Raises:
        BrokenJournal: the entry can't be read, or contradicts the rows.
    """
    made = decode_made(entry.made)
    call = read_call(entry) if entry.body else made
    draft = Draft(rows)
    fold = _FOLDS.get(type(call))
    if fold is None or (entry.seq == 1) != isinstance(made, Genesis):
        _misfit(entry, "this operation isn't possible at this place of a journal")
    fold(draft, entry, call, made)
    return draft.changes


def read_call(entry: Entry) -> api.WriteCall | None:
    """Return the request that an entry carries out, or None if the authority made the entry without a request.

    Raises:
        BrokenJournal: it can't be read.
    """
    if not entry.body:
        return None
    try:
        call: api.WriteCall = api.decode_request(api.WRITE, entry.body)
    except errors.InvalidRequest:
        raise errors.BrokenJournal(f"entry {entry.seq}: the request in it can't be read", hint=_UNREADABLE) from None
    return call


def _begin(draft: Draft, entry: Entry, genesis: Genesis, _: Made | None) -> None:
    draft.put(AuthorityRow(genesis.journal, genesis.name))
    _put_chain_key(draft, entry, genesis.chain_key)


def _create(draft: Draft, entry: Entry, call: api.CreateOrganization, made: Made | None) -> None:
    created = _expect(entry, made, Created)
    if draft.organization(call.name) is not None:
        _misfit(entry, f"organization {call.name} exists")
    lifetime_s = created.max_lifetime_s
    draft.put(OrganizationRow(call.name, lifetime_s, lifetime_s, created_ms=entry.time_ms))
    _put_signing_key(draft, entry, call.name, created.kid, created.sealed)


def _configure(draft: Draft, entry: Entry, call: api.ConfigureOrganization, made: Made | None) -> None:
    _expect_nothing(entry, made)
    row = _live_organization(draft, entry, call.name)
    longest_s = max(row.longest_lifetime_s, call.max_lifetime_s)
    draft.put(msgspec.structs.replace(row, max_lifetime_s=call.max_lifetime_s, longest_lifetime_s=longest_s))


def _rotate(draft: Draft, entry: Entry, call: api.RotateKey, made: Made | None) -> None:
    rotated = _expect(entry, made, Rotated)
    row = _live_organization(draft, entry, call.name)
    until_ms = min(entry.time_ms + outlived_ms(row.longest_lifetime_s), _LAST_MS)
    for key in draft.keys_of(call.name):
        if key.state == "signing":
            draft.put(msgspec.structs.replace(key, state="verifying", until_ms=until_ms))
    _put_signing_key(draft, entry, call.name, rotated.kid, rotated.sealed)


def _delete(draft: Draft, entry: Entry, call: api.DeleteOrganization, made: Made | None) -> None:
    _expect_nothing(entry, made)
    row = _live_organization(draft, entry, call.name)
    for key in draft.keys_of(call.name):
        _retire(draft, key)
    draft.put(msgspec.structs.replace(row, deleted=True))


def _revoke(draft: Draft, entry: Entry, call: api.Revoke, made: Made | None) -> None:
    replaced = Replaced([]) if made is None else _expect(entry, made, Replaced)
    replacements = {key.organization: key for key in replaced.keys}
    for target in call.targets:
        match target:
            case api.Lineage(kid=kid, nonce=nonce):
                draft.put(RevocationRow(kid, nonce, b"", entry.seq))
            case api.Branch(kid=kid, nonce=nonce, branch=branch):
                draft.put(RevocationRow(kid, nonce, branch, entry.seq))
            case api.Before():
                _put_before(draft, entry, target)
            case api.RetireKey(kid=kid):
                key = draft.key(kid)
                if key is None:
                    _misfit(entry, "it retires an unknown key")
                _retire(draft, key)
                if key.state == "signing":
                    new = replacements.pop(key.organization, None)
                    if new is None:
                        _misfit(entry, f"it leaves organization {key.organization} without a signing key")
                    _put_signing_key(draft, entry, key.organization, new.kid, new.sealed)
    if replacements:
        _misfit(entry, "it adds a signing key for an organization whose signing key it doesn't retire")


def _reseal(draft: Draft, entry: Entry, _: api.Reseal, made: Made | None) -> None:
    resealed = _expect(entry, made, Resealed)
    for kid, sealed in resealed.keys:
        key = draft.key(kid)
        if key is None or key.state == "retired":
            _misfit(entry, "it reseals a root key that doesn't exist or is retired")
        draft.put(msgspec.structs.replace(key, sealed=sealed))
    _reseal_chain_keys(draft, entry, resealed.chain_keys)
    if resealed.next_chain_key is not None:
        _put_chain_key(draft, entry, resealed.next_chain_key)


def _restore(draft: Draft, entry: Entry, call: api.Restore, made: Made | None) -> None:
    restored = _expect(entry, made, Restored)
    if not 1 <= restored.seq < entry.seq or call.seq not in (None, restored.seq):
        _misfit(entry, f"it can't go back to entry {restored.seq}")
    without = _retire_all(draft, entry, restored.retired)
    for kid in restored.signing:
        key = draft.key(kid)
        if key is None or key.state != "verifying" or key.organization not in without:
            _misfit(entry, "it makes a key sign again that can't")
        without.remove(key.organization)
        draft.put(msgspec.structs.replace(key, state="signing", until_ms=None))
    for name in restored.deleted:
        row = _live_organization(draft, entry, name)
        if any(key.state != "retired" for key in draft.keys_of(name)):
            _misfit(entry, f"it deletes organization {name} but doesn't retire all of its keys")
        without.discard(name)
        draft.put(msgspec.structs.replace(row, deleted=True))
    if without:
        _misfit(entry, f"it leaves organization {min(without)} without a signing key")
    for name, max_lifetime_s in restored.lifetimes:
        row = _live_organization(draft, entry, name)
        if max_lifetime_s > row.longest_lifetime_s:
            _misfit(entry, f"organization {name} never had a maximum of {max_lifetime_s} s")
        draft.put(msgspec.structs.replace(row, max_lifetime_s=max_lifetime_s))


def _retire_all(draft: Draft, entry: Entry, kids: list[bytes]) -> set[str]:
    """Retire keys, and return the organizations that lose their signing key."""
    without = set()
    for kid in kids:
        key = draft.key(kid)
        if key is None or key.state == "retired":
            _misfit(entry, "it retires a key that doesn't exist or is already retired")
        if key.state == "signing":
            without.add(key.organization)
        _retire(draft, key)
    return without


def _recover(draft: Draft, entry: Entry, recovered: Recovered, _: Made | None) -> None:
    if recovered.journal == draft.journal:
        _misfit(entry, "it gives the journal the id that the journal already has")
    if sorted(generation for generation, _ in recovered.chain_keys) != list(range(1, draft.last_generation() + 1)):
        _misfit(entry, "it doesn't reseal each chain key once")
    draft.put(AuthorityRow(recovered.journal, draft.name))
    _reseal_chain_keys(draft, entry, recovered.chain_keys)
    _put_chain_key(draft, entry, recovered.next_chain_key)


def _purge(draft: Draft, entry: Entry, _: Purged, __: Made | None) -> None:
    for key in draft.verifying():
        if key.until_ms is not None and key.until_ms <= entry.time_ms:
            _retire(draft, key)
    # One longest lifetime counts for all organizations, so whole buckets can be dropped without a look at their rows.
    draft.put(Forget(horizon_ms(draft, entry.time_ms)))


def _reseal_chain_keys(draft: Draft, entry: Entry, chain_keys: list[tuple[int, bytes]]) -> None:
    for generation, sealed in chain_keys:
        chain_key = draft.chain_key(generation)
        if chain_key is None:
            _misfit(entry, "it reseals a chain key that doesn't exist")
        draft.put(msgspec.structs.replace(chain_key, sealed=sealed))


def _put_chain_key(draft: Draft, entry: Entry, sealed: bytes) -> None:
    draft.put(ChainKeyRow(draft.last_generation() + 1, from_seq=entry.seq, sealed=sealed))


def _put_before(draft: Draft, entry: Entry, target: api.Before) -> None:
    before_ms = revoked_before_ms(target, entry.time_ms)
    row = _live_organization(draft, entry, target.organization)
    if target.subject is None:
        draft.put(msgspec.structs.replace(row, issued_from_ms=max(row.issued_from_ms, before_ms)))
    else:
        subject = subject_digest(target.subject)
        before_ms = max(draft.issued_from(row.name, subject), before_ms)
        draft.put(SubjectRow(row.name, subject, before_ms))


def _put_signing_key(draft: Draft, entry: Entry, organization: str, kid: bytes, sealed: bytes) -> None:
    if draft.key(kid) is not None:
        _misfit(entry, "it creates a key that already exists")
    generation = next_generation(draft, organization)
    draft.put(KeyRow(kid, organization, generation, "signing", until_ms=None, sealed=sealed))


def next_generation(rows: Rows, organization: str) -> int:
    """Return the generation of the next root key of an organization; the first is 1."""
    return max((key.generation for key in rows.keys_of(organization)), default=0) + 1


def _retire(draft: Draft, key: KeyRow) -> None:
    if key.state != "retired":
        draft.put(msgspec.structs.replace(key, state="retired", until_ms=None, sealed=b""))


def _live_organization(draft: Draft, entry: Entry, name: str) -> OrganizationRow:
    row = draft.organization(name)
    if row is None or row.deleted:
        _misfit(entry, f"there is no organization {name}")
    return row


M = TypeVar("M", bound=Made)


def _expect(entry: Entry, made: Made | None, kind: type[M]) -> M:
    if not isinstance(made, kind):
        _misfit(entry, f"{kind.__name__} is expected together with its request")
    return made


def _expect_nothing(entry: Entry, made: Made | None) -> None:
    if made is not None:
        _misfit(entry, "nothing is expected in addition to its request")


def _misfit(entry: Entry, why: str) -> NoReturn:
    raise errors.BrokenJournal(
        f"entry {entry.seq} contradicts the entries before it: {why}", hint="restore a copy that audits clean"
    )


_FOLDS: Final[dict[type, Callable[[Draft, Entry, Any, Made | None], None]]] = {
    Genesis: _begin,
    Purged: _purge,
    Recovered: _recover,
    api.CreateOrganization: _create,
    api.ConfigureOrganization: _configure,
    api.RotateKey: _rotate,
    api.DeleteOrganization: _delete,
    api.Revoke: _revoke,
    api.Reseal: _reseal,
    api.Restore: _restore,
}
