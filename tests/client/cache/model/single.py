"""One cache that a test drives step by step: without a client or a network, and with a clock that the test sets."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from tests.client.cache.model.realm import NAME, NOW_MS, Realm
from tkdb import api, errors
from tkdb.macaroon.access import Policy
from tkdb.macaroon.bundle import Bundle
from tkdb.macaroon.token import Macaroon
from tkdb_client.cache.cache import Cache
from tkdb_client.calls.attempt import Reply
from tkdb_client.verified import Verified

BOUND_MS = 5_000


def digest(bundle: Bundle) -> bytes:
    return sha256(bundle.text.encode()).digest()


def branch_of(token: Macaroon) -> api.Branch:
    return api.Branch(token.kid, token.nonce, token.branch)


class Single:
    """One cache and the realm whose tokens it stores."""

    def __init__(self, kind: type[Cache] = Cache, *, max_bytes: int = 1 << 20) -> None:
        self.realm = Realm()
        self.now_ms = 100_000
        self.cache = kind(
            NAME,
            Policy(clock=lambda: NOW_MS / 1000),
            max_bytes=max_bytes,
            bound_ms=BOUND_MS,
            monotonic_ms=lambda: self.now_ms,
        )

    def reply(self, *, known: int | None = None, age_ms: int = 0, sent_ms: int | None = None, asked: int = 0) -> Reply:
        """Return the answer of a machine that knows the first ``known`` entries. Default: all entries."""
        known = len(self.realm.entries) if known is None else known
        journal = self.realm.journal
        answer = api.Answer(journal.id, journal.position(known), age_ms)
        return Reply(answer, self.now_ms if sent_ms is None else sent_ms, asked)

    def ask(self, token: Macaroon | Bundle, reply: Reply | None = None, question: Any = None) -> Any:
        """Verify a token at the authority, and store the result in the cache."""
        reply = reply or self.reply()
        bundle = Bundle(token) if isinstance(token, Macaroon) else token
        question = question or self.cache.open()
        known = reply.answer.position - self.realm.journal.position(0)
        try:
            result = self.realm.verify(bundle.text, known)
            return self.cache.take(question, bundle, digest(bundle), result, reply)
        finally:
            self.cache.close(question)

    def get(self, token: Macaroon | str) -> Verified | None:
        return self.cache.get(token if isinstance(token, str) else token.text)

    def find(self, token: Macaroon) -> Verified | errors.Denied | None:
        bundle = Bundle(token)
        return self.cache.find(bundle, digest(bundle))

    def poll(self, *, age_ms: int = 0, limit: int = 10**9) -> None:
        """Follow the feed to its end."""
        follower = self.cache.enlist()
        assert follower is not None
        poll = self.cache.next_poll(follower, 10_000)
        while poll is not None:
            known = len(self.realm.entries)
            feed = self.realm.feed(list(poll.kids), self.realm.journal, poll.after, known, limit)
            self.cache.apply(follower, poll, feed, self.reply(age_ms=age_ms))
            if not feed.more:
                break
            poll = self.cache.next_poll(follower, 10_000)
        self.cache.dismiss(follower)
