"""What a request may meet on its way, as values: ``with authority.faulty(Slow(2_000), "syd"): ...``

=================  ============================================================================================
``Down()``         nobody is there: connections are refused
``Silent()``       the request is taken, and nothing ever comes back
``Slow(ms)``       the answer takes that long
``AnswersLost()``  the authority does what is asked, and its answer gets lost
``Stale()``        the machine can't show that it is fresh enough, and says so
``Failing(e)``     the authority answers with this error
=================  ============================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tkdb import errors
from tkdb_client.calls.transport import Lost, Outcome


class Passage(Protocol):
    """One request on its way, and what can become of it."""

    timeout_ms: int

    def answered(self) -> Outcome | None:
        """Return the authority's answer; None while it holds it back (a long poll)."""

    def failed(self, error: errors.TkdbError) -> Outcome:
        """Return the authority's answer that says ``error``."""

    def has_taken(self, ms: int) -> bool:
        """Let ``ms`` pass since the request was sent; return False where that isn't over yet."""


class Fault(Protocol):
    """Decides what becomes of requests."""

    def meet(self, passage: Passage) -> Outcome | None:
        """Return the outcome of one request; None while the authority holds it."""


@dataclass(frozen=True, slots=True)
class Sound:
    """No fault."""

    def meet(self, passage: Passage) -> Outcome | None:
        """The authority answers."""
        return passage.answered()


@dataclass(frozen=True, slots=True)
class Down:
    """Nobody is there: connections are refused."""

    def meet(self, passage: Passage) -> Outcome | None:
        """The request never leaves."""
        return Lost("the connection was refused", sent=False)


@dataclass(frozen=True, slots=True)
class Silent:
    """The request is taken, and nothing ever comes back."""

    def meet(self, passage: Passage) -> Outcome | None:
        """The attempt takes all its time."""
        if not passage.has_taken(passage.timeout_ms):
            return None
        return Lost(f"no answer within {passage.timeout_ms} ms", silent=True)


@dataclass(frozen=True, slots=True)
class Slow:
    """The answer takes ``ms``: more than an attempt may take, and it comes too late."""

    ms: int

    def meet(self, passage: Passage) -> Outcome | None:
        """The authority does what is asked in any case."""
        if not passage.has_taken(min(self.ms, passage.timeout_ms)):
            return None
        answer = passage.answered()
        return (
            Lost(f"no answer within {passage.timeout_ms} ms", silent=True) if self.ms > passage.timeout_ms else answer
        )


@dataclass(frozen=True, slots=True)
class AnswersLost:
    """The authority does what is asked, and its answer gets lost."""

    def meet(self, passage: Passage) -> Outcome | None:
        """As when a connection breaks."""
        passage.answered()
        return Lost("the connection broke off without a whole answer")


@dataclass(frozen=True, slots=True)
class Failing:
    """The authority answers with ``error``: ``Failing(errors.Overloaded("too much at once"))``."""

    error: errors.TkdbError

    def meet(self, passage: Passage) -> Outcome | None:
        """It says so in a sealed answer."""
        return passage.failed(self.error)


@dataclass(frozen=True, slots=True)
class Stale:
    """The machine can't show that it is fresh enough to know of every revocation, and says so."""

    def meet(self, passage: Passage) -> Outcome | None:
        """A client asks another machine, while there is one."""
        return passage.failed(errors.StaleAuthority("this machine lags behind", hint="ask another region"))
