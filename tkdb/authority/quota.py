"""The quota of revocations: the largest number that every machine must remember for one organization.

A machine remembers each revocation of a lineage or a branch, and each subject with revoked tokens, in memory, until the
tokens have expired. Without a limit, a stolen signer's key could fill the memory of every machine. So an organization
has at most ``limit`` revoked lineages and branches, and at most ``limit`` subjects. Two counts, so that revoking
subjects works while the other count is full.

The quota never refuses a revocation that needs no room: everything issued before a time, a root key, an organization,
a target that is revoked already, or a lineage in place of its branches. Revoking a key, or everything before a time,
also makes room, because the machines forget the lineages and branches that it covers.

Any holder of a token may revoke it, and strangers may hold many. They get at most half of the room, so that signers
always have the rest.

Only the machine that writes the journal decides. A journal that has more stays valid.

>>> from tkdb.journal.state import State
>>> growth = Growth(State())
>>> growth.revoke("acme", bytes(32), b"")
>>> growth.revoke("acme", bytes(32), b"")
>>> growth.require_room(limit=1)
>>> growth.revoke("acme", bytes([1] * 32), b"")
>>> growth.require_room(limit=1)
Traceback (most recent call last):
...
tkdb.errors.OverQuota: acme would have 2 revocations of single tokens, and may have 1: \
revoke everything issued before now instead
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from tkdb import api
from tkdb.errors import OverQuota
from tkdb.journal.fold import Rows

NEAR: Final = 0.9
"""The part of the quota from which on the authority logs a warning at each revocation."""
_HINT: Final = "revoke everything issued before now instead"


class Growth:
    """The revocations that one request would add to ``rows``, which don't contain it yet."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._tokens: Counter[str] = Counter()
        self._subjects: Counter[str] = Counter()
        self._seen: set[tuple[object, ...]] = set()

    def revoke(self, organization: str, lineage: bytes, branch: bytes) -> None:
        """Count a lineage, or one of its branches, that isn't revoked. A lineage takes the place of its branches."""
        if (lineage, branch) not in self._seen:
            self._seen.add((lineage, branch))
            self._tokens[organization] += 1 if branch else 1 - self._rows.branches_of(lineage)

    def revoke_subject(self, organization: str, subject: bytes) -> None:
        """Count a subject (16 bytes), if none of its tokens are revoked yet."""
        if (organization, subject) not in self._seen and not self._rows.issued_from(organization, subject):
            self._seen.add((organization, subject))
            self._subjects[organization] += 1

    def require_room(self, limit: int) -> None:
        """Return if each organization has room for its revocations.

        Raises:
            OverQuota: an organization would have more than ``limit`` of a kind.
        """
        for counts, there, what in (
            (self._tokens, self._rows.remembered, "revocations of single tokens"),
            (self._subjects, self._rows.count_subjects, "revoked subjects"),
        ):
            for organization, added in counts.items():
                then = there(organization) + added
                if added > 0 and then > limit:
                    raise OverQuota(f"{organization} would have {then:,} {what}, and may have {limit:,}", hint=_HINT)


def require_room_of_holders(rows: Rows, organization: str, limit: int) -> None:
    """Return if a holder of one of the organization's tokens may add a branch.

    Raises:
        OverQuota: half of the quota is used. The message has no number, because the caller may be a stranger.
    """
    if rows.remembered(organization) >= limit // 2:
        raise OverQuota(
            "so many tokens of this organization are revoked that only its signers may revoke more",
            hint="ask a signer of the organization to revoke the token",
        )


def near(rows: Rows, targets: Iterable[api.Target], limit: int) -> list[tuple[str, int]]:
    """Return each organization that ``targets`` concern and that has most of its quota, with its larger count."""
    names = {_organization(rows, target) for target in targets} - {""}
    used = ((name, max(rows.remembered(name), rows.count_subjects(name))) for name in sorted(names))
    return [(name, count) for name, count in used if count >= NEAR * limit]


def _organization(rows: Rows, target: api.Target) -> str:
    if isinstance(target, api.Before):
        return target.organization
    key = rows.key(target.kid)
    return "" if key is None else key.organization
