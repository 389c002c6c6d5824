"""The past: the rows as an entry of the journal left them, and what a restore to it would change now.

A restore makes organizations and their keys what they were, and undoes nothing that ended something. Row by row,
"then" is as of entry N, "now" as of the entry before the restore's own:

=====================  ==========================  ===============================================================
row                    then → now                  after the restore
=====================  ==========================  ===============================================================
organization           none → lives                deleted, its keys retired: its name is never given again
\\                      lives → lives               ``max_lifetime_s`` as then; ``longest_lifetime_s`` and
                                                   ``issued_from_ms`` as now: both only ever grow
\\                      any → deleted               deleted
root key               none → lives                retired
\\                      signing → verifying         signs again
\\                      verifying → verifying       verifies, until the time it has now
\\                      any → retired               retired. Where it signed then, the key that signs now goes on, even
                                                   if made since: it came with what was never undone
revocation, subject    any → any                   as now: what was revoked since stays so, what was purged is gone
chain key, authority   any → any                   as now: neither resealing nor recovery from damage is undone
=====================  ==========================  ===============================================================

Of an organization's keys that live, the newest signs, always. So a key that signs now is never to verify again: either
it was made since, or the one that signed then is retired.

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
"""So many entries are folded before others get their turn."""


async def read_past(journal: Entries, call: api.Restore, position: int) -> State:
    """Return the rows as of the entry that ``call`` goes back to, without revocations: no restore touches those.

    Args:
        journal: where its entries are read.
        call: names the entry, or a time.
        position: the last acknowledged entry.

    Raises:
        InvalidRequest: it names no entry up to ``position``, or a time after which nothing was written.
        Unavailable: the journal was replaced meanwhile.
        BrokenJournal, StoreError: it can't be read, or isn't whole.
    """
    if (call.seq is None) == (call.at_ms is None):
        raise InvalidRequest("a restore goes back to one entry: by its number or by a time", hint="give seq or at_ms")
    until = position if call.seq is None else call.seq
    if not 1 <= until <= position:
        raise InvalidRequest(f"there is no entry {until}: they are 1 to {position}", hint="see `tkdb status`")
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
        # What is written just now may yet have that time, or an earlier one.
        raise InvalidRequest(f"nothing was written after that time; entry {until} is the last", hint="times are UTC")
    return past


def differences(past: State, rows: Rows) -> Restored | None:
    """Return what makes ``rows`` what they were in the past, as far as it can be undone; None where nothing does."""
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
    if not (lifetimes or retired):  # no organization is without a key, and none signs again unless another is retired
        return None
    return Restored(past.head.seq, lifetimes, deleted, signing, retired)


class _Past(State):
    """Leaves out what no restore asks for: there may be a million of them."""

    def put(self, change: Change) -> None:
        if not isinstance(change, RevocationRow):
            super().put(change)


def _begun(past: State) -> State:
    if not past.head.seq:
        raise InvalidRequest("the journal began after that time", hint="give a later one")
    return past


def _made_since(past: State, keys: Sequence[KeyRow]) -> list[KeyRow]:
    return [key for key in keys if past.key(key.kid) is None]
