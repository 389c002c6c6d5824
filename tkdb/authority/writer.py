"""The only writer: it decides, appends to the journal, and answers when the write is acknowledged.

Writes that arrive while others are being acknowledged wait. They are then committed together, in one round, and each is
decided on the result of everything before it, including earlier writes of the round. The view changes only when a round
is acknowledged: a failed write leaves no trace there, and an answered write can't be lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from tkdb import api, logs
from tkdb.authority.clock import Clock
from tkdb.authority.decisions import Decision, Decisions, Write, is_timed, permit
from tkdb.authority.point_in_time import read_past
from tkdb.authority.publisher import Publisher
from tkdb.authority.view import View
from tkdb.errors import BrokenJournal, Conflict, Overloaded, StoreUnwritable, TkdbError, Unavailable
from tkdb.journal.additions import Made, Purged, decode_made
from tkdb.journal.entry import Entry, Origin, Tip, encode_entry, link
from tkdb.journal.fold import Draft, Rows, changes, horizon_ms
from tkdb.journal.rows import Forget
from tkdb.journal.seal import ChainKey
from tkdb.journal.state import State
from tkdb.ports import Caller
from tkdb.signers import ALL, Signer


@dataclass(slots=True, eq=False)
class _Request:
    """A requested write. ``outcome``: the data that was added to it, or the reason why nothing needed to be written."""

    decide: Callable[[Rows, int], Write | Decision]
    body: bytes = field(default=b"", repr=False)  # it may contain a token
    origin: Origin = field(default_factory=Origin)
    timed: bool = True
    outcome: asyncio.Future[Made | Decision | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def key(self) -> tuple[bytes, bytes]:
        """The key by which a repeated request is recognized."""
        return self.origin.signer, self.origin.request_id

    def succeed(self, outcome: Made | Decision | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # the caller may have gone


class _Round:
    """Writes that are committed together, each decided on those before it."""

    def __init__(self, state: State, chain_key: ChainKey, epoch: int) -> None:
        self.draft = Draft(state)
        self.head = state.head
        self.entries: list[Entry] = []
        self.size_bytes = 0
        self.by_request: dict[tuple[bytes, bytes], Entry] = {}
        self.outcomes: list[tuple[_Request, Made | Decision | None]] = []
        self.repeated: list[tuple[_Request, Made | None, Awaitable[None]]] = []
        self._chain_key = chain_key
        self._epoch = epoch

    def link(self, write: Write, request: _Request, now_ms: int) -> Entry:
        """Return the entry that ``write`` adds at the end of the round. It isn't added yet."""
        return link(
            self.head,
            write.chain_key or self._chain_key,
            now_ms=max(now_ms, write.not_before_ms),
            epoch=self._epoch,
            made=write.made,
            body=request.body,
            origin=request.origin,
        )

    def add(self, entry: Entry, size_bytes: int, write: Write, request: _Request) -> None:
        """Add an entry at the end."""
        for change in changes(self.draft, entry):
            self.draft.put(change)
        self.head = entry.head
        self._chain_key = write.chain_key or self._chain_key
        self.entries.append(entry)
        self.size_bytes += size_bytes
        self.by_request[request.key] = entry
        self.outcomes.append((request, write.made))


class Writer:
    """Writes one authority's journal.

    Args:
        served: the journal, and the served part of it.
        decisions: decides on signers' requests.
        publisher: acknowledges committed entries.
        clock: the machine's clocks.
    """

    def __init__(self, served: View, decisions: Decisions, publisher: Publisher, clock: Clock) -> None:
        self._served = served
        self._decisions = decisions
        self._publisher = publisher
        self._clock = clock
        self._waiting: list[_Request] = []
        self._working: asyncio.Task[None] | None = None

    async def write(self, call: api.WriteCall, signer: Signer, caller: Caller) -> msgspec.Struct:
        """Carry out a signer's request once. A repeated request id gets the first outcome again.

        Raises:
            Conflict: the signer used the request id for another request.
            Unavailable: the clock or the disk can't be used now. Nothing was changed.
            NoPrimary, Overloaded: this machine takes no writes, or not now.
            OutcomeUnknown: it is unknown whether the write is done, or will be. It is safe to repeat it.
            TkdbError: as ``Decisions.decide``.
        """
        outcome = await self._ask(
            _Request(
                decide=await self._decider(call, signer),
                body=caller.body,
                origin=Origin(signer.key.thumbprint, caller.request_id, caller.signed_ms, caller.signature),
                timed=is_timed(call),
            )
        )
        if isinstance(outcome, Decision):
            return outcome.result
        for organization, revocations in self._decisions.near_quota(self._served.state, call):
            logs.event(logging.WARNING, "revocations near quota", organization=organization, revocations=revocations)
        return self._decisions.result(self._served.state, call, outcome)

    async def revoke_branch(self, branch: api.Branch) -> bool:
        """Revoke a branch whose token the caller holds. The journal records no signer for it.

        Return True if it was already revoked, perhaps by another request while this one waited.

        Raises:
            OverQuota: as ``Decisions.revoke_branch``.
            Unavailable, NoPrimary, Overloaded, OutcomeUnknown: as ``write``.
        """
        body = api.encode(api.Revoke([branch]))
        request = _Request(lambda rows, _: self._decisions.revoke_branch(rows, branch), body, timed=False)
        return isinstance(await self._ask(request), Decision)

    async def purge(self) -> None:
        """Forget data that no longer has any effect, if there is any.

        Raises:
            Unavailable, NoPrimary, Overloaded, OutcomeUnknown: as ``write``.
        """
        done, state = Decision(api.Deleted()), self._served.state
        await self._ask(_Request(decide=lambda _, now_ms: Write(Purged()) if has_expired(state, now_ms) else done))

    async def _decider(self, call: api.WriteCall, signer: Signer) -> Callable[[Rows, int], Write | Decision]:
        if not isinstance(call, api.Restore):
            return lambda rows, now_ms: self._decisions.decide(rows, call, signer, now_ms)
        permit(signer, "restore", ALL)
        past = await read_past(self._served.database, call, self._served.state.head.seq)
        return lambda rows, _: self._decisions.restore(rows, past)

    async def settle(self) -> None:
        """Return when no write is in progress."""
        while self._working is not None:
            await asyncio.wait([self._working])

    async def _ask(self, request: _Request) -> Made | Decision | None:
        self._waiting.append(request)
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="writer")
        # A write continues if its caller is cancelled, because an acknowledged write must also be served.
        return await asyncio.shield(request.outcome)

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._round()
        finally:
            self._working = None

    async def _round(self) -> None:
        async with self._served.turn:
            requests, self._waiting = self._waiting, []
            try:
                round_ = await self._gather(requests)
            except BaseException as error:
                for request in requests:
                    request.fail(error)
                if isinstance(error, Exception):  # the callers already have it
                    return
                raise
            acknowledged = None if not round_.entries else await self._commit(round_)
        await _conclude(round_.outcomes, acknowledged)
        for request, made, named in round_.repeated:
            await _conclude([(request, made)], named)

    async def _gather(self, requests: list[_Request]) -> _Round:
        """Decide on as many requests as there is room for. The rest are the first of the next round.

        Raises:
            NoPrimary: this machine takes no writes.
        """
        round_ = _Round(self._served.state, self._served.chain_key(), self._publisher.epoch())
        for number, request in enumerate(requests):
            try:
                await self._add(round_, request)
            except Overloaded as error:
                if not round_.entries:
                    request.fail(error)
                    continue
                self._waiting = requests[number:] + self._waiting
                break
            except TkdbError as error:
                request.fail(error)
        return round_

    async def _commit(self, round_: _Round) -> Awaitable[None]:
        """Commit a round. Return an awaitable that ends when it is acknowledged."""
        try:
            await self._served.database.append(self._served.state, round_.entries)
        except Exception as error:  # noqa: BLE001 -- after any error, the end of the journal is unknown
            self._publisher.commit_failed(doubtful=not isinstance(error, StoreUnwritable))
            return _failed(error)
        return self._publisher.committed(round_.entries)

    async def _add(self, round_: _Round, request: _Request) -> None:
        if request.origin.signer:
            earlier = round_.by_request.get(request.key)
            known = earlier or await self._find(request)
            if known is not None:
                if known.body != request.body:
                    raise Conflict("this request id was used for another request", hint="use a new id for each request")
                made = decode_made(known.made)
                if earlier is None:
                    round_.repeated.append((request, made, self._publisher.repeated(known.seq)))
                else:
                    round_.outcomes.append((request, made))
                return
        now_ms = self._now_ms(round_.head, timed=request.timed)
        decision = request.decide(round_.draft, now_ms)
        if isinstance(decision, Decision):
            # An earlier write of this round may already have done it. Then it is done when the round is acknowledged.
            round_.outcomes.append((request, decision))
            return
        entry = round_.link(decision, request, now_ms)
        size_bytes = len(encode_entry(entry))
        self._publisher.require_room(len(round_.entries) + 1, round_.size_bytes + size_bytes)
        round_.add(entry, size_bytes, decision, request)

    async def _find(self, request: _Request) -> Entry | None:
        """Return the entry of an earlier request with the same id."""
        try:
            return await self._served.database.find_request(*request.key)
        except BrokenJournal:
            # The file is damaged. As after a doubtful commit, this machine can't continue to write to it.
            self._publisher.commit_failed(doubtful=True)
            raise

    def _now_ms(self, head: Tip, *, timed: bool) -> int:
        """Return the time. If the clock can't be trusted, return a time only for writes that don't depend on it.

        Raises:
            Unavailable: the clock can't be trusted.
        """
        try:
            return self._clock.steady_ms(not_before_ms=head.time_ms)
        except Unavailable:
            if timed:
                raise
            return self._clock.reckoned_ms()


async def _failed(error: Exception) -> None:
    raise error


async def _conclude(
    outcomes: list[tuple[_Request, Made | Decision | None]], acknowledged: Awaitable[None] | None
) -> None:
    """Answer the waiting callers once the commit is acknowledged."""
    try:
        if acknowledged is not None:
            await acknowledged
    except BaseException as error:
        for request, _ in outcomes:
            request.fail(error)
        if not isinstance(error, Exception):
            raise
    else:
        for request, outcome in outcomes:
            request.succeed(outcome)


def has_expired(state: State, now_ms: int) -> bool:
    """Return True if a purge at that time would forget something."""
    first = Forget(horizon_ms(state, now_ms)).first_bucket
    return any(bucket < first for bucket in state.revoked) or any(
        key.until_ms is not None and key.until_ms <= now_ms for key in state.verifying()
    )
