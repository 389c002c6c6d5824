"""The verification cache: what the authority has said of chains, kept while it is known to be still so.

Only that a chain is whole is kept, never a decision: caveats are cleared by the caller, each time. And each time it is
looked up whether what is known is fresh enough, and whether a revocation is known that concerns the token: of its
lineage, of a branch of it, of everything issued before a time to the organization or the subject, of its key.

A token that descends from a known one is checked here: what it has in common is compared character for character, what
it adds is decoded, read and walked from the known tail, and its end compared in constant time. A token that a known one
descends from is not known.

Every change is made under one lock. Who looks takes none: it reads how fresh an entry is *before* it reads whether
the entry is still there, and who changes does these the other way round. So no refreshed date is ever seen with an
entry that the same news has dropped.

::

    cache = Cache(name, policy, max_bytes=32 << 20, bound_ms=5_000, monotonic_ms=clock.monotonic_ms)
    verified = cache.look(text)                     # or None: ask, between cache.open() and cache.close()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Final

from tkdb import api, errors
from tkdb.errors import Reason
from tkdb.macaroon.access import Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.chain import branch
from tkdb.macaroon.descent import go_on
from tkdb.macaroon.identifier import IDENTIFIER_BYTES, LINEAGE
from tkdb.macaroon.token import Macaroon
from tkdb.macaroon.wire import PREFIX, SIGNATURE_BYTES, TRAILER_BYTES, TRAILER_HEAD, decode_rest, write
from tkdb_client.cache.denials import Negatives
from tkdb_client.cache.entries import Entries, Entry, Lineage
from tkdb_client.cache.in_flight import News, Question
from tkdb_client.cache.matching import Wide, WideRevocation, covers, is_branch_of, kids_of
from tkdb_client.cache.subscriptions import NEVER_MS, Followed, Poll
from tkdb_client.calls.attempt import Told
from tkdb_client.verified import Verified

IDLE_MS: Final = 60_000
"""Where nothing was looked up for so long, all is dropped, and the feed isn't followed any more."""
NEGATIVE_BYTES: Final = 512
NEGATIVES_SHARE: Final = 16
"""One part of so many of the room goes to denials."""
SIGHTED_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """How the cache does.

    Attributes:
        hits: verifications answered here, by what is known; ``denials`` of them were denials.
        misses: verifications that the authority was asked for.
        entries: how many tokens are known, of so many ``lineages``, under so many ``keys``.
        bytes: what they take, of ``max_bytes``.
        age_ms: how old what the feed has told of the keys is: the oldest; None where it has told nothing yet.
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
    """What is known of tokens. Any number of threads may share one.

    Args:
        authority: its name.
        policy: what the app knows beforehand; results are cleared under it.
        max_bytes: how much entries may take.
        bound_ms: how old what is known may be: the authority's published bound, for machine and cache together.
        monotonic_ms: a clock that only goes forward.
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
        self._followed = Followed()
        self._news = News()
        self._entries = Entries(max_bytes=max_bytes, head_chars=_head_chars(authority), leave=self._followed.leave)
        self._negatives = Negatives(most=max_bytes // NEGATIVES_SHARE // NEGATIVE_BYTES)
        self._texts = self._entries.texts
        self._head = self._entries.head
        self._with_head = self._entries.with_head
        self._sighted: dict[bytes, None] = {}
        self._used_ms = monotonic_ms()
        self._hits = self._denials = self._misses = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    # --- looking ------------------------------------------------------------------------------------------------

    def look(self, text: str) -> Verified | None:
        """Return what is trusted of a token, if that is known here.

        Args:
            text: a token, a bundle's text, or the value of an Authorization header.

        Raises:
            Denied: the token can't be read, its end doesn't match, it is in a branch that is known to be revoked, or a
                caveat can't stand where it stands.
        """
        entry = self._texts.get(text)
        if entry is None:
            return self._look_further(text)
        now_ms = self._monotonic_ms()
        self._used_ms = now_ms
        if not entry.is_fresh(now_ms - self._bound_ms) or not entry.live:  # in this order: see above
            return None
        entry.used_ms = now_ms
        entry.lineage.used = True
        self._hits += 1
        return entry.verified

    def find(self, bundle: Bundle, digest: bytes) -> Verified | errors.Denied | None:
        """Return what is known here of a bundle, whose SHA-256 is ``digest``: what is trusted, what denies it, or None.

        A bundle with discharges is known only as denied.
        """
        now_ms = self._monotonic_ms()
        self._used_ms = now_ms
        with self._lock:
            denied = self._negatives.get(digest, now_ms=now_ms)
        try:
            found = denied or (None if bundle.discharges else self._walk(bundle.root.text))
        except errors.Denied as error:
            return error
        if denied is not None:
            self._hits += 1
            self._denials += 1
        return found

    def was_known(self, bundle: Bundle) -> bool:
        """Return whether a bundle isn't known only because what is known of it is too old."""
        text = bundle.root.text
        lineage = self._with_head(text[self._head])
        if lineage is None or bundle.discharges or _ancestor(lineage, text, self._monotonic_ms() - self._bound_ms):
            return False
        found = _ancestor(lineage, text, NEVER_MS)
        return found is not None and not (lineage.branches is None and _adds(found[1]))

    def _look_further(self, text: str) -> Verified | None:
        token = text.strip()
        if not token.startswith(PREFIX):
            if token[:7].lower() != "bearer ":
                return None
            token = token[7:].strip(" ")
        if token is not text and token in self._texts:
            return self.look(token)
        if "," in token or not token.startswith(PREFIX):
            return None  # a bundle, or another form of a token
        return self._walk(token)

    def _walk(self, text: str) -> Verified | None:
        """Return what is trusted of a token that is known, or descends from one that is."""
        lineage = self._with_head(text[self._head])
        if lineage is None:
            return None
        now_ms = self._monotonic_ms()
        self._used_ms = now_ms
        found = _ancestor(lineage, text, now_ms - self._bound_ms)
        if found is None:
            return None
        entry, rest = found
        if not entry.live:  # behind its freshness: see above
            return None
        branches = lineage.branches
        if branches is None and _adds(rest):
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
            verified = known.further(token, packets)
        except errors.Denied:
            self._denials += 1
            raise
        if tails[-1] in self._sighted:
            self._keep_walked(entry, branches, verified, text)
        else:  # most are seen once
            if len(self._sighted) >= SIGHTED_MAX:
                self._sighted.clear()
            self._sighted[tails[-1]] = None
        return verified

    def _keep_walked(self, ancestor: Entry, branches: frozenset[bytes] | None, verified: Verified, text: str) -> None:
        """Keep a token that was walked from ``ancestor``.

        Not if anything was heard of its lineage since ``branches`` were looked at: it may be in a new one.
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

    # --- asking -------------------------------------------------------------------------------------------------

    def open(self, count: int = 1) -> Question:
        """The authority is about to be asked of so many bundles. The question must be closed."""
        with self._lock:
            self._misses += count
            return self._news.open()

    def close(self, question: Question) -> None:
        """It has answered, or it won't."""
        with self._lock:
            self._news.close(question)

    def take(
        self, question: Question, bundle: Bundle, digest: bytes, result: api.Valid | api.Invalid, told: Told
    ) -> Verified | errors.Denied | None:
        """Return what an answer says of a bundle, and keep it. None: there is news that it may not know of; ask again.

        Args:
            question: what ``open`` returned before the bundle was sent.
            bundle: what was asked about.
            digest: its SHA-256.
            result: what the answer says of it.
            told: the attempt that brought the answer.

        Raises:
            TkdbError: the result is of a kind that a newer authority gives.
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
            if self._news.is_outdated(question, position):
                return None
            branches = result.branches
            for revocation in self._news.unknown_to(question, position):
                covered = covers(revocation, bundle.root, verified.subject)
                if covered is None:
                    return None
                if covered:
                    return errors.RevokedToken("the token was revoked while it was being verified")
                if branches is not None and is_branch_of(revocation, bundle.root):
                    branches = [*branches, revocation.branch]  # this token isn't in it; what descends from it may be
            if not bundle.discharges:
                self._keep(verified, branches, position, told)
            return verified

    def _keep(self, verified: Verified, branches: list[bytes] | None, position: int, told: Told) -> None:
        macaroon = verified.macaroon
        key = self._followed.key(macaroon.kid, position=position)
        if position < key.since:
            return  # what the feed told of its key doesn't reach back so far
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
        """Drop what is known of a token that is denied, and what falls with it. Of the rest of its lineage that it is
        revoked tells nothing: who holds a token in a revoked branch would have it asked about anew as often as he
        likes. Where it is the whole lineage that is revoked, the feed tells."""
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

    def _is_current(self, question: Question, told: Told) -> bool:
        """Return whether an answer is of the journal that is followed, and may be kept. What was asked before that
        was followed tells of no new one."""
        if question.era == self._news.era:
            self._follow(told.answer.journal)
        return question.era == self._news.era

    def _follow(self, journal: bytes) -> None:
        """Follow a journal from now on. Where it isn't the one that was followed, positions mean something else: all
        that was known is dropped, and what was asked before isn't kept."""
        if self._journal and journal != self._journal:
            self._begin_again(journal)
        self._journal = journal

    def _begin_again(self, journal: bytes) -> None:
        self._entries.clear()
        self._negatives.clear()
        self._followed.clear()
        self._news.clear()
        self._sighted.clear()
        self._journal = journal

    # --- following ----------------------------------------------------------------------------------------------

    def enlist(self) -> int | None:
        """Return the number of a follower of the feed that is needed, or None. It must call ``next_poll``."""
        with self._lock:
            return self._followed.enlist(now_ms=self._monotonic_ms())

    def next_poll(self, follower: int, takes_ms: int) -> Poll | None:
        """Return what a follower is to ask of the feed next, which takes ``takes_ms`` at most; None: it is to end."""
        now_ms = self._monotonic_ms()
        with self._lock:
            if now_ms - self._used_ms >= IDLE_MS:
                self._entries.clear()
                self._negatives.clear()
            return self._followed.next_poll(follower, due_ms=now_ms + takes_ms)

    def rest(self, follower: int, takes_ms: int) -> None:
        """A follower waits for so long before its next poll."""
        with self._lock:
            self._followed.rest(follower, due_ms=self._monotonic_ms() + takes_ms)

    def dismiss(self, follower: int) -> None:
        """A follower has ended."""
        with self._lock:
            self._followed.dismiss(follower)

    def hear(self, follower: int, poll: Poll, feed: api.Feed, told: Told) -> None:
        """Take in what the feed says."""
        answer = told.answer
        with self._lock:
            if not self._followed.is_polling(follower, poll):
                return
            if answer.journal != self._journal or answer.position < told.position:
                self._begin_again(answer.journal)
                return
            self._news.tell(feed.position, feed.revocations)
            self._revoke(feed.revocations)
            # Last: who looks without the lock must not see the new date and the old entries.
            dated_ms = NEVER_MS if feed.more else told.dated_ms
            self._followed.heard(follower, poll, position=feed.position, dated_ms=dated_ms)

    def _revoke(self, revocations: Iterable[api.Revocation]) -> None:
        """Drop what may be revoked. Those that concern a whole key are summed up, so that its tokens are gone through
        once, however many there are."""
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
        sums: dict[tuple[int, ...], Wide] = {}  # most keys of an organization are touched by the same
        for kid, of_key in wide.items():
            same = tuple(map(id, of_key))
            revoked = sums[same] = sums.get(same) or Wide(of_key)
            for lineage in self._entries.of_kid(kid):
                first = lineage.entries[0].verified  # all are of one time and one subject
                if revoked.covers(first.macaroon, first.subject):
                    self._entries.drop(lineage)

    # --- what this client has done itself ----------------------------------------------------------------------

    def revoked_here(self, targets: Iterable[api.Target | api.DeleteOrganization], told: Told | None) -> None:
        """This client has revoked these, as ``told``; None: it isn't known whether it has.

        What they may concern is dropped, and answers from before won't do: whoever asks, asks anew.
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
                self._news.overrule(told.answer.position)

    def clear(self) -> None:
        """Drop everything that is known."""
        with self._lock:
            self._begin_again(self._journal)

    def info(self) -> CacheInfo:
        """Return how the cache does."""
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


def _head_chars(authority: str) -> int:
    """Return how many characters it takes to show an authority's name, a kid and a nonce. The last one may also show
    bits of ``m``, which is the same in all of a lineage."""
    whole = write(authority.encode(), bytes(IDENTIFIER_BYTES), [], bytes(SIGNATURE_BYTES))
    identifier_at = len(whole) - TRAILER_BYTES - 1 - IDENTIFIER_BYTES
    return len(PREFIX) + ceil((identifier_at + LINEAGE.stop) * 8 / 6)


def _ancestor(lineage: Lineage, text: str, since_ms: int) -> tuple[Entry, bytes] | None:
    """Return the longest entry that a token descends from, or is, and that is as fresh as that; and the token's bytes
    behind that entry's.

    All that stands before is compared, not the entry's tail alone: a chain can be walked from a tail under any prefix.
    """
    for entry in lineage.entries:
        if entry.is_fresh(since_ms) and (rest := decode_rest(entry.stem, text)) is not None:
            return entry, rest
    return None


def _adds(rest: bytes) -> bool:
    """Return whether the ``rest`` of a token is more than its trailer: a caveat that what is known doesn't have."""
    return not rest.startswith(TRAILER_HEAD)


def _outside(revocation: api.Revocation, entry: Entry) -> bool:
    """Whether it is certain that an entry isn't revoked."""
    return covers(revocation, entry.verified.macaroon, entry.verified.subject) is False
