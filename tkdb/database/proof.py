"""The proof that a database matches its journal, and that the authority wrote the journal.

An attacker who can write to the bucket can alter a backup's tables: drop a revocation, or revive a key. They can't
alter the journal without the chain keys. So the proof checks the chain under these keys, folds it from its first entry,
and compares each row of the tables with the result. It trusts nothing else in the database, and returns the state that
it proved, so the caller needn't load the state again.

    async with await Database.open(restored, immutable=True) as database:
        proven = await prove(database, seal_keys)

Limit: the proof can't detect that someone cut off the end of the journal and the matching table rows. To detect that,
compare ``proven.state.head`` with a copy from another place.
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
# Litestream adds two small tables to the databases that it replicates.
_SCHEMA: Final = (
    r"SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE '\_litestream\_%' ESCAPE '\' ORDER BY name"
)


class Proven(NamedTuple):
    """The proven content of a database, and the chain key in force at its tip; None before the first entry."""

    state: State
    chain_key: ChainKey | None


async def prove(database: Database, seal_keys: SealKeys, look: Callable[[Entry], None] = lambda entry: None) -> Proven:
    """Check the whole of ``database`` as it is now, and return its content. Other processes may continue to write it.

    It takes about 7 s for a million revocations. Other tasks get a turn every few hundredths of a second.

    Args:
        database: best opened read-only. If it is open for writing, its writes wait until the end.
        seal_keys: the sealing secrets; each chain key is sealed under one of them.
        look: called with each entry after its place and its hash have been checked; may raise.

    Raises:
        BrokenJournal: something was altered or damaged; the message names the entry or row.
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
    """The chain keys from the tables. Unlike those in the journal, they are sealed under today's secrets."""

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
        """Return the key under which entry ``seq`` is hashed."""
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
        raise errors.BrokenJournal(
            f"the schema differs from that of this version: {', '.join(sorted(names))}", hint=HINT
        )


def _differs(kind: type[Any], difference: Difference) -> errors.BrokenJournal:
    there, expected = difference
    if there is None or expected is None:
        what = "a row is missing" if there is None else "a row shouldn't exist"
    else:
        fields = kind.__struct_fields__
        what = f"{', '.join(name for name in fields if getattr(there, name) != getattr(expected, name))} differs"
    table, key = tables.TABLES[kind]
    row = there or expected
    name = ", ".join(_text(getattr(row, column)) for column in key.split(", "))
    return errors.BrokenJournal(f"table {table} doesn't match the journal: {what} at {name}", hint=HINT)


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
