"""The faults of the testing network, as values: ``with authority.faulty(Slow(2_000), "syd"): ...``

=================  ============================================================================================
``Down()``         no machine is there: connections are refused
``Silent()``       the request is accepted, and no response ever comes
``Slow(ms)``       the answer takes that long
``AnswersLost()``  the authority carries out the request, and its answer gets lost
``Stale()``        the machine reports that it can't prove that it is fresh enough
``Failing(e)``     the authority answers with this error
=================  ============================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tkdb import errors
from tkdb_client.calls.transport import Lost, Outcome


class Passage(Protocol):
    """One request on its way, with its possible outcomes."""

    timeout_ms: int

    def answered(self) -> Outcome | None:
        """Return the authority's answer, or None while it holds it back (a long poll)."""

    def failed(self, error: errors.TkdbError) -> Outcome:
        """Return an answer of the authority with ``error``."""

    def has_taken(self, ms: int) -> bool:
        """Let ``ms`` pass since the request was sent. Return False if they haven't passed yet."""


class Fault(Protocol):
    """Decides the outcome of requests."""

    def meet(self, passage: Passage) -> Outcome | None:
        """Return the outcome of one request, or None while the authority holds it."""


@dataclass(frozen=True, slots=True)
class Sound:
    """No fault."""

    def meet(self, passage: Passage) -> Outcome | None:
        """Return the authority's answer."""
        return passage.answered()


@dataclass(frozen=True, slots=True)
class Down:
    """No machine is there: connections are refused."""

    def meet(self, passage: Passage) -> Outcome | None:
        """Return the loss of a request that was never sent."""
        return Lost("the connection was refused", sent=False)


@dataclass(frozen=True, slots=True)
class Silent:
    """The request is accepted, and no response ever comes."""

    def meet(self, passage: Passage) -> Outcome | None:
        """Return the loss of an attempt after its whole timeout."""
        if not passage.has_taken(passage.timeout_ms):
            return None
        return Lost(f"no answer within {passage.timeout_ms} ms", silent=True)


@dataclass(frozen=True, slots=True)
class Slow:
    """The answer takes ``ms``. If that is longer than an attempt's timeout, it comes too late."""

    ms: int

    def meet(self, passage: Passage) -> Outcome | None:
        """Return the late answer, or its loss. The authority carries out the request in any case."""
        if not passage.has_taken(min(self.ms, passage.timeout_ms)):
            return None
        answer = passage.answered()
        return (
            Lost(f"no answer within {passage.timeout_ms} ms", silent=True) if self.ms > passage.timeout_ms else answer
        )


@dataclass(frozen=True, slots=True)
class AnswersLost:
    """The authority carries out the request, and its answer gets lost."""

    def meet(self, passage: Passage) -> Outcome | None:
        """Return a loss, as when a connection breaks."""
        passage.answered()
        return Lost("the connection broke off without a whole answer")


@dataclass(frozen=True, slots=True)
class Failing:
    """The authority answers with ``error``: ``Failing(errors.Overloaded("too much at once"))``."""

    error: errors.TkdbError

    def meet(self, passage: Passage) -> Outcome | None:
        """Return a sealed answer with the error."""
        return passage.failed(self.error)


@dataclass(frozen=True, slots=True)
class Stale:
    """The machine can't prove that its data is fresh enough to include every revocation, and reports it."""

    def meet(self, passage: Passage) -> Outcome | None:
        """Return the denial. A client then asks another machine, if there is one."""
        return passage.failed(errors.StaleAuthority("this machine lags behind", hint="ask another region"))
