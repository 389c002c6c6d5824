"""The phases of a machine's life: starting, serving, draining."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tkdb import errors
from tkdb.channel.server import Responder
from tkdb.ports import Service
from tkdb.server import problems
from tkdb.server.problems import Problem, ProblemError, from_unavailable


class Lifecycle:
    """The state that all endpoints share: the service once it is open, and whether the machine is shutting down."""

    def __init__(self) -> None:
        self._serving: tuple[Service, Responder] | None = None
        self.draining = False

    def start(self, service: Service, responder: Responder) -> None:
        """Answer requests from now on, because the service is open."""
        self._serving = (service, responder)

    def drain(self) -> None:
        """Begin a planned shutdown: the machine isn't ready any more and long polls end, but requests are answered."""
        self.draining = True
        if self._serving is not None:
            self._serving[0].drain()

    def serving(self) -> tuple[Service, Responder]:
        """Return the service and its responder.

        Raises:
            ProblemError: the service isn't open yet.
        """
        if self._serving is None:
            raise ProblemError(problems.STARTING, "the database is being opened")
        return self._serving

    def check_ready(self) -> None:
        """Check that a proxy should send requests here.

        Raises:
            ProblemError: the machine is starting or draining, or the service gives a reason against it.
        """
        if self.draining:
            raise ProblemError(problems.DRAINING, "send the request to another machine")
        service, _ = self.serving()
        with _problem(problems.NOT_READY):
            service.ready()

    def check_replication(self) -> None:
        """Check that no operator needs to act. While the machine shuts down, the check always passes.

        Raises:
            ProblemError: the machine is starting, or the service reports a fault.
        """
        service, _ = self.serving()
        if not self.draining:
            with _problem(problems.NOT_REPLICATING):
                service.replicating()


@contextmanager
def _problem(problem: Problem) -> Iterator[None]:
    """Turn errors of tkdb into ``problem``."""
    try:
        yield
    except errors.Unavailable as error:
        raise from_unavailable(problem, error) from None
    except errors.TkdbError as error:
        raise ProblemError(problem, str(error)) from None
