"""The first entry of a journal, and the check of an existing journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tkdb.authority.clock import Clock
from tkdb.authority.keyring import Keyring
from tkdb.authority.view import chain_key_of
from tkdb.database.database import Database
from tkdb.errors import ConfigurationError
from tkdb.journal.additions import Genesis
from tkdb.journal.entry import check_link, link
from tkdb.journal.seal import KEY_BYTES, NONCE_BYTES, ChainKey, SealKeys, seal_id
from tkdb.journal.state import State

EPOCH: Final = 1
"""The epoch of the first entry."""


async def begin(
    database: Database, name: str, seal_keys: SealKeys, clock: Clock, random: Callable[[int], bytes]
) -> State:
    """Return the state of a database. In a new one, write the journal's first entry.

    Raises:
        ConfigurationError, WrongSealKey, BrokenJournal: as ``check``.
        StoreError, Unavailable: the database can't be read, or written.
    """
    state = await database.load()
    if state.head.seq:
        await check(database, state, name, seal_keys)
        return state
    journal, chain_key = random(16), ChainKey(random(KEY_BYTES))
    sealed = seal_keys.seal_chain_key(chain_key, journal=journal, generation=1, nonce=random(NONCE_BYTES))
    made = Genesis(journal, name, sealed)
    entry = link(state.head, chain_key, now_ms=clock.reckoned_ms(), epoch=EPOCH, made=made)
    await database.append(state, [entry])
    state.apply(entry)
    return state


async def check(database: Database, state: State, name: str, seal_keys: SealKeys) -> None:
    """Check that a journal belongs to this authority, and that the given secrets unseal its records.

    Raises:
        ConfigurationError: it belongs to another authority.
        WrongSealKey: the secrets don't unseal the chain key, or one of the root keys.
        BrokenJournal: the last entry wasn't written with the chain key.
        StoreError: the database can't be read.
    """
    if state.name != name:
        raise ConfigurationError(
            f"the database belongs to the authority {state.name}, not to {name}", hint="check TKDB_NAME and TKDB_DB"
        )
    last = (await database.entries(state.head.seq - 1, 1))[0]
    check_link(state.head._replace(seq=last.seq - 1, hash=last.previous), chain_key_of(state, seal_keys), last)
    keyring = Keyring(state, seal_keys)
    # A missing secret is detected now, and not when the first token of some organization arrives. One key for each
    # sealing secret is enough.
    for key in {seal_id(key.sealed): key for key in state.keys.values() if key.sealed}.values():
        keyring.unseal(key)
