"""The work for one request, in any form (Noise or plain JSON): its body, its place and its deadline.

A request gets a place once its body is complete. So callers who send slowly take no place from anyone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tkdb import api, errors, logs
from tkdb.ports import Caller, Service
from tkdb.server import problems
from tkdb.server.arrivals import Arrivals, GivenUp
from tkdb.server.asgi import APP, BodyTooLarge, Disconnected, Header, LengthRequired, Receive, Scope, read_body
from tkdb.server.limits import Admission, Limits, Permit
from tkdb.server.problems import ProblemError, retry_after

_AGAIN: Final = "try again; the machine's log has more details"
_REPEAT: Final = "repeat the request with the same request id"


class Work:
    """The admission, reading and answering of requests, each within the limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.gate = Admission(active_max=limits.active_max, waiting_max=limits.waiting_max)
        self.arrivals = Arrivals(count_max=limits.arriving_max, bytes_max=limits.arriving_bytes)
        self._writes: set[asyncio.Task[msgspec.Struct]] = set()

    def enter(self, scope: Scope, *, overloaded: Iterable[Header] = ()) -> Permit:
        """Return a place for one request. ``overloaded``: the headers of the response if there is none.

        Raises:
            ProblemError: there is no place for one more request of the caller's app.
        """
        try:
            return self.gate.enter(scope.get(APP, ""))
        except errors.Overloaded as error:
            delay = retry_after(error.retry_after_ms or 0)
            raise ProblemError(problems.OVERLOADED, str(error), headers=[delay, *overloaded]) from None

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            ProblemError: it has no length, is too large, arrives too slowly, or was given up for newer ones.
            Disconnected: the caller disconnected.
        """
        try:
            return await read_body(scope, receive, self.limits, self.arrivals)
        except LengthRequired:
            detail = "a body must be sent with a Content-Length, not in chunks"
            raise ProblemError(problems.LENGTH_REQUIRED, detail, close=True) from None
        except BodyTooLarge:
            detail = f"a body may have at most {self.limits.body_bytes} bytes"
            raise ProblemError(problems.TOO_LARGE, detail, close=True) from None
        except TimeoutError:
            detail = (
                f"a body must be complete within {self.limits.read_ms} ms, "
                f"and 1 s more for each {self.limits.read_bytes_per_s} bytes"
            )
            raise ProblemError(problems.SLOW_REQUEST, detail, close=True) from None
        except GivenUp:
            detail = "too many bodies are arriving, and this is the oldest"
            raise ProblemError(problems.OVERLOADED, detail, headers=[retry_after(0)], close=True) from None

    async def catch_up(self, service: Service, position: int, place: Permit) -> None:
        """Wait until ``service`` serves ``position``.

        The wait takes a long poll's place, so a caller that claims a position in the future blocks no active request.

        Raises:
            Unavailable: the service doesn't reach the position within a moment.
            Overloaded: there is no place for the wait, or none for the request after it.
        """
        if position > service.position:
            place.wait()
            await service.come_to(position)
            place.resume()

    async def answer(
        self, service: Service, call: api.Call[Any], caller: Caller, place: Permit, receive: Receive
    ) -> msgspec.Struct:
        """Return the result of ``call``, within its deadline.

        Raises:
            TkdbError: the call fails. An unforeseen error becomes ``Unavailable``, or ``OutcomeUnknown`` for a write.
            Disconnected: the caller of a long poll disconnected.
        """
        try:
            if caller.path in api.WRITING_PATHS:
                return await self._write(service, call, caller)
            if isinstance(call, api.Revocations) and call.wait_ms:
                place.wait()
                return await self._wait(service, call, caller, receive)
            async with asyncio.timeout(self.limits.answer_ms / 1000):
                return await service.answer(call, caller)
        except (errors.TkdbError, Disconnected):
            raise
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"there was no answer within {self.limits.answer_ms} ms", hint="try again"
            ) from None
        except Exception as error:  # noqa: BLE001  for any error, the caller gets a typed error, and the log its class
            logs.failure("unforeseen", error, path=caller.path)
            if caller.path in api.WRITING_PATHS:
                raise errors.OutcomeUnknown("the authority failed on this write", hint=_REPEAT) from None
            raise errors.Unavailable("the authority failed on this request", hint=_AGAIN) from None

    async def settle(self) -> None:
        """Wait for the writes that still run after their callers got ``OutcomeUnknown``."""
        if self._writes:
            await asyncio.wait(self._writes)

    async def _write(self, service: Service, call: api.Call[Any], caller: Caller) -> msgspec.Struct:
        # A write is never cancelled: a deadline ends only the wait for it, not the write.
        task = asyncio.create_task(service.answer(call, caller))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        done, _ = await asyncio.wait({task}, timeout=self.limits.answer_ms / 1000)
        if not done:
            task.add_done_callback(_log_late)
            raise errors.OutcomeUnknown(f"the write was not done within {self.limits.answer_ms} ms", hint=_REPEAT)
        return task.result()

    async def _wait(self, service: Service, call: api.Revocations, caller: Caller, receive: Receive) -> msgspec.Struct:
        answering = asyncio.create_task(service.answer(call, caller))
        leaving = asyncio.ensure_future(receive())
        limit_s = (call.wait_ms + self.limits.wait_slack_ms) / 1000
        try:
            done, _ = await asyncio.wait({answering, leaving}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if answering in done:
                return answering.result()
            if leaving in done:
                raise Disconnected
            raise TimeoutError
        finally:
            answering.cancel()
            leaving.cancel()


def _log_late(task: asyncio.Task[msgspec.Struct]) -> None:
    """Log the outcome of a write after its caller's deadline, so that its failure isn't lost."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, errors.TkdbError):
        logs.event(logging.INFO, "late write", outcome=error.code)
    elif error is not None:
        logs.failure("late write", error)
