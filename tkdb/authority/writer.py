"""The one writer: decide, append to the journal, apply, tell who waits.

One write at a time, so that each is decided on all that came before it. What is served changes only after the
commit: a write that failed leaves no trace, one that is answered is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from tkdb import api
from tkdb.authority.clock import Clock
from tkdb.authority.decisions import SEAL_NONCE_BYTES, Decisions, Done, Write, is_timed
from tkdb.authority.keyring import Keyring
from tkdb.errors import Conflict, Unavailable
from tkdb.ports import Caller
from tkdb.signers import Signer
from tkdb.store.database import Database
from tkdb.store.feed import Feed
from tkdb.store.fold import horizon_ms
from tkdb.store.journal import Entry, Origin, check_link, link
from tkdb.store.made import Genesis, Made, Purged, decode_made
from tkdb.store.rows import Forget
from tkdb.store.seal import ChainKey, SealKeys, seal_id
from tkdb.store.state import State

EPOCH: Final = 1
"""How often the primary has changed. One machine never has another."""

P = ParamSpec("P")
T = TypeVar("T")


def _to_its_end(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a write go on when its caller is cancelled: what the disk holds must be served, too."""

    @wraps(method)
    async def shielded(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.shield(asyncio.ensure_future(method(*args, **kwargs)))

    return shielded


class Writer:
    """Owns the journal and the state: all that changes them goes through here.

    Args:
        database: the journal; open.
        state: what the journal's entries come to; the keyring and the feed follow it.
        chain_key: the key in force, under which entries are hashed.
    """

    def __init__(
        self,
        database: Database,
        state: State,
        chain_key: ChainKey,
        *,
        keyring: Keyring,
        decisions: Decisions,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._database = database
        self._state = state
        self._chain_key = chain_key
        self._keyring = keyring
        self._decisions = decisions
        self._feed = feed
        self._clock = clock
        self._turn = asyncio.Lock()
        self.news = asyncio.Event()
        """Set when the next entry is applied; then there is a new event for the one after."""

    @_to_its_end
    async def write(self, call: api.WriteCall, signer: Signer, caller: Caller) -> msgspec.Struct:
        """Carry out what a signer asked for, once: a request id that was carried out gives that outcome again.

        Raises:
            Conflict: the signer used the request id for something else.
            Unavailable: the clock or the disk can't be used now; nothing was changed.
            OutcomeUnknown: the disk failed while committing.
            TkdbError: as ``Decisions.decide``.
        """
        origin = Origin(signer.key.thumbprint, caller.request_id, caller.signed_ms, caller.signature)
        async with self._turn:
            earlier = await self._database.find_request(origin.signer, origin.request_id)
            if earlier is not None:
                if earlier.body != caller.body:
                    raise Conflict("this request id was used for another request", hint="make a new one for each")
                return self._decisions.result(call, decode_made(earlier.made))
            now_ms = self._now_ms(timed=is_timed(call))
            decision = self._decisions.decide(call, signer, now_ms)
            if isinstance(decision, Done):
                return decision.result
            await self._append(decision, caller.body, origin, now_ms)
            return self._decisions.result(call, decision.made)

    @_to_its_end
    async def revoke_branch(self, kid: bytes, nonce: bytes, branch: bytes) -> bool:
        """Revoke a branch whose token the caller presented: the journal names no signer for it.

        Returns whether it was revoked before: by another, perhaps, while this one waited.

        Raises:
            Unavailable, OutcomeUnknown: as ``write``.
        """
        revocation = api.Revoke([api.Branch(kid, nonce, branch)])
        async with self._turn:
            if self._state.is_revoked(kid + nonce, branch):
                return True
            await self._append(Write(), api.encode(revocation), Origin(), self._now_ms(timed=False))
            return False

    @_to_its_end
    async def purge(self) -> None:
        """Forget what can matter no more, if there is anything of that kind.

        Raises:
            Unavailable, OutcomeUnknown: as ``write``.
        """
        async with self._turn:
            now_ms = self._now_ms(timed=True)
            if has_expired(self._state, now_ms):
                await self._append(Write(Purged()), b"", Origin(), now_ms)

    def _now_ms(self, *, timed: bool) -> int:
        """Return the time; of a clock that can't be believed, only for what doesn't depend on it.

        Raises:
            Unavailable: it can't be believed.
        """
        try:
            return self._clock.steady_ms(not_before_ms=self._state.head.time_ms)
        except Unavailable:
            if timed:
                raise
            return self._clock.reckoned_ms()

    async def _append(self, write: Write, body: bytes, origin: Origin, now_ms: int) -> None:
        chain_key = write.chain_key or self._chain_key
        entry = link(
            self._state.head,
            chain_key,
            now_ms=max(now_ms, write.not_before_ms),
            epoch=EPOCH,
            made=write.made,
            body=body,
            origin=origin,
        )
        await self._database.append(self._state, [entry])
        self._apply(entry, chain_key)

    def _apply(self, entry: Entry, chain_key: ChainKey) -> None:
        self._state.apply(entry)
        self._chain_key = chain_key
        self._keyring.forget()
        self._feed.add(entry)
        news, self.news = self.news, asyncio.Event()
        news.set()


async def begin(
    database: Database, name: str, seal_keys: SealKeys, clock: Clock, random: Callable[[int], bytes]
) -> tuple[State, ChainKey]:
    """Return the state of a database and its chain key; of a new database, write the journal's first entry.

    Raises:
        WrongSealKey: the secrets given don't unseal the chain key, or one of the root keys.
        BrokenJournal: the last entry wasn't written by a holder of the chain key.
        StoreError, Unavailable: the database can't be read, or written.
    """
    state = await database.load()
    if state.head.seq == 0:
        journal, chain_key = random(16), ChainKey(random(32))
        sealed = seal_keys.seal_chain_key(chain_key, journal=journal, generation=1, nonce=random(SEAL_NONCE_BYTES))
        made: Made = Genesis(journal, name, sealed)
        entry = link(state.head, chain_key, now_ms=clock.reckoned_ms(), epoch=EPOCH, made=made)
        await database.append(state, [entry])
        state.apply(entry)
        return state, chain_key
    generation = state.last_generation()
    row = state.chain_keys[generation]
    chain_key = seal_keys.unseal_chain_key(row.sealed, journal=state.journal, generation=generation)
    last = (await database.entries(state.head.seq - 1, 1))[0]
    check_link(state.head._replace(seq=last.seq - 1, hash=last.previous), chain_key, last)
    keyring = Keyring(state, seal_keys)
    # A secret that is missing is missed now, and not when the first token of some organization is presented. One key
    # of each sealing secret is enough to know.
    for key in {seal_id(key.sealed): key for key in state.keys.values() if key.sealed}.values():
        keyring.unseal(key)
    return state, chain_key


def has_expired(state: State, now_ms: int) -> bool:
    """Return whether a purge at that time would forget something."""
    first = Forget(horizon_ms(state, now_ms)).first_bucket
    return any(bucket < first for bucket in state.revoked) or any(
        key.until_ms is not None and key.until_ms <= now_ms for key in state.verifying()
    )
