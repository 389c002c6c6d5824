"""The cache's entries: valid chains, found by lineage, and by the text of a token or its beginning.

An entry records that these bytes are a valid chain with this tail, of this organization, with these caveats, at this
position, as of this time. It isn't a permission, and it is dropped when any part of it is in doubt.

Room has two limits. First, a lineage has at most eight entries. An entry that was walked from another one is dropped
first, because it can be derived again without a request. If none was walked, the shortest is kept, because most tokens
descend from it. In both cases, the least recently used candidate is dropped. Second, if all entries are too large, the
least recently used lineage is dropped. Its use is only one mark, because a hit takes no lock.

Objects that readers see without a lock are replaced and never changed: ``CachedLineage.entries`` and
``CachedLineage.branches``.

>>> entries = CacheEntries(max_bytes=100_000, head_chars=80, leave=print)
>>> entries.find(b"k" * 16 + b"n" * 16) is None
True
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from math import ceil
from typing import Final

from tkdb.armor import Stem
from tkdb.macaroon.identifier import IDENTIFIER_BYTES, LINEAGE
from tkdb.macaroon.wire import PREFIX, SIGNATURE_BYTES, TRAILER_BYTES, TRAILER_HEAD, decode_rest, write
from tkdb_client.cache.subscriptions import Subscription
from tkdb_client.verified import Verified

LINEAGE_ENTRIES_MAX: Final = 8
BRANCHES_MAX: Final = 64
"""If a lineage has more revoked branches than this, the cache serves only exact copies of cached tokens."""

# The memory of an entry in CPython, measured (tests/client/cache/test_cache_entries.py): its objects and their place in
# the tables; the token's bytes, which are stored four times in all; and its caveats as objects. A short text with many
# items has many of them, with a comma before each. One rare character makes each character of its text take 4 bytes.
_FIXED_BYTES: Final = 1_450
_ITEM_BYTES: Final = 150
_TOKEN_TIMES: Final = 4
_WIDE_TIMES: Final = 7


class CachedLineage:
    """The entries of one lineage.

    Attributes:
        name: kid and nonce.
        head: the beginning of the text of each of its tokens.
        key: the subscription to its root key.
        entries: the longest first.
        branches: its known revoked branches; None if there are too many.
        used: whether it was used since the last search for entries to drop.
    """

    __slots__ = ("branches", "entries", "head", "key", "name", "used")

    def __init__(self, name: bytes, head: str, key: Subscription) -> None:
        self.name = name
        self.head = head
        self.key = key
        self.entries: tuple[CacheEntry, ...] = ()
        self.branches: frozenset[bytes] | None = frozenset()
        self.used = False


class CacheEntry:
    """One valid chain.

    Attributes:
        verified: the verified token. It is immutable, so every caller gets the same object.
        text: the token's only text.
        body_bytes: the number of bytes before the trailer. The signature is their tail.
        stem: the common beginning of the texts of all its descendants.
        position: the journal's position at which it, or the entry that it was walked from, was verified.
        dated_ms: the time as of which it was valid, by the monotonic clock.
        used_ms: when it was last used.
        asked: whether the authority was asked about exactly these bytes.
        live: whether it is in the cache. A reader without the lock checks this last.
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
        lineage: CachedLineage,
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
        self.stem = Stem.from_bytes(PREFIX, raw[: self.body_bytes])
        wide = sum(len(each) for each in verified.macaroon.packets if type(each) is bytes and not each.isascii())
        self.size = _FIXED_BYTES + _ITEM_BYTES * raw.count(b",") + _TOKEN_TIMES * len(raw) + _WIDE_TIMES * wide

    def is_fresh(self, since_ms: int) -> bool:
        """Return True if it is known to be valid as of ``since_ms`` or later, from its own answer or from the feed."""
        return self.key.dated_ms >= since_ms or self.dated_ms >= since_ms


class CacheEntries:
    """All entries. Reads are safe for threads; changes need a lock.

    Args:
        max_bytes: the largest size of all entries.
        head_chars: how many of a text's first characters identify its lineage, and are the same in all of it.
        leave: called with a kid when its last entry is dropped.

    Attributes:
        head: takes the part of a token's text that identifies its lineage.
        texts: entries by the token's text.
        bytes: the size of all entries.
    """

    def __init__(self, *, max_bytes: int, head_chars: int, leave: Callable[[bytes], object]) -> None:
        self._max_bytes = max_bytes
        self.head = slice(head_chars)
        self._leave = leave
        self._lineages: OrderedDict[bytes, CachedLineage] = OrderedDict()
        self._heads: dict[str, CachedLineage] = {}
        self._kids: dict[bytes, dict[bytes, CachedLineage]] = {}
        self.texts: dict[str, CacheEntry] = {}
        self.find = self._lineages.get
        """Return the lineage of that name (kid and nonce), or None."""
        self.with_head = self._heads.get
        """Return the lineage whose texts begin with this head, or None. (A dict's method: this is the hot path.)"""
        self.bytes = 0

    @property
    def lineages(self) -> int:
        """The number of lineages with entries."""
        return len(self._lineages)

    def of_kid(self, kid: bytes) -> list[CachedLineage]:
        """Return the lineages under a root key."""
        return list(self._kids.get(kid, {}).values())

    def of_organization(self, name: str) -> list[CachedLineage]:
        """Return the lineages of an organization."""
        first = ((lineages, next(iter(lineages.values()))) for lineages in self._kids.values())
        kids = [lineages for lineages, one in first if one.entries[0].verified.organization == name]
        return [lineage for lineages in kids for lineage in lineages.values()]

    def put(
        self,
        verified: Verified,
        text: str,
        key: Subscription,
        *,
        position: int,
        dated_ms: int,
        used_ms: int,
        branches: Iterable[bytes] | None = (),
        asked: bool,
    ) -> None:
        """Keep a verified token, in place of the entry for the same token.

        Args:
            verified: the verified token.
            text: its text.
            key: the subscription to its root key.
            position: the journal's position at which it was verified.
            dated_ms: the time as of which it was valid.
            used_ms: now, or almost.
            branches: the reported revoked branches of the lineage; None: too many.
            asked: whether the authority was asked about exactly these bytes.
        """
        name = verified.macaroon.lineage
        lineage = self._lineages.get(name)
        if lineage is None:
            head = text[self.head]
            lineage = self._lineages[name] = self._heads[head] = CachedLineage(name, head, key)
            self._kids.setdefault(key.kid, {})[name] = lineage
        self.learn_branches(lineage, branches)
        entry = CacheEntry(verified, text, lineage, position=position, dated_ms=dated_ms, used_ms=used_ms, asked=asked)
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

    def learn_branches(self, lineage: CachedLineage, branches: Iterable[bytes] | None) -> None:
        """Add revoked branches to a lineage. None: there are too many."""
        if branches is None or lineage.branches is None:
            lineage.branches = None
            return
        known = lineage.branches.union(branches)
        lineage.branches = known if len(known) <= BRANCHES_MAX else None

    def keep_only(self, lineage: CachedLineage, kept: Iterable[CacheEntry]) -> None:
        """Drop all entries of a lineage except these. Without any, the lineage is dropped."""
        entries = tuple(kept)
        gone = [entry for entry in lineage.entries if entry not in entries]
        lineage.entries = entries
        for entry in gone:
            self._lose(entry)
        if not entries:
            self._forget(lineage)

    def drop(self, lineage: CachedLineage) -> None:
        """Drop a lineage."""
        self.keep_only(lineage, ())

    def clear(self) -> None:
        """Drop everything."""
        for lineage in list(self._lineages.values()):
            self.drop(lineage)

    def _lose(self, entry: CacheEntry) -> None:
        entry.live = False
        if self.texts.get(entry.text) is entry:
            del self.texts[entry.text]
        self.bytes -= entry.size

    def _forget(self, lineage: CachedLineage) -> None:
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


def _least(entries: list[CacheEntry]) -> CacheEntry:
    """Return the least useful entry. The longest entries come first."""
    walked = [entry for entry in entries if not entry.asked]
    return min(walked or entries[:-1], key=lambda entry: entry.used_ms)


def head_chars(authority: str) -> int:
    """Return how many characters of a token contain the authority's name, a kid and a nonce.

    The last character may also contain bits of ``m``, which is the same in the whole lineage.
    """
    whole = write(authority.encode(), bytes(IDENTIFIER_BYTES), [], bytes(SIGNATURE_BYTES))
    identifier_at = len(whole) - TRAILER_BYTES - 1 - IDENTIFIER_BYTES
    return len(PREFIX) + ceil((identifier_at + LINEAGE.stop) * 8 / 6)


def find_ancestor(lineage: CachedLineage, text: str, since_ms: int) -> tuple[CacheEntry, bytes] | None:
    """Return the longest entry that a token equals or descends from and that is fresh enough, with the token's
    added bytes.

    The whole common part is compared, and not only the entry's tail, because a chain can be walked from a tail under
    any prefix.
    """
    for entry in lineage.entries:
        if entry.is_fresh(since_ms) and (rest := decode_rest(entry.stem, text)) is not None:
            return entry, rest
    return None


def adds_caveats(rest: bytes) -> bool:
    """Return True if the ``rest`` of a token is more than its trailer: it then adds a caveat to the entry."""
    return not rest.startswith(TRAILER_HEAD)
