"""Root keys, unsealed while they are in use.

A key is unsealed when it is first asked for and kept among the most recently loaded, so that of 100,000
organizations' keys only those in use lie open in memory.
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
    """The root keys of a state, for verifying and for minting. It follows the state: ``forget`` after changes."""

    def __init__(self, state: State, seal_keys: SealKeys) -> None:
        self._state = state
        self._seal_keys = seal_keys
        self._open = _Open(self)
        self.find = self._open.__getitem__
        """Return what the verifier needs of the key with this kid, or None. (A dict's own look-up: the hot path.)"""

    def signing(self, organization: str) -> tuple[KeyRow, RootKey]:
        """Return the key that an organization's tokens are minted under.

        Raises:
            NotFound: there is no such organization.
            WrongSealKey, BrokenJournal: the key can't be unsealed.
        """
        row = self._state.signing_key(organization)
        if row is None:
            raise no_organization(organization)
        return row, self.unseal(row)

    def unseal(self, row: KeyRow) -> RootKey:
        """Return the key that lies sealed in ``row``.

        Raises:
            WrongSealKey, BrokenJournal: it can't be unsealed.
        """
        return self._seal_keys.unseal_root_key(
            row.sealed, organization=row.organization, kid=row.kid, generation=row.generation
        )

    def forget(self) -> None:
        """Drop what was kept: keys or what is revoked of them may have changed."""
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
    """The keys that lie open, by kid. A kid that isn't held is never kept, or strangers could fill it."""

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
    """Return the error for an organization that isn't there."""
    return NotFound(f"there is no organization {name}", hint="create it first")
