"""Recovery: a cluster continues from a journal that was found, at a new path, with one swap of the head.

The journal is written again from its entries, so neither the backup nor the volume that it comes from is changed. It is
backed up, and restored once as a proof, before any part of the cluster is touched.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tkdb import errors
from tkdb.database.database import Database
from tkdb.journal.additions import Recovered
from tkdb.journal.entry import Entry, link
from tkdb.journal.seal import KEY_BYTES, NONCE_BYTES, ChainKey
from tkdb.journal.state import State
from tkdb_replication.bucket.objects import NotModified, Unknown
from tkdb_replication.bucket.paths import HEAD_KEY, fresh_base
from tkdb_replication.cluster.backups import back_up, scratch
from tkdb_replication.cluster.cluster import Cluster
from tkdb_replication.cluster.head_object import TIMEOUT_MS, Absent, Damaged, Sound, describe, put_head, unavailable
from tkdb_replication.cluster.survey import Candidate, Renew, Resume, Survey
from tkdb_replication.protocol.head import NOBODY, Checkpoint, Head, first_head

KEPT_HEADS: Final = "heads/"
"""The prefix of replaced heads, each named by its time."""

LOOK_MS: Final = 500
MARGIN_MS: Final = 1_000
_ID_BYTES: Final = 16
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """A cluster that continues.

    Attributes:
        head: the new head.
        kept: the key of the copy of the old head, if there is one.
    """

    head: Head
    kept: str | None


async def check_idle(cluster: Cluster, survey: Survey, *, lease_ms: int) -> None:
    """Watch the head for one lease, and check that no machine swaps it.

    Args:
        cluster: the bucket.
        survey: the state of the bucket.
        lease_ms: the time to watch, if the head doesn't contain one.

    Raises:
        Conflict: the head changed: there is a running primary.
        Unavailable: the object store gave no answer.
    """
    there = survey.there
    if isinstance(there, Absent):
        return
    if isinstance(there, Sound):
        lease_ms = there.head.lease_ms
    for _ in range((lease_ms + MARGIN_MS) // LOOK_MS + 1):
        outcome = await cluster.objects.get(HEAD_KEY, if_none_match=there.etag, timeout_ms=TIMEOUT_MS)
        if isinstance(outcome, Unknown):
            raise unavailable(outcome)
        if not isinstance(outcome, NotModified):
            who = f" ({describe(there.head)})" if isinstance(there, Sound) else ""
            raise errors.Conflict(
                f"a primary is running: the head was swapped just now{who}",
                hint="stop every machine first; if a primary only needs another base, use `tkdb promote`",
            )
        await asyncio.sleep(LOOK_MS / 1000)


async def resume(cluster: Cluster, survey: Survey, plan: Resume, near: Path) -> RecoveryResult:
    """Give the head a new base with everything that the head names. The same journal continues, one epoch later.

    Raises:
        Conflict: the head was swapped in the meantime.
        RestoreFailed, BrokenJournal: the new backup isn't as expected. Nothing was changed.
        Unavailable, StoreUnwritable: the object store or the disk can't be used now. Nothing was changed.
        OutcomeUnknown: it is unknown whether the head was put.
    """
    async with _rewritten(cluster, plan.candidate, plan.place, near) as (path, database, state):
        await _append(database, state, plan.entries)
        head = msgspec.structs.replace(
            plan.head,
            rev=plan.head.rev + 1,
            attempt=cluster.random_bytes(_ID_BYTES),
            epoch=plan.head.epoch + 1,
            owner=NOBODY,
            machine="",
            region="",
            base=fresh_base(plan.head.epoch + 1, random_bytes=cluster.random_bytes),
        )
        await _back_up(cluster, path, state, head.base)
        await put_head(cluster.objects, head, cluster.head_keys, over=survey.there)
    return RecoveryResult(head, None)


async def renew(cluster: Cluster, survey: Survey, plan: Renew, near: Path) -> RecoveryResult:
    """Continue as a new journal from the candidate's end. An entry records it, and every reader of the old journal
    detects it.

    Raises:
        Conflict, RestoreFailed, BrokenJournal, Unavailable, StoreUnwritable, OutcomeUnknown: as ``resume``.
        WrongSealKey: a chain key needs a sealing secret that isn't given.
    """
    end, epoch = plan.candidate.audited.end, survey.last_epoch + 1
    async with _rewritten(cluster, plan.candidate, Checkpoint(end.seq, end.hash), near) as (path, database, state):
        await _append(database, state, (recovered_entry(cluster, state, now_ms=survey.now_ms, epoch=epoch),))
        head = first_head(
            journal=state.journal,
            attempt=cluster.random_bytes(_ID_BYTES),
            owner=NOBODY,
            base=fresh_base(epoch, random_bytes=cluster.random_bytes),
            place=Checkpoint(state.head.seq, state.head.hash),
            epoch=epoch,
        )
        if isinstance(survey.there, Sound):
            head = msgspec.structs.replace(head, rev=survey.there.head.rev + 1, lease_ms=survey.there.head.lease_ms)
        await _back_up(cluster, path, state, head.base)
        kept = await _keep(cluster, survey)
        await put_head(cluster.objects, head, cluster.head_keys, over=survey.there)
    return RecoveryResult(head, kept)


def recovered_entry(cluster: Cluster, state: State, *, now_ms: int, epoch: int) -> Entry:
    """Return the entry that turns ``state`` into a new journal, with a new id and a new chain key.

    Raises:
        WrongSealKey, BrokenJournal: a chain key can't be unsealed.
    """
    seal, journal = cluster.seal_keys, cluster.random_bytes(_ID_BYTES)

    def sealed(key: ChainKey, generation: int) -> bytes:
        nonce = cluster.random_bytes(NONCE_BYTES)
        return seal.seal_chain_key(key, journal=journal, generation=generation, nonce=nonce)

    chain_keys = [
        (row.generation, seal.unseal_chain_key(row.sealed, journal=state.journal, generation=row.generation))
        for row in state.chain_keys.values()
    ]
    chain_key = ChainKey(cluster.random_bytes(KEY_BYTES))
    made = Recovered(
        journal,
        [(generation, sealed(key, generation)) for generation, key in chain_keys],
        sealed(chain_key, state.last_generation() + 1),
    )
    return link(state.head, chain_key, now_ms=now_ms, epoch=epoch, made=made)


@asynccontextmanager
async def _rewritten(
    cluster: Cluster, candidate: Candidate, through: Checkpoint, near: Path
) -> AsyncIterator[tuple[Path, Database, State]]:
    """Yield a new database with the candidate's entries up to ``through``, and its state."""
    with scratch(near) as folder:
        source, path = Path(candidate.source), folder / "tkdb.db"
        if candidate.backup is not None:
            source = folder / "restored.db"
            await cluster.restore(candidate.source, source, backup_bytes=candidate.backup.size_bytes)
        async with (
            await Database.open(source, read_only=True) as old,
            await Database.open(path, checkpoints=False) as new,
        ):
            state = State()
            while state.head.seq < through.seq:
                limit = min(_PAGE, through.seq - state.head.seq)
                if not (entries := await old.entries(state.head.seq, limit)):
                    break
                await _append(new, state, entries)
            if Checkpoint(state.head.seq, state.head.hash) != through:
                raise errors.BrokenJournal(f"{candidate.source} has changed since it was examined", hint="try again")
            yield path, new, state


async def _append(database: Database, state: State, entries: tuple[Entry, ...] | list[Entry]) -> None:
    await database.append(state, entries)
    for entry in entries:
        state.apply(entry)


async def _back_up(cluster: Cluster, path: Path, state: State, base: str) -> None:
    await back_up(cluster.program, cluster.bucket, path, base, random_bytes=cluster.random_bytes)
    await cluster.prove(base, state.head, path, path.with_name("proof.db"))


async def _keep(cluster: Cluster, survey: Survey) -> str | None:
    """Store a copy of the object at the head's key. Return the copy's key."""
    there = survey.there
    if isinstance(there, Absent):
        return None
    time = datetime.fromtimestamp(survey.now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    what = "damaged" if isinstance(there, Damaged) else "replaced"
    key = f"{KEPT_HEADS}{what}-{time}-{hashlib.sha256(there.body).hexdigest()[:8]}"
    outcome = await cluster.objects.put(key, there.body, timeout_ms=TIMEOUT_MS)
    if isinstance(outcome, Unknown):
        raise unavailable(outcome)
    return key
