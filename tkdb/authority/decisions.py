"""Decisions on writes: whether a write is allowed, whether it is already done, and which data the authority adds to
it.

Pure, apart from the random bytes, which are an argument. A decision is made once; its consequences
(``tkdb.journal.fold``) are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from tkdb import api
from tkdb.authority.keyring import Keyring, no_organization
from tkdb.authority.point_in_time import differences
from tkdb.authority.quota import Growth, near, require_room_of_holders
from tkdb.errors import Conflict, InvalidRequest, NotFound, NotPermitted
from tkdb.journal.additions import Created, Made, Replaced, Replacement, Resealed, Restored, Rotated, encode_made
from tkdb.journal.feed import largest_bytes
from tkdb.journal.fold import CLOCK_SKEW_MS, Rows, next_generation
from tkdb.journal.rows import KeyRow, OrganizationRow, is_covered
from tkdb.journal.seal import KEY_BYTES, NONCE_BYTES, ChainKey, RootKey, SealKeys
from tkdb.journal.state import State
from tkdb.macaroon.identifier import KID_BYTES
from tkdb.macaroon.verify import MAX_AHEAD_MS, subject_digest
from tkdb.signers import ALL, Permission, Signer

MAX_MADE_BYTES: Final = 60_000
"""The largest size of the data added to a restore: an entry must fit the 64 KiB that regions share."""

Immediate = (
    api.CreateOrganization
    | api.ConfigureOrganization
    | api.RotateKey
    | api.DeleteOrganization
    | api.Revoke
    | api.Reseal
)
"""The writes that are decided on the current rows. A restore also needs rows of the past."""


class Write(msgspec.Struct, frozen=True):
    """The write is allowed: write the request to the journal, together with the added data.

    ``chain_key`` is the new chain key of this entry, which also hashes it, if there is one. ``not_before_ms``: the
    earliest time that the entry may have.
    """

    made: Made | None = None
    chain_key: ChainKey | None = None
    not_before_ms: int = 0


class Decision(msgspec.Struct, frozen=True):
    """Nothing needs to be written: the request is already fulfilled."""

    result: msgspec.Struct


class Decisions:
    """Decides on the writes of one authority, on the rows that all earlier writes have left.

    Args:
        keyring: unseals root keys.
        seal_keys: seals new keys.
        random: returns ``n`` random bytes.
        max_lifetime_s: the longest lifetime that an organization may set for its tokens.
        max_revocations: the quota of revocations of each organization.
    """

    def __init__(
        self,
        keyring: Keyring,
        seal_keys: SealKeys,
        random: Callable[[int], bytes],
        max_lifetime_s: int,
        max_revocations: int,
    ) -> None:
        self._keyring = keyring
        self._seal_keys = seal_keys
        self._random = random
        self._max_lifetime_s = max_lifetime_s
        self._max_revocations = max_revocations

    def decide(self, rows: Rows, call: Immediate, signer: Signer, now_ms: int) -> Write | Decision:
        """Decide on a signer's request.

        Raises:
            NotPermitted: the signer may not do this, or not for this organization.
            NotFound: the request names something that doesn't exist.
            Conflict: the request would create something that exists.
            InvalidRequest: an argument isn't valid.
            OverQuota: the organization has as many revocations as it may have.
            WrongSealKey: a key that must be sealed again can't be unsealed.
        """
        match call:
            case api.CreateOrganization():
                permit(signer, "organizations", call.name)
                return self._create(rows, call)
            case api.ConfigureOrganization():
                permit(signer, "organizations", call.name)
                self._live(rows, call.name)
                self._check_lifetime(call.max_lifetime_s)
                return Write()
            case api.RotateKey():
                permit(signer, "organizations", call.name)
                self._live(rows, call.name)
                return Write(Rotated(*self._new_key(rows, call.name)))
            case api.DeleteOrganization():
                permit(signer, "organizations", call.name)
                self._live(rows, call.name)
                return Write()
            case api.Revoke():
                return self._revoke(rows, call, signer, now_ms)
            case api.Reseal():
                permit(signer, "reseal", ALL)
                return self._reseal(rows, call.limit)

    def revoke_branch(self, rows: Rows, branch: api.Branch) -> Write | Decision:
        """Decide on a holder's request to revoke a branch. The token was already verified.

        Raises:
            OverQuota: holders have used their part of the organization's quota.
        """
        key = rows.key(branch.kid)
        if key is None or self._is_revoked(rows, branch, key):
            return Decision(api.Revoked(already=True))
        require_room_of_holders(rows, key.organization, self._max_revocations)
        return Write()

    def near_quota(self, rows: Rows, call: api.WriteCall) -> list[tuple[str, int]]:
        """Return each organization that ``call`` revokes in and that has most of its quota, with its count."""
        return near(rows, call.targets, self._max_revocations) if isinstance(call, api.Revoke) else []

    def restore(self, rows: Rows, past: State) -> Write | Decision:
        """Decide on a restore to ``past`` (``tkdb.authority.point_in_time``). The signer's permission was already
        checked.

        Raises:
            InvalidRequest: one entry can't contain all the differences.
        """
        made = differences(past, rows)
        if made is None:
            return Decision(api.Restored(seq=past.head.seq, changed=0))
        if len(encode_made(made)) > MAX_MADE_BYTES:
            raise InvalidRequest(
                f"{made.changed:,} organizations and keys differ from entry {made.seq}: too many for one entry",
                hint="restore to a later entry first, then to this one",
            )
        return Write(made)

    def result(self, rows: Rows, call: api.WriteCall, made: Made | None) -> msgspec.Struct:
        """Return the result of a write that is in the journal, from the current rows."""
        match call:
            case api.CreateOrganization() | api.ConfigureOrganization() | api.RotateKey():
                row = rows.organization(call.name)
                if row is None:  # impossible: an organization's row is never dropped
                    raise no_organization(call.name)
                return describe(rows, row)
            case api.DeleteOrganization():
                return api.Deleted()
            case api.Revoke():
                return api.Revoked(already=False)
            case api.Reseal():
                done = len(made.keys) + len(made.chain_keys) if isinstance(made, Resealed) else 0
                remaining = sum(1 for _ in rows.sealed_otherwise(self._seal_keys.first_id))
                return api.Resealed(resealed=done, remaining=remaining)
            case api.Restore():
                seq, changed = (made.seq, made.changed) if isinstance(made, Restored) else (0, 0)
                return api.Restored(seq, changed)

    def _create(self, rows: Rows, call: api.CreateOrganization) -> Write:
        if rows.organization(call.name) is not None:
            raise Conflict(
                f"the organization {call.name} exists, or did", hint="use another name: names are never reused"
            )
        lifetime_s = self._max_lifetime_s if call.max_lifetime_s is None else call.max_lifetime_s
        self._check_lifetime(lifetime_s)
        kid, sealed = self._new_key(rows, call.name)
        return Write(Created(kid, sealed, lifetime_s))

    def _revoke(self, rows: Rows, call: api.Revoke, signer: Signer, now_ms: int) -> Write | Decision:
        replacements: dict[str, Replacement] = {}
        growth = Growth(rows)
        news, not_before_ms = False, 0
        for target in dict.fromkeys(call.targets):  # a repeated target would cost its work again
            if isinstance(target, api.Before):
                permit(signer, "revoke", target.organization)
                time_ms = self._before(rows, target, now_ms)
                if target.subject is not None:
                    growth.revoke_subject(target.organization, subject_digest(target.subject))
                news |= time_ms is not None
                not_before_ms = max(not_before_ms, time_ms or 0)
                continue
            key = rows.key(target.kid)
            if key is None or not signer.permits("revoke", key.organization):
                # One error for both cases, so that a signer of another organization doesn't learn which keys it has.
                raise NotFound(f"{signer.name} has no root key {target.kid.hex()} to revoke under", hint="see org list")
            if isinstance(target, api.RetireKey):
                news |= key.state != "retired"
                if key.state == "signing" and key.organization not in replacements:
                    replacements[key.organization] = Replacement(
                        key.organization, *self._new_key(rows, key.organization)
                    )
            elif self._lineage(rows, target, key, now_ms):
                news = True
                growth.revoke(key.organization, key.kid + target.nonce, _branch(target))
        if not news:
            return Decision(api.Revoked(already=True))
        growth.require_room(self._max_revocations)
        if largest_bytes(call) > api.MAX_FEED_BYTES:
            raise InvalidRequest(
                "these targets, with the keys that they affect, don't fit one message of the feed",
                hint="split them into several requests",
            )
        return Write(Replaced(list(replacements.values())) if replacements else None, not_before_ms=not_before_ms)

    def _before(self, rows: Rows, target: api.Before, now_ms: int) -> int | None:
        """Return the earliest time that the entry needs in order to revoke the target, or None if it is already
        revoked."""
        row = self._live(rows, target.organization)
        so_far_ms = row.issued_from_ms
        if target.subject is not None:
            so_far_ms = max(so_far_ms, rows.issued_from(row.name, subject_digest(target.subject)))
        if target.before_ms is None:
            # Tokens minted since a revocation are dated after it, ahead of the clock. "Now" must be after them too.
            if target.subject is None:
                so_far_ms = max(so_far_ms, *(rows.subjects_of(row.name) or {}).values(), 0)
            return max(so_far_ms - CLOCK_SKEW_MS + 1, 0)
        # If the future were allowed, tokens minted until then would be dated even later, and a later "before" with a
        # time in between would seem to be done already.
        if target.before_ms > now_ms:
            raise InvalidRequest(
                f"before_ms {target.before_ms} is in the future; the time is {now_ms}", hint="leave it out for now"
            )
        return 0 if target.before_ms + CLOCK_SKEW_MS > so_far_ms else None

    def _lineage(self, rows: Rows, target: api.Lineage | api.Branch, key: KeyRow, now_ms: int) -> bool:
        if int.from_bytes(target.nonce[:6]) > now_ms + MAX_AHEAD_MS:
            raise InvalidRequest(
                "a nonce to revoke is in the future", hint="check it: no accepted token has this nonce"
            )
        return not self._is_revoked(rows, target, key)

    @staticmethod
    def _is_revoked(rows: Rows, target: api.Lineage | api.Branch, key: KeyRow) -> bool:
        if is_covered(rows.organization(key.organization), key, target.nonce):
            return True
        return rows.is_revoked(key.kid + target.nonce, _branch(target))

    def _reseal(self, rows: Rows, limit: int) -> Write | Decision:
        records = list(islice(rows.sealed_otherwise(self._seal_keys.first_id), limit + 1))
        if not records:
            return Decision(api.Resealed(resealed=0, remaining=0))
        keys, chain_keys = [], []
        for record in records[:limit]:
            if isinstance(record, KeyRow):
                root_key = self._keyring.unseal(record)
                keys.append((record.kid, self._seal(root_key, record.organization, record.kid, record.generation)))
            else:
                journal, generation = rows.journal, record.generation
                chain_key = self._seal_keys.unseal_chain_key(record.sealed, journal=journal, generation=generation)
                chain_keys.append((generation, self._seal_chain_key(rows, chain_key, generation)))
        if len(records) > limit:
            return Write(Resealed(keys, chain_keys, None))
        # Everything is now under the new secret. A new chain key is needed too: anyone with the old secret and an old
        # copy of the database has the old chain key, and must not be able to write later entries.
        new = ChainKey(self._random(KEY_BYTES))
        sealed = self._seal_chain_key(rows, new, rows.last_generation() + 1)
        return Write(Resealed(keys, chain_keys, sealed), new)

    def _new_key(self, rows: Rows, organization: str) -> tuple[bytes, bytes]:
        """Return a new kid, and a new root key sealed as the organization's next generation."""
        kid, root_key = self._random(KID_BYTES), RootKey(self._random(KEY_BYTES))
        return kid, self._seal(root_key, organization, kid, next_generation(rows, organization))

    def _seal(self, root_key: RootKey, organization: str, kid: bytes, generation: int) -> bytes:
        nonce = self._random(NONCE_BYTES)
        return self._seal_keys.seal_root_key(
            root_key, organization=organization, kid=kid, generation=generation, nonce=nonce
        )

    def _seal_chain_key(self, rows: Rows, chain_key: ChainKey, generation: int) -> bytes:
        nonce = self._random(NONCE_BYTES)
        return self._seal_keys.seal_chain_key(chain_key, journal=rows.journal, generation=generation, nonce=nonce)

    @staticmethod
    def _live(rows: Rows, name: str) -> OrganizationRow:
        row = rows.organization(name)
        if row is None or row.deleted:
            raise no_organization(name)
        return row

    def _check_lifetime(self, lifetime_s: int) -> None:
        if lifetime_s > self._max_lifetime_s:
            raise InvalidRequest(
                f"max_lifetime_s is {lifetime_s}; this authority allows {self._max_lifetime_s}",
                hint="use a smaller value, or configure TKDB_MAX_LIFETIME_S",
            )


def _branch(target: api.Lineage | api.Branch) -> bytes:
    return target.branch if isinstance(target, api.Branch) else b""


def permit(signer: Signer, permission: Permission, organization: str) -> None:
    """Return if the signer has this permission for the organization.

    Raises:
        NotPermitted: it doesn't have it.
    """
    if not signer.permits(permission, organization):
        what = f"{permission} for {'all organizations' if organization == ALL else organization}"
        raise NotPermitted(f"the signer {signer.name} may not: {what}", hint="see the authority's list of signers")


def describe(rows: Rows, row: OrganizationRow) -> api.Organization:
    """Return an organization for callers: its newest keys with names and states, but never the keys themselves."""
    newest = rows.keys_of(row.name)[: api.MAX_KEYS]
    keys = [api.Key(key.kid, key.generation, key.state, key.until_ms) for key in newest]
    return api.Organization(row.name, row.max_lifetime_s, row.created_ms, keys)


def is_timed(call: api.WriteCall) -> bool:
    """Return True if the meaning of a write depends on the time. Revoking named targets doesn't."""
    return not isinstance(call, api.Revoke) or any(isinstance(target, api.Before) for target in call.targets)
