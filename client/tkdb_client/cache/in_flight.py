"""News that may overtake an answer: the feed's revocations, kept while a question is open that was asked before.

The answer to a verification says how things stood at its position. When it is late, the feed may have told meanwhile
of a revocation that it knows nothing of. So what the feed tells is kept until the last question has been answered that
was open then, and held against each answer. Too much of it isn't kept: then all those questions are asked again.

>>> news = News(most=2)
>>> question = news.open()
>>> news.tell(5, [api.KeyRetired(kid=b"k" * 16)])
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
"""How many revocations are kept, each key and subject that one names counted: about 2 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A verification that has been asked and not been answered.

    Attributes:
        era: of the journal that was followed when it was asked.
        floor: what was known up to this position when it was asked: no answer from before it will do.
        first: the number of the first news that came after it was asked.
    """

    era: int
    floor: int
    first: int


class News:
    """What the feed has told while questions are open. Not safe for threads by itself.

    Args:
        most: how many revocations are kept at most, each key and subject that one names counted.
    """

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self.era = 0
        self._begin()

    def __len__(self) -> int:
        return len(self._told)

    def clear(self) -> None:
        """Another journal: positions mean something else, and what was asked before is of another era."""
        self.era += 1
        self._begin()

    def _begin(self) -> None:
        self._told: deque[tuple[int, api.Revocation]] = deque()
        self._weight = 0
        self._first = 0  # the number of the first of them
        self._known = 0  # what was ever told goes up to here
        self._lost = 0  # and up to here it may have been told without being kept
        self._open: set[Question] = set()

    def open(self) -> Question:
        """A question is about to be asked. It must be closed."""
        question = Question(self.era, self._known, self._first + len(self._told))
        self._open.add(question)
        return question

    def close(self, question: Question) -> None:
        """It was answered, or never will be."""
        self._open.discard(question)
        oldest = min((each.first for each in self._open), default=self._first + len(self._told))
        while self._first < oldest:
            _, revocation = self._told.popleft()
            self._weight -= _weight(revocation)
            self._first += 1

    def tell(self, position: int, revocations: Sequence[api.Revocation]) -> None:
        """The feed has come to ``position``, with these."""
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
        """Something has changed at ``position`` that open questions must know of: answers from before won't do."""
        self._known = max(self._known, position)
        self._lost = max(self._lost, position)

    def is_outdated(self, question: Question, position: int) -> bool:
        """Return whether an answer from ``position`` is from before what is known, so that it says nothing."""
        return position < question.floor or position < self._lost

    def unknown_to(self, question: Question, position: int) -> Iterator[api.Revocation]:
        """Yield the news that an answer from ``position`` to ``question`` may know nothing of."""
        for number, (told_at, revocation) in enumerate(self._told, self._first):
            if number >= question.first and told_at > position:
                yield revocation


def _weight(revocation: api.Revocation) -> int:
    """Return how many keys and subjects a revocation names."""
    return len(revocation.kids) + len(revocation.subjects) if isinstance(revocation, api.IssuedBefore) else 1
