"""One request's work, whatever form it came in: its place, its body, its deadline."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec

from tkdb import api, errors, logs
from tkdb.ports import Caller, Service
from tkdb.server import problems
from tkdb.server.asgi import BodyTooLarge, Disconnected, Receive, Scope, read_body
from tkdb.server.limits import Gate, Limits, Place
from tkdb.server.problems import ProblemError, retry_after

_AGAIN: Final = "try again; the log of the machine says more"
_REPEAT: Final = "repeat it with the same request id"


class Work:
    """Admits requests, reads them and has them answered, each within the limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.gate = Gate(active_max=limits.active_max, waiting_max=limits.waiting_max)
        self._writes: set[asyncio.Task[msgspec.Struct]] = set()

    def enter(self) -> Place:
        """Return a place for one request.

        Raises:
            ProblemError: all are taken.
        """
        try:
            return self.gate.enter()
        except errors.Overloaded as error:
            delay = retry_after(error.retry_after_ms or 0)
            raise ProblemError(problems.OVERLOADED, str(error), headers=[delay], close=True) from None

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            ProblemError: too large, or too slow.
            Disconnected: the caller has gone.
        """
        try:
            return await read_body(scope, receive, self.limits)
        except BodyTooLarge:
            detail = f"a body has at most {self.limits.body_bytes} bytes"
            raise ProblemError(problems.TOO_LARGE, detail, close=True) from None
        except TimeoutError:
            detail = f"a body must be complete within {self.limits.read_ms} ms"
            raise ProblemError(problems.SLOW_REQUEST, detail, close=True) from None

    async def catch_up(self, service: Service, position: int, place: Place) -> None:
        """Return once ``service`` serves ``position``. To wait for that takes a long poll's place: whoever claims to
        have seen the future keeps nobody else out.

        Raises:
            Unavailable: it doesn't come to it in a moment; Overloaded: there is no place, to wait or to go on.
        """
        if position > service.position:
            place.wait()
            await service.come_to(position)
            place.resume()

    async def answer(
        self, service: Service, call: api.Call[Any], caller: Caller, place: Place, receive: Receive
    ) -> msgspec.Struct:
        """Return the result of ``call``, within its deadline.

        Raises:
            TkdbError: the call fails; what was not foreseen is ``Unavailable``, or ``OutcomeUnknown`` for a write.
            Disconnected: the caller of a long poll has gone.
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
            raise errors.DeadlineExceeded(f"no answer within {self.limits.answer_ms} ms", hint="try again") from None
        except Exception as error:  # noqa: BLE001  whatever it is, the caller gets a typed error and the log its class
            logs.failure("unforeseen", error, path=caller.path)
            if caller.path in api.WRITING_PATHS:
                raise errors.OutcomeUnknown("the authority failed on this write", hint=_REPEAT) from None
            raise errors.Unavailable("the authority failed on this request", hint=_AGAIN) from None

    async def settle(self) -> None:
        """Wait for the writes whose callers have been told that the outcome is not known."""
        if self._writes:
            await asyncio.wait(self._writes)

    async def _write(self, service: Service, call: api.Call[Any], caller: Caller) -> msgspec.Struct:
        # A write is never cancelled: a deadline ends the waiting for it, not the write.
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
    """Take the outcome of a write that nobody waits for any more, so that its failure isn't lost."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, errors.TkdbError):
        logs.event(logging.INFO, "late write", outcome=error.code)
    elif error is not None:
        logs.failure("late write", error)
