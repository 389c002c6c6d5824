"""Root keys, unsealed while they are in use.

A key is unsealed when it is first needed, and kept among the most recently loaded ones. So of 100,000 organizations'
keys, only those in use are open in memory.
"""

from __future__ import annotations

from typing import Final

from tkdb.errors import NotFound
from tkdb.journal.fold import outlived_ms
from tkdb.journal.rows import KeyRow
from tkdb.journal.seal import RootKey, SealKeys
from tkdb.journal.state import State
from tkdb.macaroon.chain import RootKeyState
from tkdb.macaroon.verify import Key

OPEN_KEYS_MAX: Final = 4096


class Keyring:
    """The root keys of a state, for verifying and for minting. Call ``forget`` after changes of the state."""

    def __init__(self, state: State, seal_keys: SealKeys) -> None:
        self._state = state
        self._seal_keys = seal_keys
        self._open = _Open(self)
        self.find = self._open.__getitem__
        """Return what the verifier needs of the key with this kid, or None. (A dict's own look-up: the hot path.)"""

    def signing(self, organization: str) -> tuple[KeyRow, RootKey]:
        """Return the key under which an organization's tokens are minted.

        Raises:
            NotFound: there is no such organization.
            WrongSealKey, BrokenJournal: the key can't be unsealed.
        """
        row = self._state.signing_key(organization)
        if row is None:
            raise no_organization(organization)
        return row, self.unseal(row)

    def unseal(self, row: KeyRow) -> RootKey:
        """Return the key that is sealed in ``row``.

        Raises:
            WrongSealKey, BrokenJournal: it can't be unsealed.
        """
        return self._seal_keys.unseal_root_key(
            row.sealed, organization=row.organization, kid=row.kid, generation=row.generation
        )

    def forget(self) -> None:
        """Drop the kept keys: keys or their revocations may have changed."""
        self._open.clear()

    def load(self, kid: bytes) -> Key | None:
        """Return the key with this kid, unsealed now, or None.

        Raises:
            WrongSealKey, BrokenJournal: it can't be unsealed.
        """
        row = self._state.key(kid)
        if row is None or not row.sealed:
            return None
        organization = self._state.organizations[row.organization]
        return Key(
            row.organization,
            RootKeyState(self.unseal(row).raw),
            outlived_ms(organization.longest_lifetime_s),
            organization.issued_from_ms.to_bytes(6),
            self._state.subjects_of(row.organization),
        )


class _Open(dict[bytes, Key | None]):
    """The unsealed keys, by kid. An unknown kid is never kept, because strangers could fill the memory with them."""

    def __init__(self, keyring: Keyring) -> None:
        super().__init__()
        self._keyring = keyring

    def __missing__(self, kid: bytes) -> Key | None:
        key = self._keyring.load(kid)
        if key is not None:
            if len(self) >= OPEN_KEYS_MAX:
                del self[next(iter(self))]
            self[kid] = key
        return key


def no_organization(name: str) -> NotFound:
    """Return the error for an unknown organization."""
    return NotFound(f"there is no organization {name}", hint="create it first")
