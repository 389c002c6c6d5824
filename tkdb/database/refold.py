"""Refolding: the fold of a journal's entries in memory, with the data for every row of the tables.

The state doesn't contain everything in the tables: it lacks the entry that first revoked a token, and the revoked
branches of a lineage that is revoked as a whole. Comparing tables with a journal, or correcting them, needs this data
too. It is kept here for that time, packed in 57 bytes for each revocation.

>>> from tkdb.journal.entry import link
>>> from tkdb.journal.additions import Genesis
>>> from tkdb.journal.seal import ChainKey
>>> refold = Refold()
>>> genesis = Genesis(journal=b"j" * 16, name="tkdb.internal", chain_key=b"sealed")
>>> refold.apply(link(refold.state.head, ChainKey(bytes(32)), now_ms=1, epoch=0, made=genesis))
>>> list(refold.rows(ChainKeyRow))
[ChainKeyRow(generation=1, from_seq=1, sealed=b'sealed')]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from struct import Struct
from typing import Any, Final, TypeVar

from tkdb.database import tables
from tkdb.journal.entry import Entry, check_place
from tkdb.journal.fold import changes
from tkdb.journal.rows import (
    AuthorityRow,
    ChainKeyRow,
    Forget,
    KeyRow,
    OrganizationRow,
    RevocationRow,
    Row,
    SubjectRow,
    bucket,
)
from tkdb.journal.state import State

R = TypeVar("R")

AT_ONCE_BYTES: Final = 65_536
"""The bytes of requests that are folded before other tasks get a turn: about 5 ms."""

# The table's key, in its order, and then the entry: nonce, kid, the branch's length, branch, seq.
_PACKED: Final = Struct(">16s16sB16sQ")
_KEY_BYTES: Final = _PACKED.size - 8


class Refold:
    """The fold of entries from the first one on: ``state``, and the rows that the tables should have."""

    def __init__(self) -> None:
        self.state = State()
        # By bucket, because whole buckets are forgotten. They are unsorted, and may contain a revocation repeatedly.
        self._revocations: dict[bytes, bytearray] = {}

    def apply(self, entry: Entry) -> None:
        """Apply the next entry. Its hash isn't checked here.

        Raises:
            BrokenJournal: it isn't the next entry, can't be read, or contradicts the rows.
        """
        state = self.state
        check_place(state.head, entry)
        for change in changes(state, entry):
            state.put(change)
            if isinstance(change, RevocationRow):
                packed = _PACKED.pack(change.nonce, change.kid, len(change.branch), change.branch, change.seq)
                self._revocations.setdefault(bucket(change.nonce), bytearray()).extend(packed)
            elif isinstance(change, Forget):
                first = change.first_bucket
                self._revocations = {name: rows for name, rows in self._revocations.items() if name >= first}
        state.head = entry.head

    def rows(self, kind: type[Any]) -> Iterator[Row]:
        """Yield the rows of a kind that its table should have, in the table's order."""
        return _ROWS[kind](self)

    def _authority(self) -> Iterator[Row]:
        if self.state.journal:
            yield AuthorityRow(self.state.journal, self.state.name)

    def _subjects(self) -> Iterator[Row]:
        for name in sorted(self.state.organizations):
            for subject, issued_from_ms in sorted((self.state.subjects_of(name) or {}).items()):
                yield SubjectRow(name, subject, issued_from_ms)

    def _revoked(self) -> Iterator[Row]:
        for name in sorted(self._revocations):
            before, packed = b"", bytes(self._revocations[name])
            for row in sorted(packed[at : at + _PACKED.size] for at in range(0, len(packed), _PACKED.size)):
                if row[:_KEY_BYTES] != before:  # only the first entry that revoked it counts
                    before = row[:_KEY_BYTES]
                    nonce, kid, branch_bytes, branch, seq = _PACKED.unpack(row)
                    yield RevocationRow(kid, nonce, branch[:branch_bytes], seq)


_ROWS: Final[dict[type[Any], Callable[[Refold], Iterator[Row]]]] = {
    AuthorityRow: Refold._authority,
    ChainKeyRow: lambda refold: iter(sorted(refold.state.chain_keys.values(), key=tables.key(ChainKeyRow))),
    OrganizationRow: lambda refold: iter(sorted(refold.state.organizations.values(), key=tables.key(OrganizationRow))),
    KeyRow: lambda refold: iter(sorted(refold.state.keys.values(), key=tables.key(KeyRow))),
    SubjectRow: Refold._subjects,
    RevocationRow: Refold._revoked,
}


async def in_turns(pages: AsyncIterable[list[tuple[Any, ...]]]) -> AsyncIterator[Entry]:
    """Yield the entries in pages of the journal's rows, and regularly give other tasks a turn.

    Raises:
        BrokenJournal: a row isn't an entry.
    """
    done_bytes = 0
    async for page in pages:
        for entry in tables.entries(page):
            yield entry
            done_bytes += len(entry.body)
            if done_bytes > AT_ONCE_BYTES:
                done_bytes = 0
                await asyncio.sleep(0)


Difference = tuple[Row | None, Row | None]
"""An actual row, and the row that should be in its place. One of the two may be None."""


async def differences(
    kind: type[Any], pages: AsyncIterable[list[tuple[Any, ...]]], expected: Iterator[Row]
) -> AsyncIterator[Difference]:
    """Yield the differences between the rows in ``pages``, in the table's order, and the ``expected`` rows.

    Raises:
        BrokenJournal: a row in ``pages`` isn't a valid row of this kind.
    """
    key = tables.key(kind)
    want = next(expected, None)
    async for page in pages:
        for row in tables.rows(kind, page, {}):
            if row == want:
                want = next(expected, None)
                continue
            while want is not None and key(want) < key(row):
                yield None, want
                want = next(expected, None)
            if want is not None and key(want) == key(row):
                if row != want:
                    yield row, want
                want = next(expected, None)
            else:
                yield row, None
    while want is not None:
        yield None, want
        want = next(expected, None)
