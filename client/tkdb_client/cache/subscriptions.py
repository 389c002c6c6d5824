"""The root keys whose revocations are followed: up to which position, and as of when.

What a key is known by is an unbroken run of the feed: everything that touched it after the position ``since`` has been
heard, up to ``position``; and as of the moment ``dated_ms`` there was no more than that. So what was verified at
``since`` or later, and wasn't dropped, is as good as if it had been verified at ``dated_ms``.

A poll carries at most 1,024 keys, and takes a while: it is a long poll. Several may be under way at once, each a
follower's: of keys that are new, or beyond the first thousand. A key is polled by one follower or by several, never by
none for long; and a follower that finds its keys in the poll of another, larger one, ends.

>>> followed = Followed()
>>> followed.key(b"k" * 16, position=7)
Key(kid=b'kkkkkkkkkkkkkkkk', since=7, position=7, dated_ms=-1152921504606846976)
>>> number = followed.enlist(now_ms=0)
>>> poll = followed.next_poll(number, due_ms=2_000)
>>> poll.after, poll.kids == (b"k" * 16,)
(7, True)
>>> followed.heard(number, poll, position=9, dated_ms=1_500)
>>> followed.key(b"k" * 16, position=8)
Key(kid=b'kkkkkkkkkkkkkkkk', since=7, position=9, dated_ms=1500)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tkdb import api

ENLIST_MS: Final = 5_000
"""How long a new follower may take to begin."""
NEVER_MS: Final = -(2**60)
"""A moment that is before all others."""


@dataclass(slots=True)
class Key:
    """How far one root key is followed.

    Attributes:
        kid: its name.
        since: after this position, nothing about it was missed.
        position: up to here.
        dated_ms: as of this moment, by the monotonic clock, there was no more.
    """

    kid: bytes
    since: int
    position: int
    dated_ms: int = NEVER_MS


@dataclass(frozen=True, slots=True)
class Poll:
    """One long poll: what touches ``kids`` after ``after``."""

    kids: tuple[bytes, ...]
    after: int


class Followed:
    """The keys, and who is polling which. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Key] = {}
        self._polls: dict[int, tuple[Poll | None, int]] = {}  # by follower: its poll, and when it must be back
        self._last = 0
        self._may_be_free = False

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def key(self, kid: bytes, *, position: int) -> Key:
        """Return the key of that name; where it isn't followed, it is from ``position`` on."""
        key = self._keys.get(kid)
        if key is None:
            key = self._keys[kid] = Key(kid, position, position)
            self._may_be_free = True
        return key

    def leave(self, kid: bytes) -> None:
        """Follow a key no more."""
        self._keys.pop(kid, None)

    def clear(self) -> None:
        """Follow no key any more. What the polls under way bring counts for nothing."""
        self._keys.clear()
        self._polls = {number: (None, due_ms) for number, (_, due_ms) in self._polls.items()}

    def enlist(self, *, now_ms: int) -> int | None:
        """Return the number of a new follower, if there are keys that nobody polls, and not enough followers.

        A follower that isn't back in time is given up: its thread or its process is gone (a fork).
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
        """Return what a follower is to poll next, to be back by ``due_ms``; None: nothing, it isn't needed any more."""
        self._polls.pop(number, None)
        self._may_be_free = True
        kids = list(islice(self._free(), api.MAX_KIDS))
        for other in [poll for poll, _ in self._polls.values() if poll is not None and len(poll.kids) < len(kids)]:
            # These are polled twice until the other one is back. It then finds nothing to do.
            known = set(kids)
            kids += [kid for kid in other.kids if kid in self._keys and kid not in known]
        if not kids:
            return None
        keys = [self._keys[kid] for kid in kids[: api.MAX_KIDS]]
        poll = Poll(tuple(key.kid for key in keys), min(key.position for key in keys))
        self._polls[number] = poll, due_ms
        return poll

    def rest(self, number: int, *, due_ms: int) -> None:
        """A follower waits until ``due_ms`` before it goes on: its poll has failed. Its keys stay its own."""
        self._polls[number] = self._polls.get(number, (None, due_ms))[0], due_ms

    def dismiss(self, number: int) -> None:
        """A follower has ended."""
        if self._polls.pop(number, None) is not None:
            self._may_be_free = True

    def is_polling(self, number: int, poll: Poll) -> bool:
        """Return whether ``poll`` is still what that follower is to bring."""
        return self._polls.get(number, (None, 0))[0] is poll

    def heard(self, number: int, poll: Poll, *, position: int, dated_ms: int) -> None:
        """A follower has brought everything up to ``position``, and as of ``dated_ms`` there was no more."""
        if not self.is_polling(number, poll):
            return
        for key in filter(None, map(self._keys.get, poll.kids)):
            if poll.after <= key.position <= position:  # else there would be a gap, or nothing new
                key.position = position
            if poll.after <= key.position and dated_ms > key.dated_ms:
                key.dated_ms = dated_ms

    def _free(self) -> dict[bytes, None]:
        polled = {kid for poll, _ in self._polls.values() if poll is not None for kid in poll.kids}
        return {kid: None for kid in self._keys if kid not in polled}
