"""A simulated clock that moves from event to event, and a runner of a client's calls on it. It needs no network, no
real time and no cryptography."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tkdb import errors
from tkdb_client.calls.effects import Background, Join, Sleep, Steps
from tkdb_client.calls.transport import Outcome, Send

START_MS = 1_000_000
"""The start of the monotonic clock: an arbitrary value."""

Post = Callable[[Send, Callable[[Outcome], None]], None]
"""Sends a request, and calls back with the outcome, now or later."""


@dataclass
class PlainRequest:
    """A request that isn't sealed, because a test makes thousands."""

    message: bytes
    headers: dict[str, str]

    @staticmethod
    def open(message: bytes) -> bytes:
        return message


class PlainInitiator:
    """A replacement for the initiator that seals nothing."""

    @staticmethod
    def seal(path: str, body: bytes, *, request_id: bytes, position: int, **_: object) -> PlainRequest:
        return PlainRequest(body, {"request-id": request_id.hex(), "position": str(position)})


class Scheduler:
    """The clock, and the third runner of steps, next to the blocking and the awaited one."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, wait_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_ms + wait_ms, next(self._numbers), action))

    def next(self) -> None:
        """Move to the next event.

        Raises:
            IndexError: there is no further event.
        """
        self.now_ms, _, action = heapq.heappop(self._events)
        action()

    def run_until(self, until_ms: int) -> None:
        while self._events and self._events[0][0] <= until_ms:
            self.next()
        self.now_ms = until_ms

    def start(self, steps: Steps[Any], ended: Callable[[Any], object], post: Post | None = None) -> None:
        """Run ``steps`` to their end. ``ended`` gets the result or the error. Without ``post``, they must not send."""

        def resume(advance: Callable[[], Any]) -> None:
            try:
                step = advance()
            except StopIteration as end:
                ended(end.value)
            except errors.TkdbError as error:
                ended(error)
            else:
                take(step)

        def take(step: Any) -> None:
            match step:
                case Sleep():
                    assert step.wait_ms > 0
                    self.after(step.wait_ms, lambda: resume(lambda: next(steps)))
                case Background():
                    self.start(step.steps, lambda _: None, post)
                    resume(lambda: next(steps))
                case Join():
                    self._join(step, lambda over: resume(lambda: steps.send(over)))
                case _:
                    assert post is not None
                    post(step, lambda outcome: resume(lambda: steps.send(outcome)))

        resume(lambda: next(steps))

    def _join(self, join: Join, ended: Callable[[bool], None]) -> None:
        over = False

        def end(result: bool) -> None:
            nonlocal over
            if not over:
                over = True
                self.after(0, lambda: ended(result))

        join.other.add_done_callback(lambda _: end(True))
        self.after(join.timeout_ms, lambda: end(False))
