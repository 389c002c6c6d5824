"""The follower of the feed: it passes the feed's news to the cache, for as long as the cache is in use.

A follower is a call in the background. It asks for news about the cached keys with a long poll, at any region that
answers, and asks again from the new position. It begins when a key has no follower. It ends when it has no keys, when
no token was looked up for a while, or when the client is closed.

A poll is held for at most a fifth of the bound. So if one hangs until its timeout, another can still be answered before
the data is too old. After a failure, the next poll isn't held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tkdb import api, errors
from tkdb_client.cache.cache import Cache
from tkdb_client.cache.subscriptions import Poll
from tkdb_client.calls.call import Calls
from tkdb_client.calls.effects import Background, Sleep, Steps

HOLDS_A_BOUND: Final = 5
REST_MS: Final = 500
"""The longest pause between a failed poll and the next one, with full jitter. Each poll has already tried all regions,
with pauses."""
SLACK_MS: Final = 2_000
"""How much later than its deadline a poll may return before its follower is given up."""


class FeedFollower:
    """Follows the revocations that affect the tokens in ``cache``.

    Args:
        exchange: makes the calls.
        cache: gets the news.
        bound_ms: the largest age of the cache's data.
        timeout_ms: the timeout of a call, in addition to its wait.
        monotonic_ms: the cache's clock.
        random: returns ``n`` random bytes.
    """

    def __init__(
        self,
        exchange: Calls,
        cache: Cache,
        *,
        bound_ms: int,
        timeout_ms: int,
        monotonic_ms: Callable[[], int],
        random: Callable[[int], bytes],
    ) -> None:
        self._exchange = exchange
        self._cache = cache
        self._hold_ms = min(bound_ms // HOLDS_A_BOUND, api.MAX_WAIT_MS)
        self._takes_ms = self._hold_ms + timeout_ms + SLACK_MS
        self._monotonic_ms = monotonic_ms
        self._random = random

    def begin(self) -> Steps[None]:
        """Begin to follow, if there are keys without a follower."""
        follower = self._cache.enlist()
        if follower is not None:
            yield Background(self._follow(follower))

    def _follow(self, follower: int) -> Steps[None]:
        wait_ms = self._hold_ms
        try:
            while (poll := self._cache.next_poll(follower, self._takes_ms)) is not None:
                try:
                    pause_ms = yield from self._poll(follower, poll, wait_ms)
                    wait_ms = self._hold_ms
                except errors.ConfigurationError:
                    return  # the client is closed
                except errors.TkdbError:
                    # After any error the data becomes older, and callers get the cause when they ask the authority
                    # themselves.
                    pause_ms, wait_ms = self._some(REST_MS), 0
                if pause_ms:
                    self._cache.rest(follower, pause_ms + SLACK_MS)
                    yield Sleep(pause_ms)
        finally:
            self._cache.dismiss(follower)

    def _poll(self, follower: int, poll: Poll, wait_ms: int) -> Steps[int]:
        """Poll once. Return how long to pause."""
        began_ms = self._monotonic_ms()
        call = api.Revocations(kids=list(poll.kids), after=poll.after, wait_ms=wait_ms)
        feed, told = yield from self._exchange.ask(api.VERIFY, call, wait_ms=wait_ms)
        # From now on, only a machine at this position or later may answer.
        self._exchange.saw(told.answer.journal, feed.position)
        self._cache.apply(follower, poll, feed, told)
        was_held = feed.revocations or feed.more or self._monotonic_ms() - began_ms >= wait_ms // 2
        # The machine may be draining, for example. It must not be asked in a tight loop.
        return 0 if was_held else self._some(wait_ms)

    def _some(self, most_ms: int) -> int:
        return 1 + most_ms * self._random(1)[0] // 256
