"""The proof that a database is what its journal says, and its journal what the authority wrote.

Who can write the bucket can alter a backup's tables: drop a revocation, revive a key. He can't alter the journal
without the chain keys. So the chain is walked under them, folded from its first entry, and each row of the tables
compared with that. Nothing else of the database is believed, so that what was proven needn't be loaded again.

    async with await Database.open(restored, immutable=True) as database:
        proven = await prove(database, seal_keys)

What it can't see is an end that was cut off tables and journal alike: compare ``proven.state.head`` with what is kept
elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tkdb import errors
from tkdb.database import tables
from tkdb.database.database import MEMORY, Database
from tkdb.database.refold import Difference, Refold, differences, in_turns
from tkdb.journal.entry import Entry, check_link
from tkdb.journal.rows import AuthorityRow, ChainKeyRow
from tkdb.journal.seal import ChainKey, SealKeys
from tkdb.journal.state import State

HINT: Final = "restore the database from a copy that audits clean"
# Litestream keeps two small tables of its own in the databases that it replicates.
_SCHEMA: Final = (
    r"SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE '\_litestream\_%' ESCAPE '\' ORDER BY name"
)


class Proven(NamedTuple):
    """What a database was proven to hold, and the chain key in force at its end; None before the first entry."""

    state: State
    chain_key: ChainKey | None


async def prove(database: Database, seal_keys: SealKeys, look: Callable[[Entry], None] = lambda entry: None) -> Proven:
    """Check the whole of ``database``, as of now; writes by others may go on. Return what it holds.

    It takes about 7 s for a million revocations; others have a turn every few hundredths of a second.

    Args:
        database: best opened read-only. One that is also written waits with that until the end.
        seal_keys: the sealing secrets; the chain keys lie under one of them.
        look: called with each entry, once its place and hash are known to be right; may raise.

    Raises:
        BrokenJournal: something was altered or damaged; the message says which entry or row.
        WrongSealKey: the sealing secret of a chain key isn't given.
        StoreError: the database can't be read.
    """
    refold = Refold()
    async with database.snapshot():
        await _check_schema(database)
        chain_keys = await _ChainKeys.read(database, seal_keys)
        async for entry in in_turns(database.journal()):
            check_link(refold.state.head, chain_keys.at(entry.seq), entry)
            look(entry)
            refold.apply(entry)
        for kind in tables.TABLES:
            async for difference in differences(kind, database.pages(tables.select(kind)), refold.rows(kind)):
                raise _differs(kind, difference)
    head = refold.state.head
    return Proven(refold.state, chain_keys.at(head.seq) if head.seq else None)


class _ChainKeys:
    """The chain keys, as the tables tell them: they lie under today's secrets, unlike those in the journal."""

    def __init__(self, keys: list[tuple[int, ChainKey]]) -> None:
        self._first_seqs = [from_seq for from_seq, _ in keys]
        self._keys = [key for _, key in keys]

    @classmethod
    async def read(cls, database: Database, seal_keys: SealKeys) -> _ChainKeys:
        authority = await _rows(database, AuthorityRow)
        journal = authority[0].journal if authority else b""
        return cls(
            [
                (row.from_seq, seal_keys.unseal_chain_key(row.sealed, journal=journal, generation=row.generation))
                for row in await _rows(database, ChainKeyRow)
            ]
        )

    def at(self, seq: int) -> ChainKey:
        """Return the key that entry ``seq`` is hashed under."""
        in_force = bisect_right(self._first_seqs, seq)
        if not in_force:
            raise errors.BrokenJournal(f"entry {seq}: there is no chain key for it", hint=HINT)
        return self._keys[in_force - 1]


async def _rows(database: Database, kind: type[Any]) -> list[Any]:
    return [row async for page in database.pages(tables.select(kind)) for row in tables.rows(kind, page, {})]


async def _check_schema(database: Database) -> None:
    async with await Database.open(MEMORY) as new, new.snapshot():
        expected = [row async for page in new.pages(_SCHEMA) for row in page]
    there = [row async for page in database.pages(_SCHEMA) for row in page]
    if there != expected:
        names = {str(name) for name, _, _ in set(there) ^ set(expected)}
        raise errors.BrokenJournal(f"the schema isn't this version's: {', '.join(sorted(names))}", hint=HINT)


def _differs(kind: type[Any], difference: Difference) -> errors.BrokenJournal:
    there, expected = difference
    if there is None or expected is None:
        what = "a row is missing" if there is None else "a row too many"
    else:
        fields = kind.__struct_fields__
        what = f"{', '.join(name for name in fields if getattr(there, name) != getattr(expected, name))} differs"
    table, key = tables.TABLES[kind]
    row = there or expected
    name = ", ".join(_text(getattr(row, column)) for column in key.split(", "))
    return errors.BrokenJournal(f"table {table} isn't what the journal says: {what} at {name}", hint=HINT)


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
