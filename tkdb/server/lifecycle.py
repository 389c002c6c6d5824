"""Where a machine is in its life: starting, serving, draining."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tkdb import errors
from tkdb.channel.server import Responder
from tkdb.ports import Service
from tkdb.server import problems
from tkdb.server.problems import Problem, ProblemError, from_unavailable


class Lifecycle:
    """What the endpoints share: the service once it is open, and whether it is being shut down."""

    def __init__(self) -> None:
        self._serving: tuple[Service, Responder] | None = None
        self.draining = False

    def start(self, service: Service, responder: Responder) -> None:
        """The service is open: requests are answered from now on."""
        self._serving = (service, responder)

    def drain(self) -> None:
        """Shut down by plan: not ready any more, long polls end; requests are still answered."""
        self.draining = True
        if self._serving is not None:
            self._serving[0].drain()

    def serving(self) -> tuple[Service, Responder]:
        """Return what answers.

        Raises:
            ProblemError: it isn't open yet.
        """
        if self._serving is None:
            raise ProblemError(problems.STARTING, "the database is being opened")
        return self._serving

    def check_ready(self) -> None:
        """Return if a proxy should send requests here.

        Raises:
            ProblemError: starting, draining, or the service says why not.
        """
        if self.draining:
            raise ProblemError(problems.DRAINING, "another machine answers")
        service, _ = self.serving()
        with _problem(problems.NOT_READY):
            service.ready()

    def check_replication(self) -> None:
        """Return if nobody has to look after the machines. One that is being shut down says nothing of them.

        Raises:
            ProblemError: starting, or the service says what is wrong.
        """
        service, _ = self.serving()
        if not self.draining:
            with _problem(problems.NOT_REPLICATING):
                service.replicating()


@contextmanager
def _problem(problem: Problem) -> Iterator[None]:
    """Turn our errors into ``problem``."""
    try:
        yield
    except errors.Unavailable as error:
        raise from_unavailable(problem, error) from None
    except errors.TkdbError as error:
        raise ProblemError(problem, str(error)) from None
