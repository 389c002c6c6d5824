"""The load of a drill: clients in several regions that mint, verify and revoke during the whole drill.

The load is open: calls begin at their planned times, even if earlier calls haven't ended, as with independent callers.
A revocation is repeated until it is acknowledged. Then every region asks about the token until it is refused.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from tkdb import errors
from tkdb_client import AsyncClient, Macaroon
from tkdb_ops.drills.record import CallKind, CallOutcome, CallRecord, WriteRecord

_HOT: Final = 8
"""The number of tokens that callers verify repeatedly."""
_FRESH_MOST: Final = 100
_DEAD_RECENT: Final = 20
_DEAD_SHARE: Final = 0.2
"""The share of verifications that are of a token whose revocation was acknowledged earlier."""
_WATCH_S: Final = 0.1
_AGAIN_S: Final = 0.1
_STOP_S: Final = 15.0
_UNDER_WAY_MOST: Final = 300
"""The limit of calls in flight. Calls beyond it are skipped and counted: no real caller piles up calls forever."""
_PREPARE_S: Final = 60.0


class Rates(msgspec.Struct, frozen=True):
    """The average number of calls of each kind that a region begins in a second."""

    mint: float = 1.0
    verify: float = 4.0
    first: float = 1.0
    revoke: float = 0.4
    create: float = 0.1
    look: float = 2.5


class Token(msgspec.Struct, frozen=True):
    """A token, and its number in the record."""

    number: int
    macaroon: Macaroon


class Load:
    """The callers.

    Args:
        clients: one client for each region that calls come from.
        organization: the name of the organization that the tokens belong to. The names of other organizations begin
            with it.
        now_ms: the drill's clock.
        draw: the source of random choices.
        bound_ms: the published bound on staleness.
        rates: the rates of calls.

    Attributes:
        calls: all calls that have ended.
        writes: all writes, acknowledged or not.
        undone: the names of organizations that a restore has undone.
        held_back: the number of calls that were skipped, because too many were in flight.
    """

    def __init__(
        self,
        clients: Mapping[str, AsyncClient],
        organization: str,
        *,
        now_ms: Callable[[], int],
        draw: random.Random,
        bound_ms: int,
        rates: Rates | None = None,
    ) -> None:
        self.organization = organization
        self.calls: list[CallRecord] = []
        self.undone: set[str] = set()
        self.held_back = 0
        self._clients = dict(clients)
        self._now_ms = now_ms
        self._draw = draw
        self._bound_ms = bound_ms
        self._rates = rates or Rates()
        self._count = 0
        self._hot: list[Token] = []
        self._fresh: dict[str, deque[Token]] = {region: deque(maxlen=_FRESH_MOST) for region in clients}
        self._dead: list[Token] = []
        self._writes: dict[int | str, WriteRecord] = {}
        self._names = 0
        self._over = asyncio.Event()
        self._schedules: list[asyncio.Task[None]] = []
        self._under_way: set[asyncio.Task[Any]] = set()

    @property
    def writes(self) -> list[WriteRecord]:
        """All writes, in the order of their first attempts."""
        return [
            msgspec.structs.replace(write, undone=write.organization in self.undone)
            for write in self._writes.values()
        ]  # fmt: skip

    @property
    def dead(self) -> dict[int, Macaroon]:
        """The tokens with an acknowledged revocation, by number."""
        return {token.number: token.macaroon for token in self._dead}

    @property
    def organizations(self) -> list[str]:
        """The names of the acknowledged organizations that weren't undone."""
        made = (each for each in self.writes if each.organization and each.acknowledged_ms is not None)
        return [each.organization for each in made if not each.undone]

    @property
    def acknowledged_ms(self) -> int:
        """The latest time of a first attempt of an acknowledged write; -1 if no write is acknowledged."""
        return max((each.asked_ms for each in self._writes.values() if each.acknowledged_ms is not None), default=-1)

    async def prepare(self) -> None:
        """Create the organization and the first tokens, and verify the tokens from every region.

        Raises:
            Unavailable: this takes longer than 60 s.
        """
        first = next(iter(self._clients.values()))
        try:
            async with asyncio.timeout(_PREPARE_S):
                await _until_done(lambda: first.create_organization(self.organization))
                for _ in range(_HOT):
                    macaroon = await _until_done(
                        lambda: first.mint(self.organization, action="rw", expires_in_s=86_400)
                    )
                    self._hot.append(self._number(macaroon))
                texts = [token.macaroon for token in self._hot]
                await asyncio.gather(
                    *(_until_done(partial(client.verify_many, texts)) for client in self._clients.values())
                )
        except TimeoutError:
            raise errors.Unavailable(
                "the load can't be prepared", hint="look at `tkdb status`: does the authority take writes?"
            ) from None

    def start(self) -> None:
        """Start to make calls."""
        for region in self._clients:
            acts: list[tuple[float, Callable[[str], Coroutine[Any, Any, None]]]] = [
                (self._rates.mint, self._mint),
                (self._rates.verify, self._verify),
                (self._rates.first, self._verify_anew),
                (self._rates.revoke, self._revoke),
                (self._rates.create, self._create),
                (self._rates.look, self._look),
            ]
            for rate, act in acts:
                draw = random.Random(self._draw.random())  # noqa: S311  seeded, so that a drill can be run again
                self._schedules.append(asyncio.create_task(self._schedule(region, rate, act, draw)))

    async def stop(self) -> None:
        """Stop making calls, and wait for the calls in flight. Cancel those that take longer than 15 s."""
        self._over.set()
        for schedule in self._schedules:
            schedule.cancel()
        await asyncio.gather(*self._schedules, return_exceptions=True)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_STOP_S)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def revoke_also(self, region: str, tokens: Iterable[Token], do: Callable[[], Awaitable[Any]]) -> None:
        """Call ``do``, a bulk revocation, and record it for each of ``tokens``. Then watch each as a revoked token."""
        writes = {WriteRecord(self._now_ms(), region, None, token.number): token for token in tokens}
        self._writes |= {_key(write): write for write in writes}
        await do()
        for write, token in writes.items():
            self._acknowledge(write)
            self._is_dead(token)

    async def mint_some(self, region: str, count: int) -> list[Token]:
        """Mint tokens that nobody else uses, and verify them from every region."""
        client = self._clients[region]
        own = [self._number(await _until_done(lambda: client.mint(self.organization))) for _ in range(count)]
        for each in self._clients.values():
            await _until_done(partial(each.verify_many, [token.macaroon for token in own]))
        return own

    # The start of calls.

    async def _schedule(
        self, region: str, rate: float, act: Callable[[str], Coroutine[Any, Any, None]], draw: random.Random
    ) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while rate > 0:
            due_s += draw.expovariate(rate)
            await asyncio.sleep(due_s - loop.time())
            if len(self._under_way) < _UNDER_WAY_MOST:
                self._begin(act(region))
            else:
                self.held_back += 1

    def _begin(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    # The calls.

    async def _mint(self, region: str) -> None:
        outcome, macaroon = await self._call(
            region, CallKind.MINT, lambda client: client.mint(self.organization, action="rw")
        )
        if outcome is CallOutcome.OK:
            token = self._number(macaroon)
            for fresh in self._fresh.values():
                fresh.append(token)

    async def _verify(self, region: str) -> None:
        dead = self._dead[-_DEAD_RECENT:]
        token = self._draw.choice(dead if dead and self._draw.random() < _DEAD_SHARE else self._hot)
        await self._ask(region, CallKind.VERIFY, token)

    async def _verify_anew(self, region: str) -> None:
        if self._fresh[region]:
            await self._ask(region, CallKind.FIRST, self._fresh[region].popleft())

    async def _look(self, region: str) -> None:
        await self._call(region, CallKind.LOOK, lambda client: client.status())

    async def _create(self, region: str) -> None:
        self._names += 1
        name = f"{self.organization}-{self._names}"
        asked = 0

        async def create(client: AsyncClient) -> None:
            nonlocal asked
            asked += 1
            try:
                await client.create_organization(name)
            except errors.Conflict:
                if asked == 1:
                    raise
                # An earlier attempt created it, and its answer was lost.

        await self._repeat(CallKind.CREATE, WriteRecord(self._now_ms(), region, None, organization=name), create)

    async def _revoke(self, region: str) -> None:
        if len(self._hot) <= _HOT // 2:
            return  # Mints fail at present, so the last tokens must stay for verifications.
        token = self._hot.pop(0)
        self._begin(self._replace(region))
        write = WriteRecord(self._now_ms(), region, None, token.number)
        if await self._repeat(CallKind.REVOKE, write, lambda client: client.revoke(token.macaroon)):
            self._is_dead(token)

    async def _replace(self, region: str) -> None:
        """Mint another token that all callers verify."""
        while not self._over.is_set():
            outcome, macaroon = await self._call(
                region, CallKind.MINT, lambda client: client.mint(self.organization, action="rw", expires_in_s=86_400)
            )
            if outcome is CallOutcome.OK:
                self._hot.append(self._number(macaroon))
                return
            await asyncio.sleep(_AGAIN_S)

    async def _repeat(self, kind: CallKind, write: WriteRecord, do: Callable[[AsyncClient], Awaitable[Any]]) -> bool:
        """Repeat a write until it is acknowledged or the load stops. Return True if it was acknowledged."""
        self._writes[_key(write)] = write
        while not self._over.is_set():
            outcome, _ = await self._call(write.region, kind, do, write.token)
            if outcome is CallOutcome.OK:
                self._acknowledge(write)
                return True
            await asyncio.sleep(_AGAIN_S)
        return False

    def _acknowledge(self, write: WriteRecord) -> None:
        self._writes[_key(write)] = msgspec.structs.replace(write, acknowledged_ms=self._now_ms())

    def _is_dead(self, token: Token) -> None:
        self._dead.append(token)
        for region in self._clients:
            self._begin(self._watch(region, token))

    async def _watch(self, region: str, token: Token) -> None:
        """Verify the token repeatedly from ``region`` until it is denied, for twice the bound at most."""
        give_up_ms = self._now_ms() + 2 * self._bound_ms
        while not self._over.is_set() and self._now_ms() < give_up_ms:
            if await self._ask(region, CallKind.VERIFY, token) is CallOutcome.DENIED:
                return
            await asyncio.sleep(_WATCH_S)

    async def _ask(self, region: str, kind: CallKind, token: Token) -> CallOutcome:
        outcome, _ = await self._call(region, kind, lambda client: client.verify(token.macaroon), token.number)
        return outcome

    async def _call(
        self, region: str, kind: CallKind, do: Callable[[AsyncClient], Awaitable[Any]], token: int = -1
    ) -> tuple[CallOutcome, Any]:
        """Make one call, and record its outcome. Return the outcome, and the result or None."""
        at_ms = self._now_ms()
        result, outcome, why = None, CallOutcome.OK, ""
        try:
            result = await do(self._clients[region])
        except errors.TkdbError as error:
            outcome, why = outcome_of(error), f"{type(error).__name__}: {error.message}"[:200]
        by = result.machine if kind is CallKind.LOOK and result is not None else ""
        self.calls.append(CallRecord(at_ms, region, kind, self._now_ms() - at_ms, outcome, token, by, why))
        return outcome, result

    def _number(self, macaroon: Macaroon) -> Token:
        self._count += 1
        return Token(self._count, macaroon)


def outcome_of(error: errors.TkdbError) -> CallOutcome:
    """Return the outcome that an error means for the caller.

    >>> outcome_of(errors.RevokedToken("…")).value, outcome_of(errors.StaleAuthority("…")).value
    ('denied', 'stale')
    """
    match error:
        case errors.StaleAuthority():
            return CallOutcome.STALE
        case errors.Denied():
            return CallOutcome.DENIED
        case errors.OutcomeUnknown():
            return CallOutcome.UNKNOWN
        case errors.Refused():
            return CallOutcome.REFUSED
    return CallOutcome.UNAVAILABLE


def _key(write: WriteRecord) -> int | str:
    return write.organization or write.token


async def _until_done(do: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat ``do``, a preparation of the load, until it is acknowledged."""
    while True:
        try:
            return await do()
        except errors.Conflict:
            return None  # An earlier attempt took effect, and its answer was lost.
        # NotFound: the machine that answers doesn't have the organization yet.
        except (errors.Unavailable, errors.NotFound):
            await asyncio.sleep(_AGAIN_S)
