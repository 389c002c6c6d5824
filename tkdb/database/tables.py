"""The translation of changes and entries to SQL, and of table rows back to structs.

>>> statements_of(AuthorityRow(journal=b"j" * 16, name="tkdb.internal"))[1]
('INSERT INTO authority (journal, name) VALUES (?, ?)', (b'jjjjjjjjjjjjjjjj', 'tkdb.internal'))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeVar

import msgspec

from tkdb import errors
from tkdb.journal.entry import Entry, Tip
from tkdb.journal.rows import (
    AuthorityRow,
    ChainKeyRow,
    Change,
    Forget,
    KeyRow,
    OrganizationRow,
    RevocationRow,
    SubjectRow,
)

R = TypeVar("R")
Statement = tuple[str, tuple[Any, ...]]
Run = tuple[str, list[tuple[Any, ...]]]
"""A statement, and the arguments of each run."""

ENTRY_COLUMNS: Final = ", ".join(Entry.__struct_fields__)

TABLES: Final[dict[type[Any], tuple[str, str]]] = {
    AuthorityRow: ("authority", "journal"),
    ChainKeyRow: ("chain_keys", "generation"),
    OrganizationRow: ("organizations", "name"),
    KeyRow: ("root_keys", "organization, generation"),
    SubjectRow: ("subjects", "organization, subject"),
    RevocationRow: ("revocations", "nonce, kid, branch"),
}
"""Each kind of row, in an order in which rows can be loaded: its table, and its key, which also orders the rows."""

_PUT: Final[dict[type[Any], str]] = {
    AuthorityRow: "",
    ChainKeyRow: " ON CONFLICT (generation) DO UPDATE SET sealed = excluded.sealed",
    OrganizationRow: " ON CONFLICT (name) DO UPDATE SET max_lifetime_s = excluded.max_lifetime_s,"
    " longest_lifetime_s = excluded.longest_lifetime_s, issued_from_ms = excluded.issued_from_ms,"
    " deleted = excluded.deleted",
    KeyRow: " ON CONFLICT (kid) DO UPDATE SET state = excluded.state, until_ms = excluded.until_ms,"
    " sealed = excluded.sealed",
    SubjectRow: " ON CONFLICT (organization, subject) DO UPDATE SET issued_from_ms = excluded.issued_from_ms",
    # Only the first entry that revoked something counts.
    RevocationRow: " ON CONFLICT (nonce, kid, branch) DO NOTHING",
}


def select(kind: type[Any]) -> str:
    """Return the query for all rows of a kind, with the columns of its struct."""
    table, order = TABLES[kind]
    return f"SELECT {', '.join(kind.__struct_fields__)} FROM {table} ORDER BY {order}"  # noqa: S608 -- our own names


def key(kind: type[Any]) -> Callable[[Any], Any]:
    """Return a function that returns a row's key, by which the table finds and orders its rows."""
    return attrgetter(*TABLES[kind][1].split(", "))


def rows(kind: type[R], page: list[tuple[Any, ...]], shared: dict[Any, Any]) -> list[R]:
    """Return rows of a table. Equal names and times become one object, kept in ``shared``.

    For 100,000 organizations and their keys, that saves 15 MB.

    Raises:
        BrokenJournal: a row isn't of this kind; tkdb itself never writes such a row.
    """
    # Whole pages, with revocations unchanged, because a starting machine reads mostly revocations.
    if kind is OrganizationRow:
        page = [(*(shared.setdefault(value, value) for value in row[:-1]), bool(row[-1])) for row in page]
    elif kind is KeyRow:
        page = [
            tuple(shared.setdefault(value, value) if isinstance(value, str) else value for value in row) for row in page
        ]
    return _convert(list[kind], page, kind)  # type: ignore[valid-type]  # a type made at run time


def entries(page: list[tuple[Any, ...]]) -> list[Entry]:
    """Return rows of the journal.

    Raises:
        BrokenJournal: a row isn't an entry.
    """
    return _convert(list[Entry], page, Entry)


def head(values: tuple[Any, ...]) -> Tip:
    """Return a place in the journal: seq, hash, epoch and time_ms of an entry.

    Raises:
        BrokenJournal: the values aren't such a place.
    """
    return _convert(Tip, values, Entry)


def _convert(kind: type[R], values: Any, what: type[Any]) -> R:
    try:
        # Bytes stay bytes. Otherwise, msgspec would decode a text in their place as base64.
        return msgspec.convert(values, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise errors.BrokenJournal(
            f"the tables contain a row that is no {what.__name__}: {error}", hint="restore a copy that audits clean"
        ) from None


def _insert(table: str, kind: type[Any]) -> str:
    fields = kind.__struct_fields__
    marks = ", ".join("?" * len(fields))
    return f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks})"  # noqa: S608 -- our own names


_INSERTS: Final = {kind: _insert(table, kind) + _PUT[kind] for kind, (table, _) in TABLES.items()}
_DELETES: Final = {
    kind: f"DELETE FROM {table} WHERE ({keys}) = ({', '.join('?' * (keys.count(',') + 1))})"  # noqa: S608 -- our own names
    for kind, (table, keys) in TABLES.items()
}
_INSERT_ENTRY: Final = _insert("journal", Entry)
_CLEAR_AUTHORITY: Final = "DELETE FROM authority"
_FORGET_REVOCATIONS: Final = "DELETE FROM revocations WHERE nonce < ?"
_FORGET_SUBJECTS: Final = "DELETE FROM subjects WHERE issued_from_ms <= ?"


def statements(entries: Iterable[Entry], changes: Iterable[Change]) -> Iterator[Run]:
    """Yield the statements, each with its runs, that write the entries and then carry out the changes, in order."""
    yield _INSERT_ENTRY, [msgspec.structs.astuple(entry) for entry in entries]
    for sql, runs in groupby(chain.from_iterable(map(statements_of, changes)), key=itemgetter(0)):
        yield sql, [arguments for _, arguments in runs]


def statements_of(change: Change) -> list[Statement]:
    """Return the statements that carry out a change."""
    if isinstance(change, Forget):
        return [(_FORGET_REVOCATIONS, (change.first_bucket,)), (_FORGET_SUBJECTS, (change.horizon_ms,))]
    put = (_INSERTS[type(change)], msgspec.structs.astuple(change))
    return [(_CLEAR_AUTHORITY, ()), put] if isinstance(change, AuthorityRow) else [put]


def corrections(kind: type[Any], pairs: Sequence[tuple[Any, Any]]) -> list[Run]:
    """Return the runs that correct rows of a kind. A pair is the actual and the expected row; either may be None."""
    find = key(kind)
    wrong = [found if isinstance(found := find(row), tuple) else (found,) for row, _ in pairs if row is not None]
    right = [msgspec.structs.astuple(row) for _, row in pairs if row is not None]
    return [(_DELETES[kind], wrong), (_INSERTS[kind], right)]
