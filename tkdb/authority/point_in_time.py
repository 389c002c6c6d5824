"""A point in time: the rows after an entry of the journal, and the changes that a restore to it makes.

A restore brings back organizations and their keys, and never undoes a revocation or a deletion. In this table, "then"
is the state after entry N, and "now" the state before the restore's own entry:

=====================  ==========================  ===============================================================
row                    then → now                  after the restore
=====================  ==========================  ===============================================================
organization           none → lives                deleted, its keys retired: its name is never used again
\\                      lives → lives               ``max_lifetime_s`` as then; ``longest_lifetime_s`` and
                                                   ``issued_from_ms`` as now: both only ever grow
\\                      any → deleted               deleted
root key               none → lives                retired
\\                      signing → verifying         signs again
\\                      verifying → verifying       verifies, until the time it has now
\\                      any → retired               retired. If it signed then, the key that signs now continues, even
                                                   if it is newer: it came with a change that is never undone
revocation, subject    any → any                   as now: later revocations stay, purged ones are gone
chain key, authority   any → any                   as now: neither resealing nor recovery from damage is undone
=====================  ==========================  ===============================================================

The newest live key of an organization always signs. So a key that signs now never goes back to verifying: either it is
newer, or the key that signed then is retired.

>>> from tkdb.journal.rows import OrganizationRow
>>> past, now = State(), State()
>>> past.put(OrganizationRow("acme", max_lifetime_s=60, longest_lifetime_s=60, created_ms=0))
>>> now.put(OrganizationRow("acme", max_lifetime_s=90, longest_lifetime_s=90, created_ms=0))
>>> differences(past, now).lifetimes
[('acme', 60)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tkdb import api
from tkdb.errors import InvalidRequest, Unavailable
from tkdb.journal.additions import Restored
from tkdb.journal.entry import Entries
from tkdb.journal.fold import Rows
from tkdb.journal.rows import Change, KeyRow, RevocationRow
from tkdb.journal.state import State

PAGE_ENTRIES: Final = 256
"""The number of entries that are folded before other tasks get a turn."""


async def read_past(journal: Entries, call: api.Restore, position: int) -> State:
    """Return the rows after the entry that ``call`` restores, without revocations, which no restore touches.

    Args:
        journal: the source of the entries.
        call: names the entry, or a time.
        position: the last acknowledged entry.

    Raises:
        InvalidRequest: it names no entry up to ``position``, or a time after the last entry.
        Unavailable: the journal was replaced in the meantime.
        BrokenJournal, StoreError: the journal can't be read, or isn't complete.
    """
    if (call.seq is None) == (call.at_ms is None):
        raise InvalidRequest("a restore needs one entry, by its number or by a time", hint="give seq or at_ms")
    until = position if call.seq is None else call.seq
    if not 1 <= until <= position:
        raise InvalidRequest(f"there is no entry {until}: the journal has 1 to {position}", hint="see `tkdb status`")
    past = _Past()
    while past.head.seq < until:
        entries = await journal.entries(past.head.seq, min(PAGE_ENTRIES, until - past.head.seq))
        if not entries:
            raise Unavailable("the journal was replaced while it was read", hint="try again")
        for entry in entries:
            if call.at_ms is not None and entry.time_ms > call.at_ms:
                return _begun(past)
            past.apply(entry)
    if call.at_ms is not None:
        # An entry that is being written now may still get this time, or an earlier one.
        raise InvalidRequest(
            f"there is no entry after that time; entry {until} is the last", hint="check the time, which is in UTC"
        )
    return past


def differences(past: State, rows: Rows) -> Restored | None:
    """Return the change that restores ``rows`` to the past, as far as that can be undone, or None if nothing
    differs."""
    lifetimes: list[tuple[str, int]] = []
    deleted: list[str] = []
    signing: list[bytes] = []
    retired: list[bytes] = []
    for row in rows.live():
        keys = [key for key in rows.keys_of(row.name) if key.state != "retired"]
        then = past.organization(row.name)
        if then is None:
            deleted.append(row.name)
            retired += [key.kid for key in keys]
            continue
        if then.max_lifetime_s != row.max_lifetime_s:
            lifetimes.append((row.name, then.max_lifetime_s))
        signed = past.signing_key(row.name)
        again = next((key for key in keys if signed is not None and key.kid == signed.kid), None)
        retired += [key.kid for key in _made_since(past, keys) if again is not None or key.state != "signing"]
        if again is not None and again.state != "signing":
            signing.append(again.kid)
    if not (lifetimes or retired):  # every organization has a key, and none signs again unless another is retired
        return None
    return Restored(past.head.seq, lifetimes, deleted, signing, retired)


class _Past(State):
    """A state without the rows that no restore needs: there may be a million of them."""

    def put(self, change: Change) -> None:
        if not isinstance(change, RevocationRow):
            super().put(change)


def _begun(past: State) -> State:
    if not past.head.seq:
        raise InvalidRequest("the journal began after that time", hint="give a later time")
    return past


def _made_since(past: State, keys: Sequence[KeyRow]) -> list[KeyRow]:
    return [key for key in keys if past.key(key.kid) is None]
