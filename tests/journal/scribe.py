"""A scribe: it writes a journal as an authority does, with seeded randomness and a clock that the test sets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tkdb import api
from tkdb.authority.point_in_time import differences
from tkdb.database.database import Database
from tkdb.journal.additions import (
    Created,
    Genesis,
    Made,
    Purged,
    Recovered,
    Replaced,
    Replacement,
    Resealed,
    Restored,
    Rotated,
)
from tkdb.journal.entry import Entry, Origin, link
from tkdb.journal.fold import next_generation
from tkdb.journal.rows import ChainKeyRow
from tkdb.journal.seal import ChainKey, RootKey, SealKey, SealKeys
from tkdb.journal.state import State

NAME = "tkdb.internal"
START_MS = 1_760_000_000_000
HOUR_S = 3_600
DAY_MS = 86_400_000
NO_ORIGIN = Origin()

OLD_SEAL_KEY = SealKey(b"\x01" * 32)
NEW_SEAL_KEY = SealKey(b"\x02" * 32)
OLD_RING = SealKeys([OLD_SEAL_KEY])
BOTH_RING = SealKeys([NEW_SEAL_KEY, OLD_SEAL_KEY])
NEW_RING = SealKeys([NEW_SEAL_KEY])


def nonce_at(time_ms: int, tail: bytes = b"0123456789") -> bytes:
    return time_ms.to_bytes(6, "big") + tail


def snapshot(state: State) -> dict[str, Any]:
    """Return all the data of a state, for comparison: tidy, as a machine serves it."""
    state.tidy()
    return dict(vars(state))


class Scribe:
    """Makes entries that follow ``state``, and applies them to it. It writes them to the database first, if given."""

    def __init__(self, database: Database | None = None, seed: int = 0, ring: SealKeys = OLD_RING) -> None:
        self.random = random.Random(seed)
        self.database = database
        self.ring = ring
        self.state = State()
        self.now_ms = START_MS
        self.chain_key = ChainKey(self.random.randbytes(32))
        self.entries: list[Entry] = []

    def make(self, call: api.WriteCall | None, made: Made | None = None, origin: Origin | None = None) -> Entry:
        """Return the next entry. By default, a made-up signer asks for each request."""
        body = b"" if call is None else api.encode(call)
        if origin is None:
            signer = Origin(b"S" * 16, self.state.head.seq.to_bytes(16), self.now_ms, b"s" * 64)
            origin = NO_ORIGIN if call is None else signer
        return link(self.state.head, self.chain_key, now_ms=self.now_ms, epoch=0, made=made, body=body, origin=origin)

    async def write(self, call: api.WriteCall | None, made: Made | None = None, origin: Origin | None = None) -> Entry:
        entry = self.make(call, made, origin)
        if self.database is not None:
            await self.database.append(self.state, [entry])
        self.state.apply(entry)
        self.entries.append(entry)
        return entry

    def seal_root_key(self, organization: str, kid: bytes, generation: int) -> bytes:
        key, nonce = RootKey(self.random.randbytes(32)), self.random.randbytes(12)
        return self.ring.seal_root_key(key, organization=organization, kid=kid, generation=generation, nonce=nonce)

    def seal_chain_key(self, key: ChainKey, generation: int) -> bytes:
        nonce = self.random.randbytes(12)
        return self.ring.seal_chain_key(key, journal=self.journal, generation=generation, nonce=nonce)

    async def begin(self) -> Entry:
        self.journal = self.random.randbytes(16)
        return await self.write(None, Genesis(self.journal, NAME, self.seal_chain_key(self.chain_key, 1)))

    async def create(self, name: str = "acme", max_lifetime_s: int = HOUR_S, origin: Origin | None = None) -> bytes:
        kid = self.random.randbytes(16)
        made = Created(kid, self.seal_root_key(name, kid, 1), max_lifetime_s)
        await self.write(api.CreateOrganization(name=name), made, origin)
        return kid

    async def rotate(self, name: str = "acme") -> bytes:
        kid = self.random.randbytes(16)
        made = Rotated(kid, self.seal_root_key(name, kid, next_generation(self.state, name)))
        await self.write(api.RotateKey(name=name), made)
        return kid

    async def configure(self, name: str, max_lifetime_s: int) -> Entry:
        return await self.write(api.ConfigureOrganization(name=name, max_lifetime_s=max_lifetime_s))

    async def delete(self, name: str = "acme") -> Entry:
        return await self.write(api.DeleteOrganization(name=name))

    async def revoke(self, *targets: api.Target) -> Entry:
        retired = [self.state.keys[target.kid] for target in targets if isinstance(target, api.RetireKey)]
        names = [key.organization for key in retired if key.state == "signing"]
        keys = []
        for name in dict.fromkeys(names):
            kid = self.random.randbytes(16)
            sealed = self.seal_root_key(name, kid, next_generation(self.state, name))
            keys.append(Replacement(name, kid, sealed))
        return await self.write(api.Revoke(targets=list(targets)), Replaced(keys) if keys else None)

    async def purge(self) -> Entry:
        return await self.write(None, Purged())

    async def reseal(self, ring: SealKeys = BOTH_RING, limit: int = 256) -> Entry:
        """Reseal one batch of keys. The last batch adds a new chain key."""
        self.ring = ring
        rows = list(self.state.sealed_otherwise(ring.first_id))
        keys, chain_keys = [], []
        for row in rows[:limit]:
            nonce = self.random.randbytes(12)
            if isinstance(row, ChainKeyRow):
                place = {"journal": self.journal, "generation": row.generation}
                sealed = ring.seal_chain_key(ring.unseal_chain_key(row.sealed, **place), nonce=nonce, **place)
                chain_keys.append((row.generation, sealed))
            else:
                place = {"organization": row.organization, "kid": row.kid, "generation": row.generation}
                sealed = ring.seal_root_key(ring.unseal_root_key(row.sealed, **place), nonce=nonce, **place)
                keys.append((row.kid, sealed))
        next_chain_key = None
        if len(rows) <= limit:
            self.chain_key = ChainKey(self.random.randbytes(32))
            next_chain_key = self.seal_chain_key(self.chain_key, self.state.last_generation() + 1)
        return await self.write(api.Reseal(), Resealed(keys, chain_keys, next_chain_key))

    async def restore(self, seq: int) -> Restored | None:
        """Go back to an entry. Return None if there are no differences."""
        past = State()
        for entry in self.entries[:seq]:
            past.apply(entry)
        made = differences(past, self.state)
        if made is not None:
            await self.write(api.Restore(seq=seq), made)
        return made

    async def recover(self) -> Entry:
        """Continue with a new journal id and a new chain key."""
        keys = [self.state.chain_key(generation + 1) for generation in range(self.state.last_generation())]
        unsealed = [
            self.ring.unseal_chain_key(row.sealed, journal=self.journal, generation=row.generation) for row in keys
        ]
        self.journal, self.chain_key = self.random.randbytes(16), ChainKey(self.random.randbytes(32))
        chain_keys = [(at, self.seal_chain_key(key, at)) for at, key in enumerate(unsealed, start=1)]
        next_chain_key = self.seal_chain_key(self.chain_key, self.state.last_generation() + 1)
        return await self.write(None, Recovered(self.journal, chain_keys, next_chain_key))


async def begin_journal(database: Database) -> Scribe:
    """Begin a journal with one organization, and return its scribe."""
    scribe = Scribe(database)
    await scribe.begin()
    await scribe.create("acme")
    return scribe


async def create_database(path: Path) -> None:
    """Create a database with a journal."""
    async with await Database.open(path) as database:
        await begin_journal(database)
