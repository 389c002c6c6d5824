"""The feed, followed: what it tells goes into the cache, for as long as the cache is in use.

A follower is a call that goes on beside the others: it asks for news of the keys that the cache knows, by a long poll,
at whatever region answers, and asks again from the position that it has come to. It begins when a key is to be followed
that nobody polls, and ends when there is none, when nothing was looked up for a while, or when the client is closed.

A poll is held for a fifth of the bound. So when one hangs until its time-out, another can still be answered before what
is known is too old. After a failure, the next isn't held at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tkdb import api, errors
from tkdb_client.cache.cache import Cache
from tkdb_client.cache.subscriptions import Poll
from tkdb_client.calls.call import Exchange
from tkdb_client.calls.effects import Aside, Sleep, Steps

HOLDS_A_BOUND: Final = 5
REST_MS: Final = 500
"""Between a failed poll and the next, with full jitter: each has gone round the regions itself, with pauses."""
SLACK_MS: Final = 2_000
"""How much later than its deadline a poll may be back before its follower is given up."""


class Feed:
    """Follows the revocations that touch what ``cache`` knows.

    Args:
        exchange: makes the calls.
        cache: what is followed, and who is told.
        bound_ms: how old what the cache serves may be.
        timeout_ms: how long a call may take besides its wait.
        monotonic_ms: the clock that the cache goes by.
        random: returns so many random bytes.
    """

    def __init__(
        self,
        exchange: Exchange,
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
        """Begin to follow, if there is something that nobody follows."""
        follower = self._cache.enlist()
        if follower is not None:
            yield Aside(self._follow(follower))

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
                    # Whatever it is: what is known grows old, and callers learn why when they ask for themselves.
                    pause_ms, wait_ms = self._some(REST_MS), 0
                if pause_ms:
                    self._cache.rest(follower, pause_ms + SLACK_MS)
                    yield Sleep(pause_ms)
        finally:
            self._cache.dismiss(follower)

    def _poll(self, follower: int, poll: Poll, wait_ms: int) -> Steps[int]:
        """Ask once; return how long to pause."""
        began_ms = self._monotonic_ms()
        call = api.Revocations(kids=list(poll.kids), after=poll.after, wait_ms=wait_ms)
        feed, told = yield from self._exchange.ask(api.VERIFY, call, wait_ms=wait_ms)
        self._exchange.saw(told.answer.journal, feed.position)  # from now on, nobody will do who hasn't come as far
        self._cache.hear(follower, poll, feed, told)
        was_held = feed.revocations or feed.more or self._monotonic_ms() - began_ms >= wait_ms // 2
        return 0 if was_held else self._some(wait_ms)  # it is draining, say: it isn't to be asked in a circle

    def _some(self, most_ms: int) -> int:
        return 1 + most_ms * self._random(1)[0] // 256
