"""The feed: the journal's revocations, for clients that follow some root keys.

The revocations of an entry are read from the entry alone. Whether they concern a follower depends on the organizations
of the keys that the follower follows. The last entries are kept in memory. A follower with an older position is served
from the journal, some entries at a time.

A restore revokes tokens only by retiring keys, and its entry names all of them. The feed reports each of them like any
other retired key, and followers can keep everything else.

An entry is never split, so its revocations must fit one message, whichever keys a client follows, including keys that
are created after the entry. ``largest_bytes`` returns the size before the entry is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from tkdb import api
from tkdb.errors import StoreError
from tkdb.journal.additions import Restored, decode_made
from tkdb.journal.entry import Entries, Entry
from tkdb.journal.fold import read_call, revoked_before_ms
from tkdb.journal.state import State
from tkdb.macaroon.verify import subject_digest

RECENT_TARGETS: Final = 10_000
"""The number of targets of recent entries that are kept in memory: about 3 MB."""
PAGE_ENTRIES: Final = 256
"""The largest number of journal entries that one read looks at."""

_KID_BYTES: Final = 18
"""The size of one kid in a message."""
_LIST_BYTES: Final = 2
"""The difference in size between the header of a long list and that of an empty one."""
_LATE_MS: Final = 2**40
"""A time whose encoding is as long as that of any other time."""


class _Before(NamedTuple):
    """The tokens of one organization that one entry revokes by their time of issue."""

    organization: str
    before_ms: int
    subjects: list[tuple[bytes, int]]

    def event(self, kids: list[bytes]) -> api.IssuedBefore:
        return api.IssuedBefore(kids=kids, before_ms=self.before_ms, subjects=self.subjects)


_Revoked: TypeAlias = api.Lineage | api.Branch | api.RetireKey | api.DeleteOrganization | _Before


class _Notice(NamedTuple):
    """The revocations of one entry, and the number of its targets."""

    seq: int
    targets: int
    revoked: list[_Revoked]


def largest_bytes(call: api.Revoke) -> int:
    """Return how many bytes of a feed message an entry may take at most, for any set of followed keys."""
    revoked = _revoked(call.targets, _LATE_MS)
    befores = [each for each in revoked if isinstance(each, _Before)]
    # A key belongs to one organization, so all of these together name each followed key at most once.
    kids_bytes = api.MAX_KIDS * _KID_BYTES + len(befores) * _LIST_BYTES if befores else 0
    named = [each for each in revoked if isinstance(each, api.Lineage | api.Branch | api.RetireKey)]
    return kids_bytes + sum(len(api.encode(each)) for each in [*named, *(before.event([]) for before in befores)])


class Feed:
    """The feed of a journal whose entries are applied to ``state``.

    Args:
        journal: the source of older entries.
        state: the rows. The feed reports no entry that isn't applied to them.
        recent_targets: the number of targets of recent entries to keep in memory.
    """

    def __init__(self, journal: Entries, state: State, *, recent_targets: int = RECENT_TARGETS) -> None:
        self._journal = journal
        self._state = state
        self._recent_targets = recent_targets
        self.restart()

    def restart(self) -> None:
        """Drop the recent entries, because the state was replaced and they may belong to another journal."""
        self._recent: deque[_Notice] = deque()
        self._complete_after = self._state.head.seq
        self._room = self._recent_targets

    def add(self, entry: Entry) -> None:
        """Record an entry that the state has just applied."""
        notice = _notice(entry)
        if notice.targets:
            self._recent.append(notice)
            self._room -= notice.targets
        while self._room < 0:
            dropped = self._recent.popleft()
            self._room += dropped.targets
            self._complete_after = dropped.seq

    async def read(self, *, after: int, kids: Collection[bytes], max_bytes: int = api.MAX_PAGE_BYTES) -> api.Feed:
        """Return the revocations after position ``after`` that concern the keys ``kids``.

        Entries are never split. If any entry has revocations for these keys, the result has at least one whole entry,
        and further ones up to ``max_bytes``. Unknown keys get no revocations.

        Raises:
            StoreError: the journal can't be read, or was replaced and lacks the next entry.
        """
        head = self._state.head.seq
        if after >= head:
            return api.Feed(position=after, revocations=[], more=False)
        followed = _Followed(self._state, kids)  # taken now, at ``head``: the state may change during the read below
        notices, position = await self._notices(after, head)
        revocations: list[api.Revocation] = []
        size = 0
        for notice in notices:
            events = list(followed.events(notice))
            size += sum(len(api.encode(event)) for event in events)
            if revocations and size > max_bytes:
                return api.Feed(position=notice.seq - 1, revocations=revocations, more=True)
            revocations += events
        return api.Feed(position=position, revocations=revocations, more=position < head)

    async def _notices(self, after: int, head: int) -> tuple[list[_Notice], int]:
        """Return the next notices after ``after``, and the position up to which they are complete."""
        if after >= self._complete_after:
            newest_first = []
            for notice in reversed(self._recent):
                if notice.seq <= after:
                    break
                newest_first.append(notice)
            return newest_first[::-1], head
        # The database may already have entries that aren't applied to the state yet.
        entries = [entry for entry in await self._journal.entries(after, PAGE_ENTRIES) if entry.seq <= head]
        if not entries or entries[0].seq != after + 1:
            raise StoreError(f"the journal on the disk has no entry {after + 1}", hint="ask another machine")
        return [_notice(entry) for entry in entries], entries[-1].seq


class _Followed:
    """The keys that a client follows, by organization."""

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
        """Yield the revocations of ``notice`` that concern these keys."""
        for revoked in notice.revoked:
            match revoked:
                case api.Lineage(kid=kid) | api.Branch(kid=kid) if kid in self._kids:
                    yield revoked
                case api.RetireKey(kid=kid) if kid in self._kids:
                    yield api.KeyRetired(kid=kid)
                case api.DeleteOrganization(name=name):
                    yield from (api.KeyRetired(kid=kid) for kid in self._kids_of.get(name, ()))
                case _Before(organization=name) if name in self._live_kids_of:
                    yield revoked.event(self._live_kids_of[name])


def _revoked(targets: Iterable[api.Target], time_ms: int) -> list[_Revoked]:
    """Return the revocations that the targets of an entry of time ``time_ms`` stand for.

    Targets that revoke tokens of one organization by their time of issue become one revocation.
    """
    revoked: list[_Revoked] = []
    befores: dict[str, list[api.Before]] = {}
    for target in targets:
        if isinstance(target, api.Before):
            befores.setdefault(target.organization, []).append(target)
        else:
            revoked.append(target)
    for name, of_organization in befores.items():
        before_ms, subjects = 0, dict[bytes, int]()
        for target in of_organization:
            target_ms = revoked_before_ms(target, time_ms)
            if target.subject is None:
                before_ms = max(before_ms, target_ms)
            else:
                digest = subject_digest(target.subject)
                subjects[digest] = max(subjects.get(digest, 0), target_ms)
        revoked.append(_Before(name, before_ms, list(subjects.items())))
    return revoked


def _retired(entry: Entry) -> list[bytes]:
    """Return the keys that a restore retires, including those of the organizations that it deletes."""
    made = decode_made(entry.made)
    return made.retired if isinstance(made, Restored) else []


def _notice(entry: Entry) -> _Notice:
    match read_call(entry):
        case api.Revoke(targets=targets):
            return _Notice(entry.seq, len(targets), _revoked(targets, entry.time_ms))
        case api.DeleteOrganization() as deletion:
            return _Notice(entry.seq, 1, [deletion])
        case api.Restore():
            retired = _retired(entry)
            return _Notice(entry.seq, len(retired), [api.RetireKey(kid) for kid in retired])
    return _Notice(entry.seq, 0, [])
