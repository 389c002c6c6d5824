"""The node: one machine of an authority whose machines share a bucket.

    node = await Node.open(path, profile, bucket, ProtocolSettings(machine="m-1a2b", region="syd"), clock=clock, ...)
    await node.answer(api.Verify([text]), caller)

It answers only while it can prove that its data is fresh enough, and takes writes only while it is primary. Each answer
carries the largest possible age of its data.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from tkdb import api, errors, logs
from tkdb.authority.clock import Clock
from tkdb.authority.decisions import permit
from tkdb.authority.genesis import check
from tkdb.authority.methods import Profile, signer_of
from tkdb.authority.service import Authority, behind
from tkdb.authority.view import View
from tkdb.bootstrap import profile_of, system_clock
from tkdb.database.database import Database
from tkdb.journal.state import State
from tkdb.net.backoff import Backoff
from tkdb.ports import UNKNOWN_AGE_MS, Caller
from tkdb.settings import Settings as Configuration
from tkdb.signers import ALL
from tkdb_replication.bucket.conformance import check_store
from tkdb_replication.bucket.s3 import S3Objects
from tkdb_replication.bucket.settings import Bucket
from tkdb_replication.litestream.binary import Program
from tkdb_replication.node.driver import Driver
from tkdb_replication.node.journal_steps import DAMAGED, Steps
from tkdb_replication.node.replicator import Replicator
from tkdb_replication.node.volume_file import VolumeFile
from tkdb_replication.protocol.head import HeadKeys
from tkdb_replication.protocol.settings import ProtocolSettings
from tkdb_replication.protocol.state_machine import Role, StateMachine

LEAVE_S: Final = 3.0
"""The longest time for which a primary that shuts down waits for its handover."""
COME_TO_MS: Final = 1_000
"""The longest time for which a caller waits until this machine has the position that the caller has seen."""
IDLE_POLL_MS: Final = 3_000
NO_NAME: Final = "local"
"""The name of a machine whose name isn't set."""
_OWNER_BYTES: Final = 16
_PROBE_CONNECTIONS: Final = 32
_PROBE_AGAIN: Final = Backoff(base_ms=500, cap_ms=30_000)


class Node:
    """One machine of the authority. Open it with ``Node.open``."""

    def __init__(
        self, authority: Authority, served: View, driver: Driver, fit: asyncio.Future[None], clock: Clock
    ) -> None:
        self._authority = authority
        self._served = served
        self._driver = driver
        self._machine = driver.machine
        self._fit = fit
        self._clock = clock
        self._leaving: asyncio.Task[None] | None = None
        self._cleanup = AsyncExitStack()

    @classmethod
    async def open(
        cls,
        path: Path,
        profile: Profile,
        bucket: Bucket,
        settings: ProtocolSettings,
        *,
        clock: Clock,
        random: Callable[[int], bytes],
    ) -> Self:
        """Open the machine whose database is at ``path``. A new machine's database is restored from the bucket.

        It returns before the machine can serve; ``ready`` shows when it can.

        Args:
            path: the database's file. The machine's other file is next to it.
            profile: the authority's identity and secrets.
            bucket: the bucket that the machines share.
            settings: this machine's rank and times.
            clock: the machine's clocks.
            random: returns ``n`` random bytes.

        Raises:
            ConfigurationError: Litestream is missing, or the database belongs to another authority.
            StoreError, Unavailable: the database can't be used. The message gives the cause.
        """
        program = await Program.find()
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(await Database.open(path, set_aside=DAMAGED))
            state = await _load(database, profile)
            volume = VolumeFile(path)
            machine = StateMachine(
                settings,
                HeadKeys(profile.seal_keys.keys),
                volume.read(journal=state.journal or None),
                owner=random(_OWNER_BYTES),
                random=random,
            )
            objects = await stack.enter_async_context(S3Objects(bucket, now_ms=clock.wall_ms))
            served = View(database, state, profile.seal_keys)
            fit = asyncio.ensure_future(_check_store(bucket, clock, random))
            replicator = Replicator(program, bucket, database, path, random_bytes=random, fit=fit)
            steps = Steps(served, path, name=profile.name, seal_keys=profile.seal_keys, program=program, bucket=bucket)
            driver = Driver(machine, objects, steps, replicator, volume, clock)
            node = cls(Authority(served, driver, clock, random, profile), served, driver, fit, clock)
            node._cleanup = stack.pop_all()
        driver.start()
        return node

    @property
    def name(self) -> str:
        """The authority's name."""
        return self._authority.name

    @property
    def journal(self) -> bytes:
        """The journal's id, 16 bytes; zeros if there is no journal yet."""
        return self._authority.journal

    @property
    def position(self) -> int:
        """The last entry that is served because a head names it; 0 if there is none."""
        return self._driver.shown.seq if self._driver.shown else 0

    def age_ms(self) -> int:
        """Return the largest possible age of this machine's data."""
        age_ms = self._machine.age_ms(self._clock.monotonic_ms())
        return UNKNOWN_AGE_MS if age_ms is None else age_ms

    def ready(self) -> None:
        """Return if calls can be answered.

        Raises:
            StaleAuthority: this machine can't prove that its data is fresh enough.
            StoreError: the bucket's head isn't valid.
            Unavailable: the machine was closed.
        """
        # Health checks of a proxy don't count as use: the slow reads of an idle machine are fresh enough for them.
        try:
            self._machine.require_fresh(self._clock.monotonic_ms())
        except errors.StaleAuthority as error:
            if self._machine.fault is not None:
                raise self._machine.fault from None
            if not self._driver.trouble:
                raise
            raise errors.StaleAuthority(f"{error.message}; {self._driver.trouble}", hint=error.hint) from None
        self._authority.ready()

    def replicating(self) -> None:
        """Return if replication works.

        That is: there is a primary, this machine follows it and knows the time, and as primary it keeps its backup up
        to date.

        Raises:
            StaleAuthority, StoreError: this machine doesn't follow the head.
            NoPrimary: there is no primary.
            Unavailable: another cause. The message gives it.
        """
        self.ready()
        self.check_clock()
        if self._driver.trouble:
            raise errors.Unavailable(self._driver.trouble, hint="see the log of the machine")
        if self._machine.primary is None:
            raise errors.NoPrimary("no machine is primary, so writes fail", hint="run `tkdb status` for details")
        unsynced_ms = self._machine.unsynced_ms(self._clock.monotonic_ms())
        if unsynced_ms > self._machine.settings.sync_ms:
            raise errors.Unavailable(
                f"the backup hasn't been updated for {unsynced_ms // 1000} s",
                hint="look for Litestream's lines in the log of the machine",
            )

    def replay_to(self, path: str) -> str | None:
        """Return the machine to which a request to ``path`` must be replayed, or None if this machine answers it."""
        if path not in api.WRITING_PATHS or self._machine.role is Role.PRIMARY:
            return None
        primary = self._machine.primary
        return None if primary == self._machine.settings.machine else primary

    def check_clock(self) -> None:
        """Return if this machine's clock can be trusted.

        Raises:
            Unavailable: it can't. The message gives the cause.
        """
        self._authority.check_clock()

    async def come_to(self, position: int) -> None:
        """Return once this machine serves ``position``.

        Raises:
            Unavailable: it doesn't within ``COME_TO_MS``.
        """
        self._driver.asked()
        until_ms = self._clock.monotonic_ms() + COME_TO_MS
        while position > self.position:
            left_ms = until_ms - self._clock.monotonic_ms()
            if left_ms <= 0:
                raise behind(position, self.position)
            await self._driver.wait_news(left_ms)

    async def answer(self, call: api.Call[Any], caller: Caller) -> msgspec.Struct:
        """Return the result of ``call``.

        Raises:
            StaleAuthority: this machine can't prove that its data is fresh enough.
            NoPrimary: the call writes, and this machine isn't primary.
            TkdbError: the call fails. The class says why.
        """
        match call:
            case api.Status():
                self._driver.asked()
                return self._status()
            case api.HandOver(machine):
                permit(signer_of(caller), "promote", ALL)
                # The turn keeps a commit from coming between its permission and its publication.
                async with self._served.turn:
                    handed_over = self._driver.hand_over(machine)
                await handed_over
                return api.HandedOver(machine)
            case api.TakeOver():
                permit(signer_of(caller), "promote", ALL)
                await self._driver.take_over()
                return api.TakenOver(self._machine.settings.machine, self._machine.epoch)
        self._driver.asked()
        asked_ms = self._clock.monotonic_ms()
        self._machine.require_fresh(asked_ms)
        result = await self._authority.answer(call, caller)
        if not isinstance(result, api.Verified):
            return result
        missing = [_misses_a_key(each) for each in result.results]
        if not any(missing) or self._has_data_of(asked_ms):
            return result
        if not all(missing):  # One caller's unknown key must not hold back the results of the others.
            return api.Verified(
                [api.Unsure() if missed else each for each, missed in zip(result.results, missing, strict=True)]
            )
        return await self._authority.answer(call, caller) if await self._read_since(asked_ms) else result

    def _has_data_of(self, asked_ms: int) -> bool:
        """Return True if the served data is from ``asked_ms`` or later."""
        now_ms = self._clock.monotonic_ms()
        age_ms = self._machine.age_ms(now_ms)
        return self._machine.role is Role.PRIMARY or (age_ms is not None and now_ms - age_ms >= asked_ms)

    async def _read_since(self, asked_ms: int) -> bool:
        """Wait until the served data is from ``asked_ms`` or later. Return True if the position changed.

        Raises:
            Unavailable: that doesn't happen within ``COME_TO_MS``.
        """
        position, until_ms = self.position, self._clock.monotonic_ms() + COME_TO_MS
        while True:
            now_ms = self._clock.monotonic_ms()
            if self._has_data_of(asked_ms):
                return self.position != position
            if now_ms >= until_ms:
                raise errors.Unavailable(
                    "this machine doesn't know the key and couldn't check whether it is new",
                    hint="try again, or ask another region",
                )
            await self._driver.wait_news(until_ms - now_ms)

    def drain(self) -> None:
        """End the long polls and stop leading. Another machine takes over while this one still answers reads."""
        self._authority.drain()
        self._leaving = asyncio.create_task(self._leave(), name="leaving")

    async def ended(self) -> None:
        """Return when the node was closed.

        Raises:
            UnfitObjectStore: the object store doesn't honour the conditions that a lease needs.
            TkdbError: this process can't continue. A new one may.
        """
        ended = asyncio.ensure_future(self._driver.ended())
        await asyncio.wait({ended, self._fit}, return_when=asyncio.FIRST_COMPLETED)
        if self._fit.done():
            self._fit.result()
        await ended

    async def close(self) -> None:
        """Hand over, and close the database."""
        self._fit.cancel()
        await asyncio.wait([self._fit])
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await (self._leaving or self._leave())
        await self._driver.stop()
        await self._authority.close()
        await self._cleanup.aclose()

    async def _leave(self) -> None:
        async with self._served.turn:
            left = self._driver.leave()
        with suppress(errors.TkdbError):  # then the lease runs out, as after a crash
            await left

    def _status(self) -> api.StatusReport:
        machine, now_ms = self._machine, self._clock.monotonic_ms()
        try:
            self.ready()
            fault = ""
        except errors.TkdbError as error:
            fault = str(error)
        return msgspec.structs.replace(
            self._authority.status(),
            role="primary" if machine.role is Role.PRIMARY else "replica",
            position=self.position,
            age_ms=machine.age_ms(now_ms),
            fault=fault,
            cluster=self._cluster(now_ms),
        )

    def _cluster(self, now_ms: int) -> api.Cluster | None:
        head, primary = self._machine.head, self._machine.primary
        if head is None:
            return None
        return api.Cluster(
            epoch=head.epoch,
            rev=head.rev,
            seq=head.seq,
            primary=primary or "",
            region=head.region if primary else "",
            lease_ms=head.lease_ms,
            unchanged_ms=self._machine.unchanged_ms,
            read_ms=self._machine.read_ms(now_ms),
            bound_ms=self._machine.settings.bound_ms,
        )


async def _load(database: Database, profile: Profile) -> State:
    """Return the state of this machine's own journal. A damaged journal is moved aside: the bucket has a better one."""
    try:
        state = await database.load()
        if state.head.seq:
            await check(database, state, profile.name, profile.seal_keys)
    except errors.BrokenJournal as error:
        aside = await database.set_aside(DAMAGED)
        logs.event(logging.ERROR, "journal damaged", why=error.message, kept_at=str(aside))
        return State()
    return state


async def open_node(configuration: Configuration, bucket: Bucket) -> Node:
    """Open the machine that ``configuration`` describes, with the system's clocks and randomness.

    Raises:
        ConfigurationError: it has no name or no file, and as ``Node.open``.
        StoreError, Unavailable: as ``Node.open``.
    """
    if configuration.machine == NO_NAME:
        raise errors.ConfigurationError(
            "with a bucket, each machine needs a unique name", hint="set TKDB_MACHINE to a different name on each"
        )
    return await Node.open(
        Path(configuration.database),
        profile_of(configuration),
        bucket,
        settings_of(configuration),
        clock=system_clock(),
        random=os.urandom,
    )


def settings_of(configuration: Configuration) -> ProtocolSettings:
    """Return a machine's rank and times."""
    order = configuration.primary_regions
    return ProtocolSettings(
        machine=configuration.machine,
        region=configuration.region,
        rank=order.index(configuration.region) if configuration.region in order else len(order),
        automatic=configuration.automatic_promotion,
        bound_ms=configuration.bound_ms,
        lease_ms=configuration.lease_ms,
        # Short enough that the data of an idle machine is still within the bound when a caller comes.
        idle_poll_ms=min(IDLE_POLL_MS, configuration.bound_ms // 2, configuration.lease_ms // 3),
    )


def _misses_a_key(result: api.Valid | api.Invalid | api.Unsure) -> bool:
    """Return True if a token was denied because of a key that may be too new for this machine to know."""
    return isinstance(result, api.Invalid) and result.reason is errors.Reason.UNKNOWN_KEY


async def _check_store(bucket: Bucket, clock: Clock, random: Callable[[int], bytes]) -> None:
    """Return once the object store has been seen to honour conditional writes.

    Raises:
        UnfitObjectStore: it doesn't honour them.
    """
    retry = 0
    while True:
        try:
            # The check has separate connections, so that reads of the head don't wait for it.
            async with S3Objects(bucket, now_ms=clock.wall_ms, connections=_PROBE_CONNECTIONS) as objects:
                return await check_store(objects, random_bytes=random)
        except errors.Unavailable as error:
            logs.event(logging.WARNING, "object store unchecked", why=error.message)
        await asyncio.sleep(_PROBE_AGAIN.wait_ms(retry, jitter=random(1)[0] / 256) / 1000)
        retry += 1
