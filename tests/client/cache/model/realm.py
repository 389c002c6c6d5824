"""The reference that caches are compared with: each revocation, its time, and its position in its journal.

The tokens and the verifier are real. The journal is a list.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tkdb import api, errors
from tkdb.macaroon.caveats import Act, AnyCaveat, Exp, Sub
from tkdb.macaroon.chain import RootKeyState, walk
from tkdb.macaroon.chain import branch as branch_of
from tkdb.macaroon.mint import mint
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.verify import Key, Verifier, subject_digest
from tkdb_client.cache.matching import kids_of

NAME = "tkdb.test"
NOW_MS = 1_700_000_000_000
"""The time of the wall clock. Tokens are minted about then."""


@dataclass(frozen=True)
class Entry:
    """An entry of the journal: its revocation (None if it revokes nothing), and the time of its acknowledgement."""

    revocation: api.Revocation | None
    acked_ms: int


@dataclass
class Journal:
    """One numbering of the entries: entry ``first`` has the position ``base`` + 1. Entries before it are below."""

    id: bytes
    base: int
    first: int

    def position(self, known: int) -> int:
        """Return the position of a machine that knows the first ``known`` entries."""
        return self.base + known - self.first


@dataclass
class Realm:
    """Root keys, and every revocation in order."""

    kids: tuple[bytes, ...] = (b"a" * 16, b"b" * 16, b"c" * 16)
    entries: list[Entry] = field(default_factory=list)
    journal: Journal = field(default_factory=lambda: Journal(b"1" * 16, 1_000, 0))
    _folds: dict[int, _Fold] = field(default_factory=dict)

    def mint(self, *caveats: AnyCaveat, kid: bytes | None = None, number: int = 0, at_ms: int = NOW_MS) -> Macaroon:
        kid = kid or self.kids[0]
        given = caveats or (Exp(2_000_000_000), Sub("kim"), Act("rwcdC"))
        return mint(NAME, kid * 2, kid=kid, time_ms=at_ms, random=number.to_bytes(10), caveats=given)

    def revoke(self, revocation: api.Revocation | None, acked_ms: int = 0) -> int:
        """Add an entry; return its position."""
        self.entries.append(Entry(revocation, acked_ms))
        return self.position

    @property
    def position(self) -> int:
        return self.journal.position(len(self.entries))

    def fail_over(self, journal: bytes) -> None:
        """Continue in another journal, in which the entries so far are one entry."""
        self.journal = Journal(journal, 1, len(self.entries))

    def verify(self, text: str, known: int) -> api.Valid | api.Invalid:
        """Return the result of a machine that knows the first ``known`` entries."""
        fold = self._folds.get(known)
        if fold is None:
            fold = self._folds[known] = _Fold(self, known)
        try:
            verified = fold.verifier.verify(text, NOW_MS)
        except errors.Denied as denied:
            return api.Invalid(denied.reason, denied.message, denied.hint, denied.caveat)
        revoked = fold.branches.get(verified.lineage, frozenset())
        return api.Valid(verified.organization, sorted(revoked) if len(revoked) <= api.MAX_TOLD_BRANCHES else None)

    def feed(self, kids: list[bytes], journal: Journal, after: int, known: int, limit: int = 10**9) -> api.Feed:
        """Return the feed of a machine with the first ``known`` entries: revocations of ``kids`` after a position."""
        position = journal.position(known)
        if after >= position:
            return api.Feed(after, [], more=False)
        first = max(journal.first, journal.first + after - journal.base)
        found: list[api.Revocation] = []
        for number, entry in enumerate(self.entries[first:known], first + 1):
            if entry.revocation is not None and not set(kids).isdisjoint(kids_of(entry.revocation)):
                found.append(entry.revocation)
                if len(found) == limit and number < known:
                    return api.Feed(journal.position(number), found, more=True)
        return api.Feed(position, found, more=False)

    def acked_ms(self, token: Macaroon) -> int | None:
        """Return the time of acknowledgement of the first revocation that covers a token. None if there is none."""
        tails = walk(RootKeyState(token.kid * 2).sign(token.identifier), token.packets)
        if tails[-1] != token.tail:
            return -(2**60)  # The token is forged, so it was never valid.
        branches = set(map(branch_of, tails))
        subjects = [caveat.subject for caveat in token.caveats[: token.m] if isinstance(caveat, Sub)]
        digest = subject_digest(subjects[0]) if subjects else b""
        for entry in self.entries:
            match entry.revocation:
                case api.Lineage(kid, nonce) if (kid, nonce) == (token.kid, token.nonce):
                    return entry.acked_ms
                case api.Branch(kid, nonce, branch) if (kid, nonce) == (token.kid, token.nonce) and branch in branches:
                    return entry.acked_ms
                case api.IssuedBefore(kids, before_ms, subjects) if token.kid in kids and (
                    token.issued_ms < before_ms
                    or any(subject == digest and token.issued_ms < subject_ms for subject, subject_ms in subjects)
                ):
                    return entry.acked_ms
                case api.KeyRetired(kid) if kid == token.kid:
                    return entry.acked_ms
        return None


class _Fold:
    """The state after the first ``known`` entries."""

    def __init__(self, realm: Realm, known: int) -> None:
        self.branches: dict[bytes, frozenset[bytes]] = {}
        lineages: set[bytes] = set()
        retired: set[bytes] = set()
        before: dict[bytes, int] = {}
        subjects: dict[bytes, dict[bytes, int]] = {kid: {} for kid in realm.kids}
        for entry in realm.entries[:known]:
            match entry.revocation:
                case api.Lineage(kid, nonce):
                    lineages.add(kid + nonce)
                case api.Branch(kid, nonce, branch):
                    self.branches[kid + nonce] = self.branches.get(kid + nonce, frozenset()) | {branch}
                case api.IssuedBefore(kids, before_ms, by_subject):
                    for kid in kids:
                        before[kid] = max(before_ms, before.get(kid, 0))
                        for subject, subject_ms in by_subject:
                            subjects[kid][subject] = max(subject_ms, subjects[kid].get(subject, 0))
                case api.KeyRetired(kid):
                    retired.add(kid)
        keys = {
            kid: Key(
                "acme" if number == 0 else f"org-{number}",
                RootKeyState(kid * 2),
                issued_from=before.get(kid, 0).to_bytes(6),
                subjects=subjects[kid] or None,
            )
            for number, kid in enumerate(realm.kids)
            if kid not in retired
        }
        self.verifier = Verifier(
            NAME,
            find_key=keys.get,
            find_revocation=lambda lineage: True if lineage in lineages else self.branches.get(lineage),
        )
