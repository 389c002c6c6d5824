"""The root keys whose revocations the client follows: the position of each, and the age of its data.

The data about a key is an unbroken part of the feed: every revocation that affects it after the position ``since``, up
to ``position``. At the time ``dated_ms`` there were no others. So a result that was verified at ``since`` or later, and
wasn't dropped, is as good as if it had been verified at ``dated_ms``.

A poll contains at most 1,024 keys, and takes long: it is a long poll. Several may be in flight, one for each follower:
of new keys, or of keys beyond the first thousand. A key may be polled by several followers, and is never without one
for long. A follower that finds all its keys in another follower's larger poll ends.

>>> followed = Subscriptions()
>>> followed.key(b"k" * 16, position=7)
Subscription(kid=b'kkkkkkkkkkkkkkkk', since=7, position=7, dated_ms=-1152921504606846976)
>>> number = followed.enlist(now_ms=0)
>>> poll = followed.next_poll(number, due_ms=2_000)
>>> poll.after, poll.kids == (b"k" * 16,)
(7, True)
>>> followed.heard(number, poll, position=9, dated_ms=1_500)
>>> followed.key(b"k" * 16, position=8)
Subscription(kid=b'kkkkkkkkkkkkkkkk', since=7, position=9, dated_ms=1500)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tkdb import api

ENLIST_MS: Final = 5_000
"""The longest time until a new follower begins."""
NEVER_MS: Final = -(2**60)
"""A time before all others."""


@dataclass(slots=True)
class Subscription:
    """The subscription to one root key.

    Attributes:
        kid: the key's name.
        since: no revocation of the key after this position was missed.
        position: the last position that was received.
        dated_ms: at this time of the monotonic clock there were no other revocations.
    """

    kid: bytes
    since: int
    position: int
    dated_ms: int = NEVER_MS


@dataclass(frozen=True, slots=True)
class Poll:
    """One long poll: the revocations that affect ``kids`` after ``after``."""

    kids: tuple[bytes, ...]
    after: int


class Subscriptions:
    """The subscriptions, and the followers that poll them. Not safe for threads without a lock."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Subscription] = {}
        # By follower: its poll, and the time by which the poll must return.
        self._polls: dict[int, tuple[Poll | None, int]] = {}
        self._last = 0
        self._may_be_free = False

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._keys.values())

    def key(self, kid: bytes, *, position: int) -> Subscription:
        """Return the subscription with this name. A new one begins at ``position``."""
        key = self._keys.get(kid)
        if key is None:
            key = self._keys[kid] = Subscription(kid, position, position)
            self._may_be_free = True
        return key

    def leave(self, kid: bytes) -> None:
        """End a subscription."""
        self._keys.pop(kid, None)

    def clear(self) -> None:
        """End all subscriptions. The results of polls in flight don't count any more."""
        self._keys.clear()
        self._polls = {number: (None, due_ms) for number, (_, due_ms) in self._polls.items()}

    def enlist(self, *, now_ms: int) -> int | None:
        """Return the number of a new follower if there are keys that no follower polls, and not too many followers.
        Otherwise None.

        A follower that doesn't return in time is given up: its thread or its process is gone (after a fork).
        """
        for number in [number for number, (_, due_ms) in self._polls.items() if now_ms > due_ms]:
            self.dismiss(number)
        enough = -(-len(self._keys) // api.MAX_KIDS) + 1
        if not self._may_be_free or len(self._polls) >= enough:
            return None
        self._may_be_free = bool(self._free())
        if not self._may_be_free:
            return None
        self._last += 1
        self._polls[self._last] = None, now_ms + ENLIST_MS
        return self._last

    def next_poll(self, number: int, *, due_ms: int) -> Poll | None:
        """Return the next poll of a follower, which must return by ``due_ms``. None: the follower isn't needed any
        more."""
        self._polls.pop(number, None)
        self._may_be_free = True
        kids = list(islice(self._free(), api.MAX_KIDS))
        for other in [poll for poll, _ in self._polls.values() if poll is not None and len(poll.kids) < len(kids)]:
            # These keys are polled twice until the other follower returns. It then finds nothing to do.
            known = set(kids)
            kids += [kid for kid in other.kids if kid in self._keys and kid not in known]
        if not kids:
            return None
        keys = [self._keys[kid] for kid in kids[: api.MAX_KIDS]]
        poll = Poll(tuple(key.kid for key in keys), min(key.position for key in keys))
        self._polls[number] = poll, due_ms
        return poll

    def rest(self, number: int, *, due_ms: int) -> None:
        """Record that a follower waits until ``due_ms``, because its poll has failed. Its keys stay assigned to it."""
        self._polls[number] = self._polls.get(number, (None, due_ms))[0], due_ms

    def dismiss(self, number: int) -> None:
        """Record that a follower has ended."""
        if self._polls.pop(number, None) is not None:
            self._may_be_free = True

    def is_polling(self, number: int, poll: Poll) -> bool:
        """Return True if ``poll`` is still the follower's current poll."""
        return self._polls.get(number, (None, 0))[0] is poll

    def heard(self, number: int, poll: Poll, *, position: int, dated_ms: int) -> None:
        """Record that a follower has received everything up to ``position``, and that there was no more at
        ``dated_ms``."""
        if not self.is_polling(number, poll):
            return
        for key in filter(None, map(self._keys.get, poll.kids)):
            if poll.after <= key.position <= position:  # otherwise there would be a gap, or nothing new
                key.position = position
            if poll.after <= key.position and dated_ms > key.dated_ms:
                key.dated_ms = dated_ms

    def _free(self) -> dict[bytes, None]:
        polled = {kid for poll, _ in self._polls.values() if poll is not None for kid in poll.kids}
        return {kid: None for kid in self._keys if kid not in polled}
