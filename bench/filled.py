"""A database of any size, written through the store, entry by entry, as the authority would write it.

>>> import asyncio
>>> signer = SignerSecret.generate(lambda size: bytes(range(size)))
>>> secrets = Secrets(SealKey(bytes(32)), ChainKey(bytes(32)), signer)
>>> owners = asyncio.run(fill(":memory:", "tkdb.example", secrets, organizations=3, revocations=5))
>>> [owner.organization for owner in owners]
['organization-0', 'organization-1', 'organization-2']
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tkdb import api
from tkdb.channel.envelope import prologue, signed_bytes
from tkdb.channel.keys import SignerSecret
from tkdb.database.database import Database
from tkdb.journal.additions import Created, Genesis, Made
from tkdb.journal.entry import Origin, link
from tkdb.journal.seal import ChainKey, RootKey, SealKey, SealKeys
from tkdb.journal.state import State

LIFETIME_S = 90 * 86_400
NONCES_WITHIN_MS = 89 * 86_400_000
"""The greatest age of the revoked tokens' lineages. It is short enough that no revocation is forgotten at a node's
start."""
ENTRIES_AT_ONCE = 1_000


class Secrets(NamedTuple):
    """The secrets that the database is sealed and authenticated with, and the signer of its writes."""

    seal_key: SealKey
    chain_key: ChainKey
    signer: SignerSecret


class Owner(NamedTuple):
    """An organization and its root key: enough to mint tokens."""

    organization: str
    kid: bytes
    root_key: bytes


Write = tuple[api.WriteCall | None, Made | None]


async def fill(path: Path | str, name: str, secrets: Secrets, *, organizations: int, revocations: int) -> list[Owner]:
    """Create the database of the authority ``name`` at ``path``. Return its organizations."""
    ring, now_ms = SealKeys([secrets.seal_key]), time.time_ns() // 1_000_000
    context = prologue(api.WRITE, name)
    owners = [Owner(f"organization-{index}", os.urandom(16), os.urandom(32)) for index in range(organizations)]
    state = State()
    async with await Database.open(path) as database:
        writes = _writes(name, secrets, ring, owners, revocations, now_ms)
        while some := list(islice(writes, ENTRIES_AT_ONCE)):
            entries, head = [], state.head
            for call, made in some:
                body = b"" if call is None else api.encode(call)
                origin = _origin(secrets.signer, context, now_ms, body) if body else Origin()
                entries.append(
                    link(head, secrets.chain_key, now_ms=now_ms, epoch=1, made=made, body=body, origin=origin)
                )
                head = entries[-1].head
            await database.append(state, entries)
            for entry in entries:
                state.apply(entry)
    return owners


def _origin(signer: SignerSecret, context: bytes, now_ms: int, body: bytes) -> Origin:
    request_id = os.urandom(16)
    signature = signer.sign(signed_bytes(context, now_ms, request_id, body))
    return Origin(signer.public.thumbprint, request_id, now_ms, signature)


def _writes(
    name: str, secrets: Secrets, ring: SealKeys, owners: list[Owner], revocations: int, now_ms: int
) -> Iterator[Write]:
    journal, draw = os.urandom(16), random.Random(1)
    sealed = ring.seal_chain_key(secrets.chain_key, journal=journal, generation=1, nonce=os.urandom(12))
    yield None, Genesis(journal, name, sealed)
    for organization, kid, root_key in owners:
        sealed = ring.seal_root_key(
            RootKey(root_key), organization=organization, kid=kid, generation=1, nonce=os.urandom(12)
        )
        yield api.CreateOrganization(organization), Created(kid, sealed, LIFETIME_S)
    for first in range(0, revocations, api.MAX_TARGETS):
        targets: list[api.Target] = [
            api.Lineage(
                draw.choice(owners).kid,
                (now_ms - draw.randrange(NONCES_WITHIN_MS)).to_bytes(6, "big") + draw.randbytes(10),
            )
            for _ in range(min(api.MAX_TARGETS, revocations - first))
        ]
        yield api.Revoke(targets), None
