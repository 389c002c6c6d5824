"""The view: the data that this machine serves. It is the journal's fold in memory, with the keyring and the feed.

The journal on the disk may be ahead of it. Only ``show`` moves the view forward.

    served = View(database, await database.load(), seal_keys)
    await served.show(entry.seq, entry.hash)
"""

from __future__ import annotations

import asyncio
from typing import Final

from tkdb.authority.keyring import Keyring
from tkdb.database.database import Database
from tkdb.errors import BrokenJournal
from tkdb.journal.feed import Feed
from tkdb.journal.fold import Rows
from tkdb.journal.seal import ChainKey, SealKeys
from tkdb.journal.state import State

PAGE_ENTRIES: Final = 256
"""The number of entries that are applied before other tasks get a turn."""
LOAD_AFTER_ENTRIES: Final = 20_000
"""A view that lags by more reads the whole tables, which is quicker than applying the entries."""


class View:
    """The state, with the keyring and the feed that follow it.

    Args:
        database: the open journal.
        state: the data shown until the first ``show``.
        seal_keys: unseal root keys and chain keys.

    Attributes:
        turn: held by any task that reads or changes the end of the journal on the disk.
        news: set when something new is shown. It is then replaced with a new event.
    """

    def __init__(self, database: Database, state: State, seal_keys: SealKeys) -> None:
        self.database = database
        self.state = state
        state.tidy()
        self.keyring = Keyring(state, seal_keys)
        self.feed = Feed(database, state)
        self.turn = asyncio.Lock()
        self.news = asyncio.Event()
        self._seal_keys = seal_keys

    def chain_key(self, rows: Rows | None = None) -> ChainKey:
        """Return the current chain key, from ``rows`` or else from the state.

        Raises:
            WrongSealKey, BrokenJournal: it can't be unsealed.
        """
        return chain_key_of(rows or self.state, self._seal_keys)

    async def show(self, seq: int, digest: bytes) -> None:
        """Show the journal up to entry ``seq``, whose hash is ``digest``. If the view isn't on the way there, load
        it again.

        Raises:
            BrokenJournal: the journal doesn't contain this entry, or an entry doesn't fit.
            StoreError: the database can't be read.
        """
        async with self.turn:
            await self._go_on(seq)
            if not self._is_at(seq, digest):
                self.replace(await self.database.load())
            if not self._is_at(seq, digest):
                raise BrokenJournal(f"the journal on the disk doesn't contain the expected entry {seq}")

    def replace(self, state: State) -> None:
        """Show ``state`` instead of the current state."""
        self.state.become(state)
        self.state.tidy()
        self.keyring.forget()
        self.feed.restart()
        self._tell()

    async def _go_on(self, seq: int) -> None:
        """Apply the entries up to ``seq``, if they follow the view and aren't too many."""
        if seq - self.state.head.seq > LOAD_AFTER_ENTRIES:
            return
        while self.state.head.seq < seq:
            limit = min(PAGE_ENTRIES, seq - self.state.head.seq)
            entries = await self.database.entries(self.state.head.seq, limit)
            if not entries or entries[0].previous != self.state.head.hash:
                return
            for entry in entries:
                self.state.apply(entry)
                self.keyring.forget()
                self.feed.add(entry)
            self.state.tidy()
            self._tell()

    def _is_at(self, seq: int, digest: bytes) -> bool:
        return (self.state.head.seq, self.state.head.hash) == (seq, digest)

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()


def chain_key_of(rows: Rows, seal_keys: SealKeys) -> ChainKey:
    """Return the chain key after ``rows``.

    Raises:
        BrokenJournal: there is none, or it is damaged.
        WrongSealKey: its sealing secret isn't given.
    """
    generation = rows.last_generation()
    row = rows.chain_key(generation)
    if row is None:
        raise BrokenJournal("there is no chain key", hint="restore the database from a copy that audits clean")
    return seal_keys.unseal_chain_key(row.sealed, journal=rows.journal, generation=generation)
