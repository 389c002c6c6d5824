"""The verification cache: the authority's results, kept while they are provably still true.

The cache stores only that a token's chain is valid, never a decision: the caller clears all caveats on every access.
Each lookup also checks that the entry is fresh enough, and that no known revocation covers the token: of its lineage,
of one of its branches, of its key, or of everything issued to its organization or subject before a time.

A descendant of a cached token is verified locally. The cache compares the common part character for character, decodes
and walks the added caveats from the cached tail, and compares the signature in constant time. It learns nothing about a
token's ancestors.

All changes happen under one lock; reads take none. A reader checks an entry's freshness *before* it checks that the
entry is still cached, and a writer updates the two in the opposite order. No reader can see a refreshed date on an
entry that the same update dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from tkdb import api, errors
from tkdb.errors import Reason
from tkdb.macaroon.access import Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.chain import branch
from tkdb.macaroon.descent import go_on
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import PREFIX, TRAILER_BYTES
from tkdb_client.cache.denials import Denials
from tkdb_client.cache.entries import CacheEntries, CacheEntry, adds_caveats, find_ancestor, head_chars
from tkdb_client.cache.in_flight import InFlight, Query
from tkdb_client.cache.matching import KeyRevocations, WideRevocation, covers, is_branch_of, kids_of
from tkdb_client.cache.subscriptions import NEVER_MS, Poll, Subscriptions
from tkdb_client.calls.attempt import Reply
from tkdb_client.verified import Verified

IDLE_MS: Final = 60_000
"""If no token is looked up for this long, the cache is cleared and the client stops following the feed."""
NEGATIVES_SHARE: Final = 16
"""Cached denials may take one 16th of ``max_bytes``, in addition to the entries."""
SIGHTED_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """The state of the cache.

    Attributes:
        hits: verifications answered from the cache. ``denials`` of them were denials.
        misses: verifications for which the authority was asked.
        entries: the number of cached tokens, in ``lineages`` lineages, under ``keys`` keys.
        bytes: their size, at most ``max_bytes``.
        age_ms: the age of the feed's data for the key with the oldest; None if the feed has given none yet.
    """

    hits: int
    denials: int
    misses: int
    entries: int
    lineages: int
    keys: int
    bytes: int
    max_bytes: int
    age_ms: int | None


class Cache:
    """The cached tokens. Any number of threads may share a cache.

    Args:
        authority: the authority's name.
        policy: the app's own facts. Results are cleared under it.
        max_bytes: the largest size of all entries.
        bound_ms: the largest age of data: the authority's published bound, for machine and cache together.
        monotonic_ms: a monotonic clock, which also goes on while the machine is suspended.
    """

    def __init__(
        self, authority: str, policy: Policy, *, max_bytes: int, bound_ms: int, monotonic_ms: Callable[[], int]
    ) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._bound_ms = bound_ms
        self._monotonic_ms = monotonic_ms
        self._lock = threading.Lock()
        self._journal = b""
        self._followed = Subscriptions()
        self._in_flight = InFlight()
        self._entries = CacheEntries(max_bytes=max_bytes, head_chars=head_chars(authority), leave=self._followed.leave)
        self._negatives = Denials(max_bytes=max_bytes // NEGATIVES_SHARE)
        self._texts = self._entries.texts
        self._head = self._entries.head
        self._with_head = self._entries.with_head
        self._sighted: dict[bytes, None] = {}
        self._used_ms = monotonic_ms()
        self._hits = self._denials = self._misses = 0

    @property
    def is_on(self) -> bool:
        """Whether the cache keeps anything."""
        return self._max_bytes > 0

    # --- lookups -------------------------------------------------------------------------------------------------

    def get(self, text: str) -> Verified | None:
        """Return the verified token, or None if the cache can't tell.

        Args:
            text: a token, a bundle's text, or the value of an Authorization header.

        Raises:
            Denied: the token can't be read, its signature doesn't match, it is in a branch that is known to be revoked,
                or a caveat isn't allowed at its place.
        """
        entry = self._texts.get(text)
        if entry is None:
            return self._look_further(text)
        now_ms = self._monotonic_ms()
        self._used_ms = now_ms
        since_ms = now_ms - self._bound_ms
        # As entry.is_fresh, without its call: this is the hot path of every app. ``live`` must be read after it.
        if not (entry.key.dated_ms >= since_ms or entry.dated_ms >= since_ms) or not entry.live:
            return None
        entry.used_ms = now_ms
        entry.lineage.used = True
        self._hits += 1
        return entry.verified

    def find(self, bundle: Bundle, digest: bytes) -> Verified | errors.Denied | None:
        """Return the cached result for a bundle with the SHA-256 ``digest``: a verified token, a denial, or None.

        Bundles with discharges are cached only as denials.
        """
        now_ms = self._monotonic_ms()
        self._used_ms = now_ms
        with self._lock:
            denied = self._negatives.get(digest, now_ms=now_ms)
        try:
            found = denied or (None if bundle.discharges else self._find_ancestor(bundle.root.text))
        except errors.Denied as error:
            return error
        if denied is not None:
            self._hits += 1
            self._denials += 1
        return found

    def was_known(self, bundle: Bundle) -> bool:
        """Return True if the only problem is age: the bundle is cached, but too old."""
        text = bundle.root.text
        lineage = self._with_head(text[self._head])
        if lineage is None or bundle.discharges or find_ancestor(lineage, text, self._monotonic_ms() - self._bound_ms):
            return False
        found = find_ancestor(lineage, text, NEVER_MS)
        return found is not None and not (lineage.branches is None and adds_caveats(found[1]))

    def _look_further(self, text: str) -> Verified | None:
        token = text.strip()
        if not token.startswith(PREFIX):
            if token[:7].lower() != "bearer ":
                return None
            token = token[7:].strip(" ")
        if token is not text and token in self._texts:
            return self.get(token)
        if "," in token or not token.startswith(PREFIX):
            return None  # a bundle, or another form of a token
        return self._find_ancestor(token)

    def _find_ancestor(self, text: str) -> Verified | None:
        """Return the verified token if it is cached, or descends from a cached one."""
        lineage = self._with_head(text[self._head])
        if lineage is None:
            return None
        now_ms = self._monotonic_ms()
        self._used_ms = now_ms
        found = find_ancestor(lineage, text, now_ms - self._bound_ms)
        if found is None:
            return None
        entry, rest = found
        if not entry.live:  # Must be read after is_fresh: see the module docstring.
            return None
        branches = lineage.branches
        if branches is None and adds_caveats(rest):
            return None
        entry.used_ms = now_ms
        lineage.used = True
        self._hits += 1
        known = entry.verified
        macaroon, at = known.macaroon, entry.body_bytes
        try:
            packets, tails = go_on(rest, macaroon.tail, known=len(known.caveats), known_bytes=at)
            if not packets:
                return known
            if branches and not branches.isdisjoint(map(branch, tails)):
                raise errors.RevokedToken("the token, or one that it was attenuated from, is revoked")
            raw = macaroon.raw[:at] + rest
            token = Macaroon(raw, macaroon.location, macaroon.identifier, (*macaroon.packets, *packets))
            verified = known.attenuated(token, packets)
        except errors.Denied:
            self._denials += 1
            raise
        if tails[-1] in self._sighted:
            self._keep_walked(entry, branches, verified, text)
        else:  # most tokens are seen once
            if len(self._sighted) >= SIGHTED_MAX:
                self._sighted.clear()
            self._sighted[tails[-1]] = None
        return verified

    def _keep_walked(
        self, ancestor: CacheEntry, branches: frozenset[bytes] | None, verified: Verified, text: str
    ) -> None:
        """Keep a token that was walked from ``ancestor``.

        It isn't kept if the lineage's revoked branches changed since ``branches`` was read: it may be in a new one.
        """
        with self._lock:
            if ancestor.live and ancestor.lineage.branches is branches:
                self._entries.put(
                    verified,
                    text,
                    ancestor.key,
                    position=ancestor.position,
                    dated_ms=ancestor.dated_ms,
                    used_ms=ancestor.used_ms,
                    asked=False,
                )

    # --- requests ------------------------------------------------------------------------------------------------

    def open(self, count: int = 1) -> Query:
        """Record that the authority is about to be asked about ``count`` bundles. The returned query must be closed."""
        with self._lock:
            self._misses += count
            return self._in_flight.open()

    def close(self, question: Query) -> None:
        """Record that the authority has answered the query, or won't."""
        with self._lock:
            self._in_flight.close(question)

    def take(
        self, question: Query, bundle: Bundle, digest: bytes, result: api.Valid | api.Invalid, told: Reply
    ) -> Verified | errors.Denied | None:
        """Return the answer's result for a bundle, and keep it.

        None: ask again. The feed has news that the answer may lack, or the position of the answer's journal went back.

        Args:
            question: the value that ``open`` returned before the bundle was sent.
            bundle: the bundle.
            digest: its SHA-256.
            result: the answer's result for it.
            told: the attempt that brought the answer.

        Raises:
            TkdbError: the result is of a kind that only a newer authority gives.
        """
        with self._lock:
            if told.answer.position < told.position:  # a journal never goes back
                self._begin_again(told.answer.journal)
                return None
            is_current = self._is_current(question, told)
            if isinstance(result, api.Invalid):
                return self._denied(bundle, digest, result, keep=is_current)
            try:
                verified = Verified.under(self._policy, result.organization, bundle.root)
            except errors.Denied as denied:
                return denied
            if not is_current:
                return verified
            position = told.answer.position
            if self._in_flight.is_outdated(question, position):
                return None
            branches = result.branches
            for revocation in self._in_flight.unknown_to(question, position):
                covered = covers(revocation, bundle.root, verified.subject)
                if covered is None:
                    return None
                if covered:
                    return errors.RevokedToken("the token was revoked while it was being verified")
                if branches is not None and is_branch_of(revocation, bundle.root):
                    branches = [*branches, revocation.branch]  # This token isn't in it, but a descendant may be.
            if not bundle.discharges:
                self._keep(verified, branches, position, told)
            return verified

    def _keep(self, verified: Verified, branches: list[bytes] | None, position: int, told: Reply) -> None:
        macaroon = verified.macaroon
        key = self._followed.key(macaroon.kid, position=position)
        if position < key.since:
            return  # the feed's data about its key doesn't reach back far enough
        self._entries.put(
            verified,
            macaroon.text,
            key,
            position=position,
            dated_ms=told.dated_ms,
            used_ms=told.sent_ms,
            branches=branches,
            asked=True,
        )

    def _denied(self, bundle: Bundle, digest: bytes, invalid: api.Invalid, *, keep: bool) -> errors.Denied:
        if keep:
            self._negatives.put(digest, invalid, now_ms=self._monotonic_ms())
        self._drop_denied(bundle.root, invalid.reason)
        return invalid.error()

    def _drop_denied(self, token: Macaroon, reason: Reason) -> None:
        """Drop a revoked token and its descendants, or all tokens of an unknown key. The rest of a revoked token's
        lineage is kept. Otherwise the holder of a token in a revoked branch could make the client ask about the rest
        again and again. If the whole lineage is revoked, the feed reports it."""
        if reason is Reason.UNKNOWN_KEY:
            for each in self._entries.of_kid(token.kid):
                self._entries.drop(each)
            return
        lineage = self._entries.find(token.lineage)
        if lineage is not None and reason is Reason.REVOKED:
            body = token.raw[:-TRAILER_BYTES]
            outside = [
                entry
                for entry in lineage.entries
                if not entry.verified.macaroon.raw.startswith(body, 0, entry.body_bytes)
            ]
            self._entries.keep_only(lineage, outside)

    def _is_current(self, question: Query, told: Reply) -> bool:
        """Return True if an answer belongs to the followed journal, and may be kept.

        An answer to a query from before that journal can't start a new one.
        """
        if question.era == self._in_flight.era:
            self._follow(told.answer.journal)
        return question.era == self._in_flight.era

    def _follow(self, journal: bytes) -> None:
        """Follow a journal from now on. In a new journal, positions have another meaning, so everything cached is
        dropped, and answers to earlier queries aren't kept."""
        if self._journal and journal != self._journal:
            self._begin_again(journal)
        self._journal = journal

    def _begin_again(self, journal: bytes) -> None:
        self._entries.clear()
        self._negatives.clear()
        self._followed.clear()
        self._in_flight.clear()
        self._sighted.clear()
        self._journal = journal

    # --- the feed ------------------------------------------------------------------------------------------------

    def enlist(self) -> int | None:
        """Return the number of a new follower of the feed if one is needed, or None. It must call ``next_poll``."""
        with self._lock:
            return self._followed.enlist(now_ms=self._monotonic_ms())

    def next_poll(self, follower: int, takes_ms: int) -> Poll | None:
        """Return a follower's next poll, which takes at most ``takes_ms``. None: the follower must end."""
        now_ms = self._monotonic_ms()
        with self._lock:
            if now_ms - self._used_ms >= IDLE_MS:
                self._entries.clear()
                self._negatives.clear()
            return self._followed.next_poll(follower, due_ms=now_ms + takes_ms)

    def rest(self, follower: int, takes_ms: int) -> None:
        """Record that a follower waits ``takes_ms`` before its next poll."""
        with self._lock:
            self._followed.rest(follower, due_ms=self._monotonic_ms() + takes_ms)

    def dismiss(self, follower: int) -> None:
        """Record that a follower has ended."""
        with self._lock:
            self._followed.dismiss(follower)

    def apply(self, follower: int, poll: Poll, feed: api.Feed, told: Reply) -> None:
        """Apply the feed's news."""
        answer = told.answer
        with self._lock:
            if not self._followed.is_polling(follower, poll):
                return
            if answer.journal != self._journal or answer.position < told.position:
                self._begin_again(answer.journal)
                return
            self._in_flight.record(feed.position, feed.revocations)
            self._revoke(feed.revocations)
            # Keep this last: a reader without the lock must never see the new date with the old entries.
            dated_ms = NEVER_MS if feed.more else told.dated_ms
            self._followed.heard(follower, poll, position=feed.position, dated_ms=dated_ms)

    def _revoke(self, revocations: Iterable[api.Revocation]) -> None:
        """Drop every entry that may be revoked. Revocations of a whole key are collected first, so that its tokens are
        checked once, however many revocations there are."""
        wide: dict[bytes, list[WideRevocation]] = {}
        for revocation in revocations:
            if not isinstance(revocation, api.Lineage | api.Branch):
                for kid in kids_of(revocation):
                    wide.setdefault(kid, []).append(revocation)
                continue
            lineage = self._entries.find(revocation.kid + revocation.nonce)
            if lineage is None:
                continue
            if isinstance(revocation, api.Branch):
                self._entries.learn_branches(lineage, [revocation.branch])
            self._entries.keep_only(lineage, [entry for entry in lineage.entries if _outside(revocation, entry)])
        sums: dict[tuple[int, ...], KeyRevocations] = {}  # most keys of an organization have the same revocations
        for kid, of_key in wide.items():
            same = tuple(map(id, of_key))
            revoked = sums[same] = sums.get(same) or KeyRevocations(of_key)
            for lineage in self._entries.of_kid(kid):
                first = lineage.entries[0].verified  # all entries of a lineage have the same time and subject
                if revoked.covers(first.macaroon, first.subject):
                    self._entries.drop(lineage)

    # --- this client's own revocations ---------------------------------------------------------------------------

    def revoked_here(self, targets: Iterable[api.Target | api.DeleteOrganization], told: Reply | None) -> None:
        """Record that this client has revoked ``targets``, with the answer ``told``. None: the outcome is unknown.

        Every entry that may be affected is dropped. With ``told``, answers from earlier positions aren't used: their
        callers ask again.
        """
        with self._lock:
            for target in targets:
                match target:
                    case api.Lineage(kid=kid, nonce=nonce) | api.Branch(kid=kid, nonce=nonce):
                        found = self._entries.find(kid + nonce)
                        lineages = [] if found is None else [found]
                    case api.RetireKey(kid=kid):
                        lineages = self._entries.of_kid(kid)
                    case api.Before(organization=name) | api.DeleteOrganization(name=name):
                        lineages = self._entries.of_organization(name)
                for lineage in lineages:
                    self._entries.drop(lineage)
            if told is not None:
                self._follow(told.answer.journal)
                self._in_flight.overrule(told.answer.position)

    def clear(self) -> None:
        """Drop everything in the cache."""
        with self._lock:
            self._begin_again(self._journal)

    def info(self) -> CacheInfo:
        """Return the state of the cache."""
        with self._lock:
            dates = [key.dated_ms for key in self._followed if key.dated_ms > NEVER_MS]
            return CacheInfo(
                hits=self._hits,
                denials=self._denials,
                misses=self._misses,
                entries=len(self._texts),
                lineages=self._entries.lineages,
                keys=len(self._followed),
                bytes=self._entries.bytes,
                max_bytes=self._max_bytes,
                age_ms=self._monotonic_ms() - min(dates) if dates else None,
            )


def _outside(revocation: api.Revocation, entry: CacheEntry) -> bool:
    """Return True if an entry is certainly not revoked."""
    return covers(revocation, entry.verified.macaroon, entry.verified.subject) is False
