"""The authority on one machine: it passes each call to the part that answers it.

authority = await Authority.open(Path("tkdb.db"), Profile("tkdb.example", seal_keys), clock=clock, random=os.urandom)
minted = await authority.answer(api.Mint(organization="acme"), caller)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from tkdb import api
from tkdb.authority.clock import Clock
from tkdb.authority.decisions import Decisions
from tkdb.authority.genesis import begin
from tkdb.authority.methods import Methods, Profile, signer_of
from tkdb.authority.publisher import Alone, Publisher
from tkdb.authority.view import View
from tkdb.authority.writer import Writer
from tkdb.database.database import Database
from tkdb.errors import Overloaded, TkdbError, Unavailable
from tkdb.ports import Caller
from tkdb.rate_limit import RateLimiter

PURGE_EVERY_S: Final = 3600

# Anyone who holds a token may revoke it: at most this many branches of one lineage at once, and one more after each
# pause.
OWN_BURST: Final = 8
OWN_EVERY_MS: Final = 10_000

NO_JOURNAL: Final = bytes(16)
BEHIND_RETRY_MS: Final = 250


class Authority:
    """Mints, verifies and revokes, with one journal. Open it with ``Authority.open``."""

    def __init__(
        self, served: View, publisher: Publisher, clock: Clock, random: Callable[[int], bytes], profile: Profile
    ) -> None:
        self._served = served
        self._state = served.state
        self._clock = clock
        self._profile = profile
        decisions = Decisions(
            served.keyring, profile.seal_keys, random, profile.max_lifetime_s, profile.max_revocations
        )
        self._writer = Writer(served, decisions, publisher, clock)
        self._methods = Methods(profile, served.state, served.keyring, clock, random)
        self._own_rate = RateLimiter(burst=OWN_BURST, every_ms=OWN_EVERY_MS, monotonic_ms=clock.monotonic_ms)
        self._draining = asyncio.Event()
        self._maintenance = asyncio.create_task(self._maintain())

    @classmethod
    async def open(cls, path: Path | str, profile: Profile, *, clock: Clock, random: Callable[[int], bytes]) -> Self:
        """Open an authority that stands alone, with the journal at ``path``, or begin a journal there.

        Args:
            path: the database's file, or ``":memory:"`` for a new database that isn't kept.
            profile: the authority's identity and secrets.
            clock: the machine's clocks.
            random: returns ``n`` random bytes.

        Raises:
            ConfigurationError: the database belongs to another authority.
            StoreError, Unavailable: the database can't be used. The message gives the cause.
        """
        database = await Database.open(path)
        try:
            state = await begin(database, profile.name, profile.seal_keys, clock, random)
            served = View(database, state, profile.seal_keys)
            return cls(served, Alone(served), clock, random, profile)
        except BaseException:
            await database.close()
            raise

    @property
    def name(self) -> str:
        """The authority's name."""
        return self._profile.name

    @property
    def journal(self) -> bytes:
        """The journal's id, 16 bytes; zeros if there is no journal yet."""
        return self._state.journal or NO_JOURNAL

    @property
    def position(self) -> int:
        """The last entry that is served."""
        return self._state.head.seq

    def replay_to(self, path: str) -> str | None:
        """Return None: a machine that stands alone answers every request."""
        return None

    def check_clock(self) -> None:
        """Return if this machine's clock can be trusted.

        Raises:
            Unavailable: it can't. The message gives the cause.
        """
        self._clock.steady_ms(not_before_ms=self._state.head.time_ms)

    async def come_to(self, position: int) -> None:
        """Return if this machine serves ``position``. It doesn't wait, because no other machine writes.

        Raises:
            Unavailable: it doesn't serve it.
        """
        if position > self.position:
            raise behind(position, self.position)

    def age_ms(self) -> int:
        """Return the largest possible age of this machine's data: 0, because it is the only writer."""
        return 0

    def ready(self) -> None:
        """Return if calls can be answered.

        Raises:
            Unavailable: it was closed.
        """
        if self._maintenance.done():
            raise Unavailable("the authority is closed", hint="ask another machine")

    def replicating(self) -> None:
        """Return if calls can be answered: there is no other machine.

        Raises:
            Unavailable: it was closed.
        """
        self.ready()

    def drain(self) -> None:
        """End the long polls with the data they have, now and from now on."""
        self._draining.set()

    async def ended(self) -> None:
        """Return when the authority was closed."""
        await asyncio.wait([self._maintenance])

    async def close(self) -> None:
        """Finish the writes in progress, and close the database."""
        self._maintenance.cancel()
        with suppress(asyncio.CancelledError):
            await self._maintenance
        await self._writer.settle()
        await self._served.database.close()

    async def answer(self, call: api.Call[Any], caller: Caller) -> msgspec.Struct:
        """Return the result of ``call``.

        Raises:
            TkdbError: the call fails. The class is the reason.
        """
        result = self._methods.answer(call, caller)
        if result is not None:
            return result
        match call:
            case api.Revocations():
                return await self._revocations(call)
            case api.RevokeOwn():
                return await self._revoke_own(call.token)
        return await self._writer.write(call, signer_of(caller), caller)  # type: ignore[arg-type]  # what is left writes

    async def _revocations(self, call: api.Revocations) -> api.Feed:
        """Wait for new revocations of these keys, at most ``wait_ms``, and not while draining."""
        until_ms = self._clock.monotonic_ms() + call.wait_ms
        after = call.after
        while True:
            news = self._served.news
            feed = await self._served.feed.read(after=after, kids=call.kids)
            left_ms = until_ms - self._clock.monotonic_ms()
            if feed.revocations or feed.more or left_ms <= 0 or self._draining.is_set():
                return feed
            after = feed.position
            await _first(news, self._draining, timeout_ms=left_ms)

    def status(self) -> api.StatusReport:
        """Return the status of this machine."""
        return self._methods.status()

    async def _revoke_own(self, text: str) -> api.Revoked:
        branch = self._methods.branch_to_revoke(text)
        if branch is None:
            return api.Revoked(already=True)
        wait_ms = self._own_rate.take(branch.kid + branch.nonce)
        if wait_ms:
            raise Overloaded(
                "many tokens of this lineage were revoked just now", hint="revoke the lineage", retry_after_ms=wait_ms
            )
        return api.Revoked(already=await self._writer.revoke_branch(branch))

    async def _maintain(self) -> None:
        while True:
            # If it can't be written now, it is written an hour later: only disk space depends on it.
            with suppress(TkdbError):
                await self._writer.purge()
            await asyncio.sleep(PURGE_EVERY_S)


def behind(position: int, here: int) -> Unavailable:
    """Return the error for a caller that has seen ``position``, on a machine that is only at ``here``."""
    return Unavailable(
        f"the caller has seen position {position}, and this machine is at {here}",
        hint="try again in a moment, or ask another region",
        retry_after_ms=BEHIND_RETRY_MS,
    )


async def _first(*events: asyncio.Event, timeout_ms: int) -> None:
    """Wait until one of the events is set, or the timeout passes."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
