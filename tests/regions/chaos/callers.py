"""Callers: writers that repeat each write until its outcome is known, and readers that verify without end.

They don't use the client, which repeats requests: for each answer, the tests must know which machine gave it, and when
the request was sent.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpcore

from tests.end_to_end.node import Keys
from tests.regions.chaos.machine import Machine
from tests.regions.chaos.monitor import DENIED, REFUSED, Attempt, Case, Monitor, Process, Write
from tkdb import api
from tkdb.channel.client import Initiator
from tkdb.errors import ChannelError, Denied, Refused, StaleAuthority, TkdbError, Unavailable
from tkdb.macaroon.caveats import Act
from tkdb.macaroon.token import Macaroon

ATTEMPT_MS: Final = (300, 1_000, 2_000, 6_000)
"""The timeouts of writers' attempts. The longest ones let writers get the answers of machines that were paused."""
LIVE_MOST: Final = 300
RECENT: Final = 60
BATCH: Final = 20


def now_ms() -> int:
    """Return the time of the clock that all checks use."""
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True)
class Reply:
    """The outcome of an attempt: a result with the position of the machine that answered, or an error."""

    attempt: Attempt
    result: Any = None
    position: int = 0
    error: TkdbError | None = None


class Sender:
    """Seals requests as the operator, and sends each to one machine."""

    def __init__(self, keys: Keys) -> None:
        self._initiator = Initiator(keys.identity, signer=keys.signer, random=os.urandom)
        self._pool = httpcore.AsyncConnectionPool(max_connections=None, keepalive_expiry=30)

    async def send(
        self,
        machine: Machine,
        path: str,
        call: api.Call[Any],
        *,
        timeout_ms: int,
        request_id: bytes | None = None,
        position: int = 0,
    ) -> Reply:
        """Send one request to one machine."""
        attempt = Attempt(Process(machine.name, machine.life), now_ms())
        sealed = self._initiator.seal(
            path,
            api.encode(call),
            request_id=request_id or os.urandom(16),
            now_ms=time.time_ns() // 1_000_000,
            position=position,
        )
        url = f"{machine.node.url}{path}"
        headers = [("content-type", "application/octet-stream"), *sealed.headers.items()]
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                response = await self._pool.request("POST", url, headers=headers, content=sealed.message)
            if response.status != 200:
                return Reply(attempt, error=Unavailable(f"HTTP {response.status}"))
            answer = api.decode_answer(sealed.open(response.content))
            return Reply(attempt, api.decode_result(call, answer), answer.position)
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, ChannelError) as error:
            return Reply(attempt, error=Unavailable(type(error).__name__))
        except TkdbError as error:
            return Reply(attempt, error=error)

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.aclose()


class Population:
    """The organizations and their tokens."""

    def __init__(self) -> None:
        self.organizations: dict[str, int] = {}
        """Organizations whose creation was acknowledged, with the number of acknowledged rotations of their key."""
        self.live: list[Case] = []
        self.revoked: list[Case] = []
        """Tokens whose revocation was requested, the oldest first."""

    def sample(self, draw: random.Random) -> list[Case]:
        """Return some tokens to verify. Those that were revoked last are more likely than others."""
        recent = self.revoked[-RECENT:]
        drawn = [
            *draw.sample(recent, min(BATCH // 2, len(recent))),
            *draw.sample(self.revoked, min(BATCH // 4, len(self.revoked))),
            *draw.sample(self.live, min(BATCH // 4, len(self.live))),
        ]
        return list(dict.fromkeys(drawn))


class Writer:
    """Writes until an event is set. A write without an answer is repeated with its request id, at any machine.

    Args:
        number: the writer's number, different for each.
        sender: the sender of its requests.
        machines: all machines.
        population: the organizations and tokens, which all callers share.
        monitor: the monitor that checks every answer.
        draw: the source of randomness.
        pause_ms: the average pause between two writes.
    """

    def __init__(
        self,
        number: int,
        sender: Sender,
        machines: Sequence[Machine],
        population: Population,
        monitor: Monitor,
        draw: random.Random,
        pause_ms: int,
    ) -> None:
        self.pending = 0
        """The number of its writes in flight: 1 or 0."""
        self.repeated = 0
        """The number of writes that needed more than one attempt."""
        self._number = number
        self._sender = sender
        self._machines = machines
        self._population = population
        self._monitor = monitor
        self._draw = draw
        self._pause_ms = pause_ms
        self._made = 0
        self._prefer = draw.choice(machines)

    async def run(self, over: asyncio.Event) -> None:
        """Write until ``over`` is set and the last write has an outcome."""
        await self._create()
        while not over.is_set():
            act = self._draw.random()
            if act < 0.03:
                await self._create()
            elif act < 0.06:
                await self._rotate()
            elif act < 0.12:
                case = await self._mint()
                if len(self._population.live) < LIVE_MOST:
                    self._population.live.append(case)
            elif act < 0.30:
                await self._revoke_own(await self._mint())
            else:
                await self._revoke(await self._mint())
            await asyncio.sleep(self._draw.expovariate(1) * self._pause_ms / 1000)

    async def _create(self) -> None:
        self._made += 1
        name = f"w{self._number}-{self._made}"
        await self._write(api.WRITE, api.CreateOrganization(name=name))
        self._population.organizations[name] = 0

    async def _rotate(self) -> None:
        own = [name for name in self._population.organizations if name.startswith(f"w{self._number}-")]
        name = self._draw.choice(own)
        await self._write(api.WRITE, api.RotateKey(name=name))
        self._population.organizations[name] += 1

    async def _mint(self) -> Case:
        name = self._draw.choice(list(self._population.organizations))
        while True:
            machine = self._any()
            reply = await self._sender.send(machine, api.SIGN, api.Mint(organization=name), timeout_ms=1_500)
            if reply.error is None:
                return Case(reply.result.token, name)
            await asyncio.sleep(0.05)

    async def _revoke(self, case: Case) -> None:
        token = Macaroon.parse(case.text)
        await self._revoke_case(case, api.WRITE, api.Revoke([api.Lineage(token.kid, token.nonce)]))

    async def _revoke_own(self, parent: Case) -> None:
        case = Case(Macaroon.parse(parent.text).narrow(Act("r")).text, parent.organization)
        await self._revoke_case(case, api.REVOKE, api.RevokeOwn(case.text))

    async def _revoke_case(self, case: Case, path: str, call: api.Call[Any]) -> None:
        case.revocation = Write(path, call, os.urandom(16))
        self._population.revoked.append(case)
        await self._repeat(case.revocation)

    async def _write(self, path: str, call: api.Call[Any]) -> None:
        await self._repeat(Write(path, call, os.urandom(16)))

    def _any(self) -> Machine:
        """Return the machine that last acknowledged a write, or sometimes any machine."""
        return self._prefer if self._draw.random() < 0.8 else self._draw.choice(self._machines)

    async def _repeat(self, write: Write) -> None:
        self.pending = 1
        while True:
            machine = self._any()
            timeout_ms = self._draw.choice(ATTEMPT_MS)
            reply = await self._sender.send(
                machine, write.path, write.call, request_id=write.request_id, timeout_ms=timeout_ms
            )
            write.attempts.append(reply.attempt)
            if reply.error is None:
                self._prefer = machine
                break
            if isinstance(reply.error, Refused | Denied) and not isinstance(reply.error, StaleAuthority):
                self._monitor.flag(REFUSED, f"{reply.attempt.process}: {type(write.call).__name__}: {reply.error}")
                break
            self._prefer = self._draw.choice(self._machines)
            await asyncio.sleep(0.05 + 0.15 * self._draw.random())
        self.pending = 0
        self.repeated += len(write.attempts) > 1
        if reply.error is None:
            self._monitor.record_write(write, reply.position)


class Reader:
    """Verifies tokens at one machine again and again, half of the time with a position."""

    def __init__(
        self,
        sender: Sender,
        machine: Machine,
        population: Population,
        monitor: Monitor,
        draw: random.Random,
        timeout_ms: int,
    ) -> None:
        self._sender = sender
        self._machine = machine
        self._population = population
        self._monitor = monitor
        self._draw = draw
        self._timeout_ms = timeout_ms

    async def run(self) -> None:
        """Verify without end."""
        while True:
            cases = self._population.sample(self._draw)
            if cases:
                await self._verify(cases)
            await asyncio.sleep(self._draw.uniform(0.1, 0.3))

    async def _verify(self, cases: list[Case]) -> None:
        position = 0
        revocations = [case.revocation for case in cases if case.is_revoked and case.revocation]
        if revocations and self._draw.random() < 0.5:
            position = self._draw.choice(revocations).position
        call = api.Verify([case.text for case in cases])
        reply = await self._sender.send(self._machine, api.VERIFY, call, timeout_ms=self._timeout_ms, position=position)
        if reply.error is None:
            self._monitor.check_results(reply.attempt, position, cases, reply.result.results)
        elif isinstance(reply.error, StaleAuthority):
            self._monitor.answers["stale"] += len(cases)
        elif isinstance(reply.error, Unavailable):
            self._monitor.answers[reply.error.code] += len(cases)
        else:
            self._monitor.flag(DENIED, f"{reply.attempt.process}: {reply.error}")
