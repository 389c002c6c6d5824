"""Callers: one attempt at one machine; writers that repeat until they know; readers that never stop asking.

The client's own repetitions are left out: of each answer it is known which machine gave it, and when it was asked.
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
from tests.regions.chaos.judge import DENIED, REFUSED, Attempt, Case, Judge, Process, Write
from tests.regions.chaos.machine import Machine
from tkdb import api
from tkdb.channel.client import Initiator
from tkdb.errors import ChannelError, Denied, Refused, StaleAuthority, TkdbError, Unavailable
from tkdb.macaroon.caveats import Act
from tkdb.macaroon.token import Macaroon

ATTEMPT_MS: Final = (300, 1_000, 2_000, 6_000)
"""How long writers wait for one attempt. The patient ones hear what a machine says after it was paused."""
LIVE_MOST: Final = 300
RECENT: Final = 60
BATCH: Final = 20


def now_ms() -> int:
    """The clock that everything is judged by."""
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True)
class Reply:
    """What came of an attempt: a result with the position of who answered, or an error."""

    asked: Attempt
    result: Any = None
    position: int = 0
    error: TkdbError | None = None


class Line:
    """Seals requests as an operator, and sends each to one machine."""

    def __init__(self, keys: Keys) -> None:
        self._initiator = Initiator(keys.identity, signer=keys.signer, random=os.urandom)
        self._pool = httpcore.AsyncConnectionPool(max_connections=None, keepalive_expiry=30)

    async def ask(
        self,
        machine: Machine,
        path: str,
        call: api.Call[Any],
        *,
        timeout_ms: int,
        request_id: bytes | None = None,
        position: int = 0,
    ) -> Reply:
        """Ask one machine, once."""
        asked = Attempt(Process(machine.name, machine.life), now_ms())
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
                return Reply(asked, error=Unavailable(f"HTTP {response.status}"))
            answer = api.decode_answer(sealed.open(response.content))
            return Reply(asked, api.decode_result(call, answer), answer.position)
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, ChannelError) as error:
            return Reply(asked, error=Unavailable(type(error).__name__))
        except TkdbError as error:
            return Reply(asked, error=error)

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.aclose()


class Population:
    """The organizations, and the tokens in them."""

    def __init__(self) -> None:
        self.organizations: dict[str, int] = {}
        """Those whose creation was acknowledged, and how many rotations of their key were."""
        self.live: list[Case] = []
        self.revoked: list[Case] = []
        """Those whose revocation was asked for, in that order."""

    def sample(self, draw: random.Random) -> list[Case]:
        """Return some tokens to ask about: what was revoked last more than others."""
        recent = self.revoked[-RECENT:]
        drawn = [
            *draw.sample(recent, min(BATCH // 2, len(recent))),
            *draw.sample(self.revoked, min(BATCH // 4, len(self.revoked))),
            *draw.sample(self.live, min(BATCH // 4, len(self.live))),
        ]
        return list(dict.fromkeys(drawn))


class Writer:
    """Writes until it is told to end. What nobody answered for is asked again, with its request id, of any machine.

    Args:
        number: another for each.
        line: to the machines.
        machines: all of them.
        population: what there is to write about; shared.
        judge: hears of everything.
        draw: randomness.
        pause_ms: how long it rests between two writes, on average.
    """

    def __init__(
        self,
        number: int,
        line: Line,
        machines: Sequence[Machine],
        population: Population,
        judge: Judge,
        draw: random.Random,
        pause_ms: int,
    ) -> None:
        self.pending = 0
        """How many writes of it are under way: 1 or 0."""
        self.repeated = 0
        """How many were asked more than once."""
        self._number = number
        self._line = line
        self._machines = machines
        self._population = population
        self._judge = judge
        self._draw = draw
        self._pause_ms = pause_ms
        self._made = 0
        self._prefer = draw.choice(machines)

    async def run(self, over: asyncio.Event) -> None:
        """Write until ``over``, and until the last write is known to be done."""
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
            reply = await self._line.ask(machine, api.SIGN, api.Mint(organization=name), timeout_ms=1_500)
            if reply.error is None:
                return Case(reply.result.token, name)
            await asyncio.sleep(0.05)

    async def _revoke(self, case: Case) -> None:
        token = Macaroon.parse(case.text)
        await self._kill(case, api.WRITE, api.Revoke([api.Lineage(token.kid, token.nonce)]))

    async def _revoke_own(self, parent: Case) -> None:
        case = Case(Macaroon.parse(parent.text).attenuate(Act("r")).text, parent.organization)
        await self._kill(case, api.REVOKE, api.RevokeOwn(case.text))

    async def _kill(self, case: Case, path: str, call: api.Call[Any]) -> None:
        case.revocation = Write(path, call, os.urandom(16))
        self._population.revoked.append(case)
        await self._repeat(case.revocation)

    async def _write(self, path: str, call: api.Call[Any]) -> None:
        await self._repeat(Write(path, call, os.urandom(16)))

    def _any(self) -> Machine:
        """Any machine, but mostly the one that last carried out a write."""
        return self._prefer if self._draw.random() < 0.8 else self._draw.choice(self._machines)

    async def _repeat(self, write: Write) -> None:
        self.pending = 1
        while True:
            machine = self._any()
            timeout_ms = self._draw.choice(ATTEMPT_MS)
            reply = await self._line.ask(
                machine, write.path, write.call, request_id=write.request_id, timeout_ms=timeout_ms
            )
            write.attempts.append(reply.asked)
            if reply.error is None:
                self._prefer = machine
                break
            if isinstance(reply.error, Refused | Denied) and not isinstance(reply.error, StaleAuthority):
                self._judge.flag(REFUSED, f"{reply.asked.process}: {type(write.call).__name__}: {reply.error}")
                break
            self._prefer = self._draw.choice(self._machines)
            await asyncio.sleep(0.05 + 0.15 * self._draw.random())
        self.pending = 0
        self.repeated += len(write.attempts) > 1
        if reply.error is None:
            self._judge.acknowledged(write, reply.position)


class Reader:
    """Asks one machine about tokens, again and again; every other time with a position."""

    def __init__(
        self, line: Line, machine: Machine, population: Population, judge: Judge, draw: random.Random, timeout_ms: int
    ) -> None:
        self._line = line
        self._machine = machine
        self._population = population
        self._judge = judge
        self._draw = draw
        self._timeout_ms = timeout_ms

    async def run(self) -> None:
        """Ask without end."""
        while True:
            cases = self._population.sample(self._draw)
            if cases:
                await self._ask(cases)
            await asyncio.sleep(self._draw.uniform(0.1, 0.3))

    async def _ask(self, cases: list[Case]) -> None:
        position = 0
        dead = [case.revocation for case in cases if case.dead and case.revocation]
        if dead and self._draw.random() < 0.5:
            position = self._draw.choice(dead).position
        call = api.Verify([case.text for case in cases])
        reply = await self._line.ask(self._machine, api.VERIFY, call, timeout_ms=self._timeout_ms, position=position)
        if reply.error is None:
            self._judge.verified(reply.asked, position, cases, reply.result.results)
        elif isinstance(reply.error, StaleAuthority):
            self._judge.answers["stale"] += len(cases)
        elif isinstance(reply.error, Unavailable):
            self._judge.answers[reply.error.code] += len(cases)
        else:
            self._judge.flag(DENIED, f"{reply.asked.process}: {reply.error}")
