"""Regions and the way to them, without network, time or cryptography: a third driver, whose clock moves from event to
event."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.client.fake_authority import JOURNAL, Brain
from tkdb import api, errors
from tkdb_client.attempts import Clock
from tkdb_client.exchange import Exchange, Timing
from tkdb_client.steps import Aside, Race, Sleep, Steps
from tkdb_client.transport import Answered, Lost, Outcome, Send, Url

START_MS = 1_000_000
"""Of the monotonic clock, which begins nowhere in particular."""

BRAIN = Brain()

World = Callable[[int, Any, int], "str | errors.TkdbError"]
"""What a region (a number) does with a call at a time (ms): "ok", "hang", "refuse", "reset", "503", or an error that
the authority says."""


@dataclass
class Open:
    """A request that isn't sealed, so that thousands are made in a moment."""

    message: bytes
    headers: dict[str, str]

    @staticmethod
    def open(message: bytes) -> bytes:
        return message


class Unsealing:
    """In the initiator's place."""

    @staticmethod
    def seal(path: str, body: bytes, *, request_id: bytes, **_: object) -> Open:
        return Open(body, {"request-id": request_id.hex()})


@dataclass
class Attempt:
    """One POST, as the simulation saw it."""

    region: int
    at_ms: int
    call: Any
    request_id: bytes
    timeout_ms: int


@dataclass
class Ended:
    """How a call ended."""

    result: Any
    took_ms: int
    attempts: list[Attempt]


class Simulated:
    """One client and its regions, ``rtts_ms`` away. Calls are made one after the other; what they begin goes on."""

    def __init__(self, *rtts_ms: int, world: World, random: Callable[[int], bytes] = os.urandom, **timing: Any) -> None:
        self.handler: Callable[[Any], msgspec.Struct] = BRAIN.handler
        self.rtts_ms = rtts_ms
        self.world = world
        self.now_ms = START_MS
        self.attempts: list[Attempt] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.exchange = Exchange(
            [Url.parse(f"http://region-{number}") for number in range(len(rtts_ms))],
            BRAIN.identity,
            signer=BRAIN.signer,
            timing=Timing(**timing),
            clock=Clock(monotonic_ms=lambda: self.now_ms, now_ms=lambda: 1_700_000_000_000 + self.now_ms),
            random=random,
        )
        self.exchange._attempts._initiator = Unsealing()  # type: ignore[assignment]

    def call(self, path: str, call: api.Call[Any], *, wait_ms: int = 0) -> Ended:
        """Make a call; what it raises is its result."""
        results: list[Any] = []
        began_ms, before = self.now_ms, len(self.attempts)
        self._start(self.exchange.ask(path, call, wait_ms=wait_ms), results.append)
        while not results:
            self._next_event()
        mine = [each for each in self.attempts[before:] if each.call == call]
        result = results[0]
        return Ended(result if isinstance(result, Exception) else result[0], self.now_ms - began_ms, mine)

    def rest(self, for_ms: int) -> None:
        """Let time pass."""
        until_ms = self.now_ms + for_ms
        while self._events and self._events[0][0] <= until_ms:
            self._next_event()
        self.now_ms = until_ms

    def _next_event(self) -> None:
        self.now_ms, _, action = heapq.heappop(self._events)
        action()

    def _after(self, wait_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_ms + wait_ms, next(self._numbers), action))

    def _start(self, steps: Steps[Any], ended: Callable[[Any], object]) -> None:
        """Take ``steps`` to their end; ``ended`` gets what they return or raise."""

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
            if isinstance(step, Sleep):
                assert step.wait_ms > 0
                self._after(step.wait_ms, lambda: resume(lambda: next(steps)))
            elif isinstance(step, Aside):
                self._start(step.steps, lambda _: None)
                resume(lambda: next(steps))
            elif isinstance(step, Race):
                self._race(step, lambda won: resume(lambda: throw_or_send(won)))
            else:
                took_ms, outcome = self._post(step)
                self._after(took_ms, lambda: resume(lambda: steps.send(outcome)))

        def throw_or_send(won: Any) -> Any:
            return steps.throw(won) if isinstance(won, Exception) else steps.send(won)

        resume(lambda: next(steps))

    def _race(self, race: Race[Any], ended: Callable[[Any], None]) -> None:
        running, over = 0, False

        def begin(steps: Steps[Any]) -> None:
            nonlocal running
            running += 1
            self._start(steps, end)

        def end(result: Any) -> None:
            nonlocal running, over
            running -= 1
            if not over and (running == 0 or not isinstance(result, Exception)):
                over = True
                ended(result)

        begin(race.first)
        self._after(race.after_ms, lambda: None if over else begin(race.second))

    def _post(self, send: Send) -> tuple[int, Outcome]:
        region = int(send.url.host.removeprefix("region-"))
        call = api.decode_request(send.path, send.message)
        request_id = bytes.fromhex(send.headers["request-id"])
        self.attempts.append(Attempt(region, self.now_ms, call, request_id, send.timeout_ms))
        fate = self.world(region, call, self.now_ms - START_MS)
        rtt_ms = self.rtts_ms[region]
        if fate == "hang" or rtt_ms > send.timeout_ms:
            return send.timeout_ms, Lost("silence", silent=True)
        if isinstance(fate, errors.TkdbError):
            return rtt_ms, self._answer(rtt_ms, failure=api.to_failure(fate))
        if fate == "ok":
            return rtt_ms, self._answer(rtt_ms, result=msgspec.Raw(api.encode(self.handler(call))))
        return rtt_ms, Lost(fate, sent=fate != "refuse")

    @staticmethod
    def _answer(rtt_ms: int, **outcome: Any) -> Answered:
        return Answered(api.encode(api.Answer(JOURNAL, 1, 0, **outcome)), float(rtt_ms))
