"""News during requests in flight: the feed's revocations, kept while a query is open that was sent before them.

The answer to a verification describes the state at its position. If it is late, the feed may already have reported a
revocation that the answer doesn't include. So the feed's news is kept until the last query is answered that was open at
that time, and each answer is compared with it. If there is too much news, it isn't kept, and all those queries are sent
again.

>>> news = InFlight(most=2)
>>> question = news.open()
>>> news.record(5, [api.KeyRetired(kid=b"k" * 16)])
>>> list(news.unknown_to(question, position=4)), list(news.unknown_to(question, position=5))
([KeyRetired(kid=b'kkkkkkkkkkkkkkkk')], [])
>>> news.close(question)
>>> len(news)
0
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tkdb import api

MOST: Final = 10_000
"""The largest number of kept revocations, where each key and subject in one counts: about 2 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A verification that was sent and isn't answered.

    Attributes:
        era: the era of the journal that was followed when it was sent.
        floor: the known position when it was sent. An answer from before it is too old.
        first: the number of the first news after it was sent.
    """

    era: int
    floor: int
    first: int


class InFlight:
    """The feed's news while queries are open. Not safe for threads without a lock.

    Args:
        most: the largest number of kept revocations, where each key and subject in one counts.
    """

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self.era = 0
        self._begin()

    def __len__(self) -> int:
        return len(self._told)

    def clear(self) -> None:
        """Begin a new era, for another journal: positions have another meaning, and earlier queries belong to the
        old era."""
        self.era += 1
        self._begin()

    def _begin(self) -> None:
        self._told: deque[tuple[int, api.Revocation]] = deque()
        self._weight = 0
        self._first = 0  # the number of the first of them
        self._known = 0  # the last position with any news
        self._lost = 0  # the last position whose news may not have been kept
        self._open: set[Query] = set()

    def open(self) -> Query:
        """Open a query that is about to be sent. It must be closed."""
        question = Query(self.era, self._known, self._first + len(self._told))
        self._open.add(question)
        return question

    def close(self, question: Query) -> None:
        """Record that the query was answered, or never will be."""
        self._open.discard(question)
        oldest = min((each.first for each in self._open), default=self._first + len(self._told))
        while self._first < oldest:
            _, revocation = self._told.popleft()
            self._weight -= _weight(revocation)
            self._first += 1

    def record(self, position: int, revocations: Sequence[api.Revocation]) -> None:
        """Record that the feed has reached ``position``, with these revocations."""
        self._known = max(self._known, position)
        if not self._open:
            return
        self._told.extend((position, revocation) for revocation in revocations)
        self._weight += sum(map(_weight, revocations))
        if self._weight > self._most:
            self._first += len(self._told)
            self._told.clear()
            self._weight = 0
            self._lost = max(self._lost, position)

    def overrule(self, position: int) -> None:
        """Record a change at ``position`` that open queries must include: earlier answers are too old."""
        self._known = max(self._known, position)
        self._lost = max(self._lost, position)

    def is_outdated(self, question: Query, position: int) -> bool:
        """Return True if an answer from ``position`` is older than the known news, and so proves nothing."""
        return position < question.floor or position < self._lost

    def unknown_to(self, question: Query, position: int) -> Iterator[api.Revocation]:
        """Yield the news that an answer from ``position`` to ``question`` may lack."""
        for number, (told_at, revocation) in enumerate(self._told, self._first):
            if number >= question.first and told_at > position:
                yield revocation


def _weight(revocation: api.Revocation) -> int:
    """Return how many keys and subjects a revocation names."""
    return len(revocation.kids) + len(revocation.subjects) if isinstance(revocation, api.IssuedBefore) else 1
