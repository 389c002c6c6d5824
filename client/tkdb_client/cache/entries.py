"""The cache's entries: chains that are known to be whole, found by lineage and by the text of a token: whole, or how
it begins.

An entry says: these bytes are a whole chain that ends in this tail, of this organization, with these caveats; so it
stood at this position, as of this moment. It is no permission, and it goes when anything of it is in doubt.

Room is bounded twice. A lineage has eight entries at most: of those the ones that were walked from another go first, as
they can be had again without asking; then those that weren't used for longest; the shortest last, as most descends
from it. Of the lineages, the one goes that wasn't used for longest (to the accuracy of one mark: a hit takes no lock).

What readers see without a lock is replaced, never changed: ``Lineage.entries`` and ``Lineage.branches``.

>>> entries = Entries(max_bytes=100_000, head_chars=80, leave=print)
>>> entries.find(b"k" * 16 + b"n" * 16) is None
True
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from tkdb.armor import Stem
from tkdb.macaroon.wire import PREFIX, TRAILER_BYTES
from tkdb_client.cache.subscriptions import Key
from tkdb_client.verified import Verified

LINEAGE_ENTRIES_MAX: Final = 8
BRANCHES_MAX: Final = 64
"""With more revoked branches than this in a lineage, only exact presentations are served from the cache."""

# What CPython takes for an entry, measured (tests/client/cache/test_cache_entries.py): the objects and their place in
# the tables; the token's bytes, which are held four times in all; and its caveats as objects. A short text that lists
# many things has many of them, and a comma stands before each.
_FIXED_BYTES: Final = 1_450
_ITEM_BYTES: Final = 150
_TOKEN_TIMES: Final = 4


class Lineage:
    """The entries of one lineage.

    Attributes:
        name: kid and nonce.
        head: how the text of each of its tokens begins.
        key: how far its root key is followed.
        entries: the longest first.
        branches: its revoked branches, as far as they are known; None where they are too many.
        used: whether it was used since somebody looked for what can go.
    """

    __slots__ = ("branches", "entries", "head", "key", "name", "used")

    def __init__(self, name: bytes, head: str, key: Key) -> None:
        self.name = name
        self.head = head
        self.key = key
        self.entries: tuple[Entry, ...] = ()
        self.branches: frozenset[bytes] | None = frozenset()
        self.used = False


class Entry:
    """One chain that is known to be whole.

    Attributes:
        verified: what is trusted of the token; immutable, so every caller is given the same.
        text: the token's one text.
        body_bytes: how many bytes it has before the trailer; the tail that they end in is its signature.
        stem: how the texts begin of all that descend from it: with those bytes.
        position: the journal's, at which it was verified, itself or what it was walked from.
        dated_ms: as of when, by the monotonic clock.
        used_ms: when it was last of use.
        asked: whether the authority was asked about these very bytes.
        live: whether it is in the cache. Who found it without a lock looks at this last.
    """

    __slots__ = (
        "asked",
        "body_bytes",
        "dated_ms",
        "key",
        "lineage",
        "live",
        "position",
        "size",
        "stem",
        "text",
        "used_ms",
        "verified",
    )

    def __init__(
        self,
        verified: Verified,
        text: str,
        lineage: Lineage,
        *,
        position: int,
        dated_ms: int,
        used_ms: int,
        asked: bool,
    ) -> None:
        self.verified = verified
        self.text = text
        self.lineage = lineage
        self.key = lineage.key
        self.position = position
        self.dated_ms = dated_ms
        self.asked = asked
        self.live = True
        self.used_ms = used_ms
        raw = verified.macaroon.raw
        self.body_bytes = len(raw) - TRAILER_BYTES
        self.stem = Stem.of(PREFIX, raw[: self.body_bytes])
        self.size = _FIXED_BYTES + _ITEM_BYTES * raw.count(b",") + _TOKEN_TIMES * len(raw)

    def is_fresh(self, since_ms: int) -> bool:
        """Return whether it is known to be in order as of ``since_ms`` or later: by its own answer, or by the feed."""
        return self.key.dated_ms >= since_ms or self.dated_ms >= since_ms


class Entries:
    """All entries. What changes them isn't safe for threads by itself; looking is.

    Args:
        max_bytes: how much they may take.
        head_chars: in how many of its first characters a text tells its lineage, and nothing that differs within it.
        leave: is called with a kid when its last entry has gone.

    Attributes:
        head: as much of a token's text as its lineage is found by.
        texts: entries by the token's text.
        bytes: what they take.
    """

    def __init__(self, *, max_bytes: int, head_chars: int, leave: Callable[[bytes], object]) -> None:
        self._max_bytes = max_bytes
        self.head = slice(head_chars)
        self._leave = leave
        self._lineages: OrderedDict[bytes, Lineage] = OrderedDict()
        self._heads: dict[str, Lineage] = {}
        self._kids: dict[bytes, dict[bytes, Lineage]] = {}
        self.texts: dict[str, Entry] = {}
        self.find = self._lineages.get
        """Return the lineage of that name (kid and nonce), or None."""
        self.with_head = self._heads.get
        """Return the lineage whose texts begin so, or None. (A dict's own look-up: the hot path.)"""
        self.bytes = 0

    @property
    def lineages(self) -> int:
        """How many lineages have entries."""
        return len(self._lineages)

    def of_kid(self, kid: bytes) -> list[Lineage]:
        """Return the lineages under a root key."""
        return list(self._kids.get(kid, {}).values())

    def of_organization(self, name: str) -> list[Lineage]:
        """Return the lineages of an organization."""
        first = ((lineages, next(iter(lineages.values()))) for lineages in self._kids.values())
        kids = [lineages for lineages, one in first if one.entries[0].verified.organization == name]
        return [lineage for lineages in kids for lineage in lineages.values()]

    def put(
        self,
        verified: Verified,
        text: str,
        key: Key,
        *,
        position: int,
        dated_ms: int,
        used_ms: int,
        branches: Iterable[bytes] | None = (),
        asked: bool,
    ) -> None:
        """Keep what was verified, in the place of what is known of the same token.

        Args:
            verified: what is trusted of it.
            text: its text.
            key: how its root key is followed.
            position: the journal's, at which it was verified.
            dated_ms: as of when.
            used_ms: now, or almost.
            branches: the revoked branches of the lineage that were told; None: too many.
            asked: whether the authority was asked about these very bytes.
        """
        name = verified.macaroon.lineage
        lineage = self._lineages.get(name)
        if lineage is None:
            head = text[self.head]
            lineage = self._lineages[name] = self._heads[head] = Lineage(name, head, key)
            self._kids.setdefault(key.kid, {})[name] = lineage
        self.learn_branches(lineage, branches)
        entry = Entry(verified, text, lineage, position=position, dated_ms=dated_ms, used_ms=used_ms, asked=asked)
        gone = [each for each in lineage.entries if each.stem == entry.stem]
        kept = [each for each in lineage.entries if each not in gone]
        if len(kept) >= LINEAGE_ENTRIES_MAX:
            gone.append(_least(kept))
            kept.remove(gone[-1])
        for each in gone:
            self._lose(each)
        lineage.entries = tuple(sorted([*kept, entry], key=lambda each: -each.body_bytes))
        self.texts[text] = entry
        self.bytes += entry.size
        self._make_room()

    def learn_branches(self, lineage: Lineage, branches: Iterable[bytes] | None) -> None:
        """Add to the revoked branches of a lineage; None: they are too many."""
        if branches is None or lineage.branches is None:
            lineage.branches = None
            return
        known = lineage.branches.union(branches)
        lineage.branches = known if len(known) <= BRANCHES_MAX else None

    def keep_only(self, lineage: Lineage, kept: Iterable[Entry]) -> None:
        """Drop all entries of a lineage but these; without any, the lineage goes."""
        entries = tuple(kept)
        gone = [entry for entry in lineage.entries if entry not in entries]
        lineage.entries = entries
        for entry in gone:
            self._lose(entry)
        if not entries:
            self._forget(lineage)

    def drop(self, lineage: Lineage) -> None:
        """Drop a lineage."""
        self.keep_only(lineage, ())

    def clear(self) -> None:
        """Drop all."""
        for lineage in list(self._lineages.values()):
            self.drop(lineage)

    def _lose(self, entry: Entry) -> None:
        entry.live = False
        if self.texts.get(entry.text) is entry:
            del self.texts[entry.text]
        self.bytes -= entry.size

    def _forget(self, lineage: Lineage) -> None:
        del self._lineages[lineage.name], self._heads[lineage.head]
        kid = lineage.key.kid
        lineages = self._kids[kid]
        del lineages[lineage.name]
        if not lineages:
            del self._kids[kid]
            self._leave(kid)

    def _make_room(self) -> None:
        while self.bytes > self._max_bytes:
            lineage = next(iter(self._lineages.values()))
            if lineage.used:
                lineage.used = False
                self._lineages.move_to_end(lineage.name)
            else:
                self.drop(lineage)


def _least(entries: list[Entry]) -> Entry:
    """Return the entry that is missed least; they stand with the longest first."""
    walked = [entry for entry in entries if not entry.asked]
    return min(walked or entries[:-1], key=lambda entry: entry.used_ms)
