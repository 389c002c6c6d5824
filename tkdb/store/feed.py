"""The feed: the journal's revocations, for those who follow some root keys.

What an entry revokes is read from the entry alone; whom that touches follows from the organization that a
followed key belongs to. The last entries are kept in memory; who is further behind is served from the journal,
some entries at a time.

A restore ends tokens by retiring keys, and in no other way; its entry names them all. So followers hear of it as of
any retired key, and need not drop the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from tkdb import api
from tkdb.macaroon.verify import subject_digest
from tkdb.store.fold import read_call, revoked_before_ms
from tkdb.store.journal import Entries, Entry
from tkdb.store.made import Restored, decode_made
from tkdb.store.state import State

RECENT_TARGETS: Final = 10_000
"""How many targets of recent entries are kept in memory: about 3 MB."""
PAGE_ENTRIES: Final = 256
"""How many entries of the journal one read looks at, at most."""


class _Notice(NamedTuple):
    """What one entry revokes."""

    seq: int
    time_ms: int
    targets: tuple[api.Target | api.DeleteOrganization, ...]


class Feed:
    """Reads the feed of a journal whose entries ``state`` shows.

    Args:
        journal: where older entries are read.
        state: the rows; the feed shows nothing that it doesn't show.
        recent_targets: how many targets of recent entries to keep in memory.
    """

    def __init__(self, journal: Entries, state: State, *, recent_targets: int = RECENT_TARGETS) -> None:
        self._journal = journal
        self._state = state
        self._recent_targets = recent_targets
        self.restart()

    def restart(self) -> None:
        """The state was replaced: what is in memory may not be of its journal."""
        self._recent: deque[_Notice] = deque()
        self._complete_after = self._state.head.seq
        self._room = self._recent_targets

    def add(self, entry: Entry) -> None:
        """Take note of an entry that the state has just applied."""
        notice = _notice(entry)
        if notice.targets:
            self._recent.append(notice)
            self._room -= len(notice.targets)
        while self._room < 0:
            dropped = self._recent.popleft()
            self._room += len(dropped.targets)
            self._complete_after = dropped.seq

    async def read(self, *, after: int, kids: Collection[bytes], limit: int = api.MAX_FEED_EVENTS) -> api.Feed:
        """Return what touches the keys ``kids`` after position ``after``.

        Entries are never split: at least one entry is given whole where any has news, and further ones while
        ``limit`` events aren't exceeded. Keys that aren't known see nothing.

        Raises:
            StoreError: the journal can't be read.
        """
        head = self._state.head.seq
        if after >= head:
            return api.Feed(position=after, revocations=[], more=False)
        notices, position = await self._notices(after, head)
        followed = _Followed(self._state, kids)
        revocations: list[api.Revocation] = []
        for notice in notices:
            events = list(followed.events(notice))
            if revocations and len(revocations) + len(events) > limit:
                return api.Feed(position=notice.seq - 1, revocations=revocations, more=True)
            revocations += events
        return api.Feed(position=position, revocations=revocations, more=position < head)

    async def _notices(self, after: int, head: int) -> tuple[list[_Notice], int]:
        """Return what comes next after ``after``, and the position up to which that is complete."""
        if after >= self._complete_after:
            newest_first = []
            for notice in reversed(self._recent):
                if notice.seq <= after:
                    break
                newest_first.append(notice)
            return newest_first[::-1], head
        # The database may be ahead of what the state shows.
        entries = [entry for entry in await self._journal.entries(after, PAGE_ENTRIES) if entry.seq <= head]
        return [_notice(entry) for entry in entries], entries[-1].seq if entries else head


class _Followed:
    """The keys that someone follows, by organization."""

    def __init__(self, state: State, kids: Collection[bytes]) -> None:
        keys = [key for key in map(state.key, dict.fromkeys(kids)) if key is not None]
        self._kids = {key.kid for key in keys}
        self._kids_of: dict[str, list[bytes]] = {}
        self._live_kids_of: dict[str, list[bytes]] = {}
        for key in keys:
            self._kids_of.setdefault(key.organization, []).append(key.kid)
            if key.state != "retired":
                self._live_kids_of.setdefault(key.organization, []).append(key.kid)

    def events(self, notice: _Notice) -> Iterator[api.Revocation]:
        """Yield what ``notice`` means for these keys."""
        for target in notice.targets:
            match target:
                case api.Lineage(kid=kid) | api.Branch(kid=kid) if kid in self._kids:
                    yield target
                case api.RetireKey(kid=kid) if kid in self._kids:
                    yield api.KeyRetired(kid=kid)
                case api.DeleteOrganization(name=name):
                    yield from (api.KeyRetired(kid=kid) for kid in self._kids_of.get(name, ()))
                case api.Before(organization=name):
                    yield from (_before(target, kid, notice.time_ms) for kid in self._live_kids_of.get(name, ()))


def _before(target: api.Before, kid: bytes, time_ms: int) -> api.Revocation:
    before_ms = revoked_before_ms(target, time_ms)
    if target.subject is None:
        return api.IssuedBefore(kid=kid, before_ms=before_ms)
    return api.SubjectIssuedBefore(kid=kid, subject=subject_digest(target.subject), before_ms=before_ms)


def _retired(entry: Entry) -> list[bytes]:
    """Return the keys that a restore retires, those of the organizations that it deletes among them."""
    made = decode_made(entry.made)
    return made.retired if isinstance(made, Restored) else []


def _notice(entry: Entry) -> _Notice:
    match read_call(entry):
        case api.Revoke(targets=targets):
            return _Notice(entry.seq, entry.time_ms, tuple(targets))
        case api.DeleteOrganization() as deletion:
            return _Notice(entry.seq, entry.time_ms, (deletion,))
        case api.Restore():
            return _Notice(entry.seq, entry.time_ms, tuple(map(api.RetireKey, _retired(entry))))
    return _Notice(entry.seq, entry.time_ms, ())
