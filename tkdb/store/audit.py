"""The audit: the journal is whole and unaltered, and the tables are what it says.

An audit walks the chain from its first entry, checks each link and each signature that it knows the key of,
applies the entries to an empty database, and compares that with the tables row by row, schema included. What it
can't see is an end that was cut off tables and journal alike: keep a report's ``head`` elsewhere to see that.

    async with await Database.open(Path("tkdb.db"), read_only=True) as database:
        report = await audit(database, seal_keys, verify=lambda entry: None)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from tkdb import api, errors
from tkdb.store import tables
from tkdb.store.database import MEMORY, Database
from tkdb.store.fold import read_call
from tkdb.store.journal import Entry, Head, check_link
from tkdb.store.rows import AuthorityRow, ChainKeyRow
from tkdb.store.seal import ChainKey, SealKeys
from tkdb.store.state import State

_HINT: Final = "restore the database from a copy that audits clean"
# Litestream keeps two small tables of its own in the databases that it replicates.
_SCHEMA: Final = (
    r"SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE '\_litestream\_%' ESCAPE '\' ORDER BY name"
)


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit found to be in order.

    ``signed`` entries carry a signature that was checked, ``unknown`` ones one whose key isn't known any more;
    the rest are the authority's own, or were asked for by possession of a token.
    """

    entries: int
    signed: int
    unknown: int
    head: Head


async def audit(database: Database, seal_keys: SealKeys, verify: Callable[[Entry], bool | None]) -> AuditReport:
    """Check ``database`` as a whole, as of now; writes by others may go on.

    Args:
        database: best opened read-only. One that is also written waits with that until the end.
        seal_keys: the sealing secrets; the chain keys lie under one of them.
        verify: says whether an entry's signature is right; None where the signer's public key isn't known.

    Raises:
        BrokenJournal: something was altered or damaged; the message says which entry or row.
        WrongSealKey: the sealing secret of a chain key isn't given.
        StoreError: the database can't be read.
    """
    signed = unknown = 0
    state = State()
    async with database.snapshot(), await Database.open(MEMORY) as refolded:
        chain_keys = await _chain_keys(database, seal_keys)
        async for entries in _entries(database):
            head = state.head
            for entry in entries:
                check_link(head, _key_at(chain_keys, entry.seq), entry)
                head = entry.head
                verdict = _check_signature(entry, verify)
                signed += verdict is True
                unknown += verdict is None
            await refolded.append(state, entries)
            for entry in entries:
                state.apply(entry)
        await _compare_all(database, refolded)
    return AuditReport(entries=state.head.seq, signed=signed, unknown=unknown, head=state.head)


def _check_signature(entry: Entry, verify: Callable[[Entry], bool | None]) -> bool | None:
    """Return True if the signature was checked, None if its key isn't known, False if there is none to check."""
    if not entry.signer and not entry.signature:
        _check_unsigned(entry)
        return False
    verdict = verify(entry)
    if verdict is False:
        raise errors.BrokenJournal(f"entry {entry.seq}: its signature isn't its signer's", hint=_HINT)
    return verdict


def _check_unsigned(entry: Entry) -> None:
    """Without a signer, an entry is the authority's own, or revokes one branch for whoever presented a token of it.

    Else who holds the sealing secret could strip a write of its signature and make another of it.
    """
    match read_call(entry):
        case None | api.Revoke(targets=[api.Branch()]):
            return
    raise errors.BrokenJournal(f"entry {entry.seq}: it needs a signer's signature, and has none", hint=_HINT)


async def _chain_keys(database: Database, seal_keys: SealKeys) -> list[tuple[int, ChainKey]]:
    """Return the chain keys, each with the first entry under it. The tables' own: they lie under today's secrets."""
    authority = [AuthorityRow(*values) async for page in database.pages(tables.select(AuthorityRow)) for values in page]
    rows = [ChainKeyRow(*values) async for page in database.pages(tables.select(ChainKeyRow)) for values in page]
    return [
        (row.from_seq, seal_keys.unseal_chain_key(row.sealed, journal=row_of.journal, generation=row.generation))
        for row_of in authority
        for row in rows
    ]


def _key_at(chain_keys: list[tuple[int, ChainKey]], seq: int) -> ChainKey:
    in_force = [key for from_seq, key in chain_keys if from_seq <= seq]
    if not in_force:
        raise errors.BrokenJournal(f"entry {seq}: there is no chain key for it", hint=_HINT)
    return in_force[-1]


async def _entries(database: Database) -> AsyncIterator[list[Entry]]:
    async for page in database.pages(f"SELECT {tables.ENTRY_COLUMNS} FROM journal ORDER BY seq"):  # noqa: S608 -- ours
        yield [tables.entry(values) for values in page]


async def _compare_all(database: Database, refolded: Database) -> None:
    await _compare("schema", database, refolded, _SCHEMA, ("name", "type", "sql"), keys=1)
    for kind, (table, order) in tables.TABLES.items():
        keys = len(order.split(","))
        query = tables.select(kind)
        await _compare(table, database, refolded, query, kind.__struct_fields__, keys=keys)


async def _compare(
    table: str, database: Database, refolded: Database, query: str, columns: tuple[str, ...], *, keys: int
) -> None:
    there, expected = _flat(database.pages(query)), _flat(refolded.pages(query))
    while True:
        row, expected_row = await anext(there, None), await anext(expected, None)
        if row is None and expected_row is None:
            return
        if row == expected_row:
            continue
        if row is None or expected_row is None or row[:keys] != expected_row[:keys]:
            what = "a row too many" if expected_row is None else "a row is missing, or too many"
        else:
            different = [name for name, a, b in zip(columns, row, expected_row, strict=True) if a != b]
            what = f"{', '.join(different)} differs"
        name = _row_name(row or expected_row or (), keys)
        raise errors.BrokenJournal(f"table {table} isn't what the journal says: {what} at {name}", hint=_HINT)


async def _flat(pages: AsyncIterator[list[tuple[Any, ...]]]) -> AsyncIterator[tuple[Any, ...]]:
    async for page in pages:
        for row in page:
            yield row


def _row_name(row: tuple[Any, ...], keys: int) -> str:
    return ", ".join(value.hex() if isinstance(value, bytes) else str(value) for value in row[:keys])
