"""Regions and the network to them, on a simulated clock."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.client.fake_authority import JOURNAL, Brain
from tests.client.scheduler import START_MS, PlainInitiator, Scheduler
from tkdb import api, errors
from tkdb.failure import Failure
from tkdb.net.url import Url
from tkdb_client.calls.call import Calls, Timing
from tkdb_client.calls.effects import Steps
from tkdb_client.calls.transport import Answered, Lost, Outcome, Send
from tkdb_client.clock import Clock

BRAIN = Brain()

World = Callable[[int, Any, int], "str | errors.TkdbError"]
"""Returns the outcome of a call in a region (by number) at a time (ms): "ok", "hang", "refuse", "reset", "503", or an
error from the authority."""


@dataclass
class Attempt:
    """One POST, as the simulation received it."""

    region: int
    at_ms: int
    call: Any
    request_id: bytes
    timeout_ms: int


@dataclass
class Ended:
    """The result of a call, its duration, and its attempts."""

    result: Any
    took_ms: int
    attempts: list[Attempt]


class Simulated:
    """One client and its regions, at the distances ``rtts_ms``. Calls run one by one. Background work continues."""

    def __init__(self, *rtts_ms: int, world: World, random: Callable[[int], bytes] = os.urandom, **timing: Any) -> None:
        self.handler: Callable[[Any], msgspec.Struct] = BRAIN.handler
        self.rtts_ms = rtts_ms
        self.world = world
        self.attempts: list[Attempt] = []
        self._clock = Scheduler()
        self.exchange = Calls(
            [Url.parse(f"http://region-{number}") for number in range(len(rtts_ms))],
            BRAIN.identity,
            signer=BRAIN.signer,
            timing=Timing(**timing),
            clock=Clock(monotonic_ms=lambda: self.now_ms, now_ms=lambda: 1_700_000_000_000 + self.now_ms),
            random=random,
        )
        self.exchange._attempts._initiator = PlainInitiator()  # type: ignore[assignment]

    @property
    def now_ms(self) -> int:
        return self._clock.now_ms

    def call(self, path: str, call: api.Call[Any], *, wait_ms: int = 0) -> Ended:
        """Make a call. An error is returned as its result."""
        results: list[Any] = []
        began_ms, before = self.now_ms, len(self.attempts)
        self.start(self.exchange.ask(path, call, wait_ms=wait_ms), results.append)
        while not results:
            self._clock.next()
        mine = [each for each in self.attempts[before:] if each.call == call]
        result = results[0]
        return Ended(result if isinstance(result, Exception) else result[0], self.now_ms - began_ms, mine)

    def wait(self, for_ms: int) -> None:
        """Let time pass."""
        self._clock.run_until(self.now_ms + for_ms)

    def start(self, steps: Steps[Any], ended: Callable[[Any], object]) -> None:
        """Run ``steps`` to their end while time passes. ``ended`` gets the result or the error."""
        self._clock.start(steps, ended, self._post)

    def _post(self, send: Send, ended: Callable[[Outcome], None]) -> None:
        took_ms, outcome = self._fate(send)
        self._clock.after(took_ms, lambda: ended(outcome))

    def _fate(self, send: Send) -> tuple[int, Outcome]:
        region = int(send.url.host.removeprefix("region-"))
        call = api.decode_request(send.path, send.message)
        request_id = bytes.fromhex(send.headers["request-id"])
        self.attempts.append(Attempt(region, self.now_ms, call, request_id, send.timeout_ms))
        fate = self.world(region, call, self.now_ms - START_MS)
        rtt_ms = self.rtts_ms[region]
        if fate == "hang" or rtt_ms > send.timeout_ms:
            return send.timeout_ms, Lost("silence", silent=True)
        if isinstance(fate, errors.TkdbError):
            return rtt_ms, self._answer(rtt_ms, failure=Failure.from_error(fate))
        if fate == "ok":
            return rtt_ms, self._answer(rtt_ms, result=msgspec.Raw(api.encode(self.handler(call))))
        return rtt_ms, Lost(fate, sent=fate != "refuse")

    @staticmethod
    def _answer(rtt_ms: int, **outcome: Any) -> Answered:
        return Answered(api.encode(api.Answer(JOURNAL, 1, 0, **outcome)), float(rtt_ms))
