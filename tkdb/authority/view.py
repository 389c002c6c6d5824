"""What this machine serves: the journal's fold in memory, and what follows it.

The journal on the disk may be ahead: what is served is moved on by ``show``, and by nothing else.

    served = Served(database, await database.load(), seal_keys)
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
"""So many entries are applied before others get their turn."""
LOAD_AFTER_ENTRIES: Final = 20_000
"""Who is further behind reads the tables as a whole: that is quicker than to apply what they come from."""


class Served:
    """The state, and the keyring and the feed that follow it.

    Args:
        database: the journal; open.
        state: what is shown until the first ``show``.
        seal_keys: unseal root keys and chain keys.

    Attributes:
        turn: held by whoever reads or changes the journal's end on the disk.
        news: set when something new is shown; then there is a new event for what comes after.
    """

    def __init__(self, database: Database, state: State, seal_keys: SealKeys) -> None:
        self.database = database
        self.state = state
        self.keyring = Keyring(state, seal_keys)
        self.feed = Feed(database, state)
        self.turn = asyncio.Lock()
        self.news = asyncio.Event()
        self._seal_keys = seal_keys

    def chain_key(self, rows: Rows | None = None) -> ChainKey:
        """Return the chain key in force, by ``rows`` or else by the state.

        Raises:
            WrongSealKey, BrokenJournal: it can't be unsealed.
        """
        return chain_key_of(rows or self.state, self._seal_keys)

    async def show(self, seq: int, digest: bytes) -> None:
        """Show the journal up to entry ``seq``, whose hash is ``digest``; where what is shown isn't on the way there,
        show it anew.

        Raises:
            BrokenJournal: the journal isn't so, or an entry doesn't fit.
            StoreError: the database can't be read.
        """
        async with self.turn:
            await self._go_on(seq)
            if not self._is_at(seq, digest):
                self.replace(await self.database.load())
            if not self._is_at(seq, digest):
                raise BrokenJournal(f"the journal on the disk isn't the one that entry {seq} stands on")

    def replace(self, state: State) -> None:
        """Show ``state`` instead of what was shown."""
        self.state.become(state)
        self.keyring.forget()
        self.feed.restart()
        self._tell()

    async def _go_on(self, seq: int) -> None:
        """Apply the entries up to ``seq``, as long as they follow what is shown, and aren't too many."""
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
            self._tell()

    def _is_at(self, seq: int, digest: bytes) -> bool:
        return (self.state.head.seq, self.state.head.hash) == (seq, digest)

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()


def chain_key_of(rows: Rows, seal_keys: SealKeys) -> ChainKey:
    """Return the chain key in force after ``rows``.

    Raises:
        BrokenJournal: there is none, or it is damaged.
        WrongSealKey: the sealing secret that it lies under isn't given.
    """
    generation = rows.last_generation()
    row = rows.chain_key(generation)
    if row is None:
        raise BrokenJournal("there is no chain key", hint="restore the database from a copy that audits clean")
    return seal_keys.unseal_chain_key(row.sealed, journal=rows.journal, generation=generation)
