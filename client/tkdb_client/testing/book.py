"""The authority itself: its methods, with a journal in a list.

All decisions are the real authority's (`tkdb.authority`). Rounds, disks and other machines are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from tkdb import api, errors
from tkdb.authority.clock import Clock
from tkdb.authority.decisions import Decision, Decisions, permit
from tkdb.authority.keyring import Keyring
from tkdb.authority.methods import Methods, Profile, signer_of
from tkdb.authority.point_in_time import read_past
from tkdb.journal.additions import Genesis, decode_made
from tkdb.journal.entry import Entry, Origin, link
from tkdb.journal.feed import Feed
from tkdb.journal.seal import KEY_BYTES, NONCE_BYTES, ChainKey, SealKey, SealKeys
from tkdb.journal.state import State
from tkdb.ports import Caller
from tkdb.signers import ALL, Signer

T = TypeVar("T")


class Book:
    """A journal, its fold, and the methods that read and write it. Only one thread at a time may use it.

    Args:
        name: the authority's name.
        clock: its clocks.
        random: returns ``n`` random bytes.
    """

    def __init__(self, name: str, clock: Clock, random: Callable[[int], bytes]) -> None:
        self.state = State()
        self._clock = clock
        self._entries: list[Entry] = []
        self._by_request: dict[tuple[bytes, bytes], Entry] = {}
        seal_keys = SealKeys([SealKey(random(KEY_BYTES))])
        profile = Profile(name, seal_keys)
        self._keyring = Keyring(self.state, seal_keys)
        self._feed = Feed(self, self.state)
        self._decisions = Decisions(self._keyring, seal_keys, random, profile.max_lifetime_s, profile.max_revocations)
        self._methods = Methods(profile, self.state, self._keyring, clock, random)
        self._chain_key = ChainKey(random(KEY_BYTES))
        journal = random(16)
        sealed = seal_keys.seal_chain_key(self._chain_key, journal=journal, generation=1, nonce=random(NONCE_BYTES))
        self._append(
            link(self.state.head, self._chain_key, now_ms=self._now_ms, epoch=1, made=Genesis(journal, name, sealed))
        )

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """As the database's."""
        return self._entries[after : after + limit]

    def answer(self, call: api.Call[Any], caller: Caller) -> msgspec.Struct:
        """Return the result of ``call``. A long poll returns the current data.

        Raises:
            TkdbError: the call fails. The class is the reason.
        """
        result = self._methods.answer(call, caller)
        if result is not None:
            return result
        match call:
            case api.Revocations():
                return _at_once(self._feed.read(after=call.after, kids=call.kids))
            case api.RevokeOwn():
                return self._revoke_own(call.token)
        return self._write(call, signer_of(caller), caller)  # type: ignore[arg-type]  # what is left writes

    @property
    def _now_ms(self) -> int:
        return self._clock.reckoned_ms()

    def _revoke_own(self, text: str) -> api.Revoked:
        branch = self._methods.branch_to_revoke(text)
        if branch is None or isinstance(self._decisions.revoke_branch(self.state, branch), Decision):
            return api.Revoked(already=True)
        body = api.encode(api.Revoke([branch]))
        self._append(link(self.state.head, self._chain_key, now_ms=self._now_ms, epoch=1, body=body))
        return api.Revoked(already=False)

    def _write(self, call: api.WriteCall, signer: Signer, caller: Caller) -> msgspec.Struct:
        origin = Origin(signer.key.thumbprint, caller.request_id, caller.signed_ms, caller.signature)
        known = self._by_request.get((origin.signer, origin.request_id))
        if known is not None:
            if known.body != caller.body:
                raise errors.Conflict(
                    "this request id was used for another request", hint="use a new id for each request"
                )
            return self._decisions.result(self.state, call, decode_made(known.made))
        now_ms = self._now_ms
        if isinstance(call, api.Restore):
            permit(signer, "restore", ALL)
            decision = self._decisions.restore(self.state, _at_once(read_past(self, call, self.state.head.seq)))
        else:
            decision = self._decisions.decide(self.state, call, signer, now_ms)
        if isinstance(decision, Decision):
            return decision.result
        self._chain_key = decision.chain_key or self._chain_key
        entry = link(
            self.state.head,
            self._chain_key,
            now_ms=max(now_ms, decision.not_before_ms),
            epoch=1,
            made=decision.made,
            body=caller.body,
            origin=origin,
        )
        self._append(entry)
        self._by_request[origin.signer, origin.request_id] = entry
        return self._decisions.result(self.state, call, decision.made)

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.state.apply(entry)
        self.state.tidy()
        self._keyring.forget()
        self._feed.add(entry)


def _at_once(steps: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits, because the journal is in memory."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a coroutine waited for data in memory")
