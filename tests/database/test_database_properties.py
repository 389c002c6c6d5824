"""After any writes, memory, tables and replay agree, on this machine and on any other."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests import profiles
from tests.journal.scribe import BOTH_RING, DAY_MS, OLD_RING, START_MS, Scribe, nonce_at, snapshot
from tkdb import api
from tkdb.database.audit import audit
from tkdb.database.database import MEMORY, Database
from tkdb.journal.entry import decode_entry, encode_entry
from tkdb.journal.state import State

NAMES = ["acme", "beta", "gamma"]
names = st.sampled_from(NAMES)
times_ms = st.integers(START_MS - 100 * DAY_MS, START_MS + 20 * DAY_MS)
lifetimes_s = st.integers(1, 60 * 86_400)
tails = st.sampled_from([b"0123456789", b"9876543210"])
branches = st.sampled_from([b"b" * 16, b"c" * 16])
subjects = st.sampled_from(["ann", "bob", "\N{GREEK SMALL LETTER MU}"])


class RandomWrites(RuleBasedStateMachine):
    """A scribe that writes random valid entries."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.database: Database = self.run(Database.open(MEMORY))
        self.scribe = Scribe(self.database)
        self.replica = State()
        self.pending: list[api.Target] = []

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def teardown(self) -> None:
        self.run(self._check_agreement())
        self.run(self.database.close())
        self.loop.close()

    async def _check_agreement(self) -> None:
        """Check that a second machine, which gets all entries in one batch, and an audit agree with the scribe."""
        async with await Database.open(MEMORY) as second:
            state = State()
            await second.append(state, self.scribe.entries)
            for entry in self.scribe.entries:
                state.apply(entry)
            assert snapshot(state) == snapshot(self.scribe.state) == snapshot(await second.load())
        ring = BOTH_RING if self.scribe.ring is BOTH_RING else OLD_RING
        assert (await audit(self.database, ring, lambda entry: None)).head == state.head

    def live(self, name: str) -> bool:
        row = self.scribe.state.organization(name)
        return row is not None and not row.deleted

    @initialize()
    def begin(self) -> None:
        self.run(self.scribe.begin())

    @rule(name=names, lifetime_s=lifetimes_s)
    def create(self, name: str, lifetime_s: int) -> None:
        if self.scribe.state.organization(name) is None:
            self.run(self.scribe.create(name, lifetime_s))

    @rule(name=names, lifetime_s=lifetimes_s)
    def configure(self, name: str, lifetime_s: int) -> None:
        if self.live(name):
            self.run(self.scribe.configure(name, lifetime_s))

    @rule(name=names)
    def rotate(self, name: str) -> None:
        if self.live(name):
            self.run(self.scribe.rotate(name))

    @precondition(lambda self: self.scribe.state.head.seq > 6)
    @rule(name=names)
    def delete(self, name: str) -> None:
        if self.live(name):
            self.run(self.scribe.delete(name))

    @rule(draw=st.data(), time_ms=times_ms, tail=tails, branch=st.none() | branches)
    def target_a_token(self, draw: st.DataObject, time_ms: int, tail: bytes, branch: bytes | None) -> None:
        if self.scribe.state.keys:
            kid, nonce = draw.draw(st.sampled_from(sorted(self.scribe.state.keys))), nonce_at(time_ms, tail)
            lineage = api.Lineage(kid=kid, nonce=nonce)
            self.pending.append(lineage if branch is None else api.Branch(kid=kid, nonce=nonce, branch=branch))

    @rule(name=names, subject=st.none() | subjects, before_ms=st.none() | times_ms)
    def target_a_time(self, name: str, subject: str | None, before_ms: int | None) -> None:
        if self.live(name):
            self.pending.append(api.Before(organization=name, subject=subject, before_ms=before_ms))

    @rule(draw=st.data())
    def target_a_key(self, draw: st.DataObject) -> None:
        if self.scribe.state.keys:
            self.pending.append(api.RetireKey(kid=draw.draw(st.sampled_from(sorted(self.scribe.state.keys)))))

    @rule()
    def revoke(self) -> None:
        targets = [t for t in self.pending if not isinstance(t, api.Before) or self.live(t.organization)]
        if targets:
            self.run(self.scribe.revoke(*targets))
            self.pending = targets[-1:]

    @rule()
    def purge(self) -> None:
        self.run(self.scribe.purge())

    @rule(limit=st.integers(1, 3))
    def reseal(self, limit: int) -> None:
        if any(self.scribe.state.sealed_otherwise(BOTH_RING.first_id)):
            self.run(self.scribe.reseal(BOTH_RING, limit))

    @rule(draw=st.data())
    def restore(self, draw: st.DataObject) -> None:
        self.run(self.scribe.restore(draw.draw(st.integers(1, self.scribe.state.head.seq))))

    @rule()
    def recover(self) -> None:
        self.run(self.scribe.recover())

    @rule(ms=st.integers(-DAY_MS, 40 * DAY_MS))
    def pass_time(self, ms: int) -> None:
        self.scribe.now_ms += ms

    @invariant()
    def memory_tables_and_replica_agree(self) -> None:
        for entry in self.scribe.entries[self.replica.head.seq :]:
            self.replica.apply(decode_entry(encode_entry(entry)))
        assert snapshot(self.scribe.state) == snapshot(self.replica) == snapshot(self.run(self.database.load()))

    @invariant()
    def each_live_organization_has_one_signing_key(self) -> None:
        for name in NAMES:
            keys = self.scribe.state.keys_of(name)
            assert sum(key.state == "signing" for key in keys) == self.live(name)
            assert all(bool(key.sealed) == (key.state != "retired") for key in keys)
            assert [key.generation for key in keys] == list(range(len(keys), 0, -1))
            assert not self.live(name) or next(key.state for key in keys if key.state != "retired") == "signing"

    @invariant()
    def time_never_decreases(self) -> None:
        times = [entry.time_ms for entry in self.scribe.entries]
        assert times == sorted(times)


TestRandomWrites = RandomWrites.TestCase
TestRandomWrites.settings = settings(max_examples=profiles.CURRENT.lives, stateful_step_count=30, deadline=None)
